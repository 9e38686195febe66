"""`mcp-claims demo`: three agents see one event, one acts, it is killed, and another takes over, for real.

Each agent is a stdio server process of its own with an MCP client of its own, as a host would start it.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp_types import Implementation, TextContent
from rich.console import Console
from rich.markup import escape
from rich.table import Table

EVENT = "vercel/next.js#4521:checks_failed"
_AGENTS = ("ada", "ben", "cleo")


@dataclass
class Agent:
    """One agent: its name, its client, and the PID of its server."""

    name: str
    client: Client
    pid: int

    async def call(self, tool: str, **arguments: object) -> tuple[dict[str, Any], str]:
        """Call *tool* about the event; return the structured answer and its text."""
        result = await self.client.call_tool(tool, {"key": EVENT, **arguments})
        words = "".join(part.text for part in result.content if isinstance(part, TextContent))
        return result.structured_content or {}, words


def demo() -> int:
    """Run the demo; return 0 only if exactly one agent acted and the takeover happened."""
    console = Console(highlight=False)
    # Long lines are for whoever reads the pipe to fold.
    console.soft_wrap = not console.is_terminal
    held = False
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-claims-demo-") as directory:
            held = anyio.run(_play, console, Path(directory) / "claims")
    except* SystemExit:
        # What rich makes of a reader that has gone, as in `mcp-claims demo | head`.
        held = False
    return 0 if held else 1


async def _play(console: Console, directory: Path) -> bool:
    console.print(f"Three agents, each with an MCP server of its own, see one event: [bold]{EVENT}[/]\n")
    async with AsyncExitStack() as servers:
        agents = [await _start(servers, name, directory) for name in _AGENTS]
        answers: dict[str, tuple[dict[str, Any], str]] = {}

        async def ask(agent: Agent) -> None:
            answers[agent.name] = await agent.call("try_claim", note=f"{agent.name} fixes the build")

        async with anyio.create_task_group() as together:
            for agent in agents:
                together.start_soon(ask, agent)
        _show(console, "All three call try_claim at once", answers)
        winners = [agent for agent in agents if answers[agent.name][0].get("claimed")]
        losers = [agent for agent in agents if agent not in winners]
        if len(winners) != 1 or any(answers[loser.name][0].get("status") != "held" for loser in losers):
            console.print("[bold red]FAILED:[/] it is not exactly one that acts.")
            return False

        winner, heir, third = winners[0], losers[0], losers[1]
        console.print(f"Exactly one acts: [bold]{winner.name}[/]. Now its server is killed (SIGKILL), claim and all.\n")
        os.kill(winner.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        asked = time.monotonic()
        inherited = await heir.call("try_claim", note=f"{heir.name} takes over")
        # A machine under load may take a moment to let the killed process die.
        while not inherited[0].get("claimed") and time.monotonic() - asked < 1:
            inherited = await heir.call("try_claim", note=f"{heir.name} takes over")
        took = time.monotonic() - asked
        refused = await third.call("is_claimed_by_other")
        _show(console, "The others ask again", {heir.name: inherited, third.name: refused})
        if not (inherited[0].get("status") == "acquired" and "taken_over_from" in inherited[0]):
            console.print("[bold red]FAILED:[/] the claim of a dead session was not taken over.")
            return False
        console.print(f"[bold]{heir.name}[/] took over {took * 1000:.0f} ms after asking, not after the TTL.\n")

        released = await heir.call("release", outcome="done", note="fixed in #4530")
        late = await third.call("try_claim")
        _show(console, "It is done; the third asks again", {heir.name: released, third.name: late})
        if not (refused[0].get("claimed_by_other") and released[0].get("released") and late[0].get("status") == "done"):
            console.print("[bold red]FAILED:[/] the claim was not seen, not released, or would be done again.")
            return False
    console.print("[bold green]OK:[/] one acted, the others knew, and nobody does it again.")
    return True


async def _start(servers: AsyncExitStack, name: str, directory: Path) -> Agent:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_claims", "serve", "--dir", str(directory)], env=dict(os.environ)
    )
    client = Client(command, client_info=Implementation(name=name, version="demo"))
    await servers.enter_async_context(client)
    # Its holder name has the PID in it: `host:pid:nonce`.
    probe = await client.call_tool("try_claim", {"key": f"hello from {name}"})
    holder = str((probe.structured_content or {})["holder"])
    return Agent(name, client, int(holder.split(":")[-2]))


def _show(console: Console, title: str, answers: dict[str, tuple[dict[str, Any], str]]) -> None:
    if not console.is_terminal:
        console.print(
            f"{title}:", *(f"  {name}: {words}" for name, (_, words) in answers.items()), "", sep="\n", markup=False
        )
        return
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("agent", style="bold")
    table.add_column("acts?")
    table.add_column("what it is told")
    for name, (answer, words) in answers.items():
        acts = {True: "[green]yes[/]", False: "no", None: ""}[answer.get("claimed")]
        table.add_row(name, acts, escape(words))
    console.print(table)
    console.print()
