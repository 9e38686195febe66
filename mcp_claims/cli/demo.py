"""`mcp-claims demo`: three agents see one event, one acts, it is killed, and another takes over.

Each agent is a real stdio server, in a process of its own, with an MCP client of its own, as a host would start it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from mcp import Client, StdioServerParameters
from mcp_types import Implementation
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mcp_claims.cli.errors import NO, YES

EVENT = "vercel/next.js#4521:checks_failed@3f2a91c"
_AGENTS = ("ada", "ben", "cleo")
_TAKEOVER_TIMEOUT = 1.0  # s; on a busy machine a killed process takes a moment to die


class Answer(NamedTuple):
    """What a tool answered: the structured answer and its text."""

    structured: dict[str, Any]
    text: str


class Agent(NamedTuple):
    """An agent: its name, its client, and the PID of its server."""

    name: str
    client: Client
    pid: int

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Call *tool* about the event."""
        result = await self.client.call_tool(tool, {"key": EVENT, **arguments})
        text = "".join(part.text for part in result.content if part.type == "text")
        return Answer(result.structured_content or {}, text)


def configure_demo(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `demo`."""
    parser.epilog = "exit codes: 0 exactly one agent acted and another took over, 1 not so"
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    # In a pipe the reader wraps long lines.
    console.soft_wrap = not console.is_terminal
    succeeded = False
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-claims-demo-") as directory:
            succeeded = anyio.run(_play, console, Path(directory) / "claims")
    except* SystemExit:
        # Raised by rich where nobody reads the output any more, as in `mcp-claims demo | head`.
        succeeded = False
    return YES if succeeded else NO


async def _play(console: Console, directory: Path) -> bool:
    console.print(f"Three agents, each with an MCP server of its own, see one event: [bold]{EVENT}[/]\n")
    async with AsyncExitStack() as servers:
        agents = [await _start(servers, name, directory) for name in _AGENTS]
        answers: dict[str, Answer] = {}

        async def claim(agent: Agent) -> None:
            answers[agent.name] = await agent.call("try_claim", note=f"{agent.name} fixes the build")

        async with anyio.create_task_group() as tasks:
            for agent in agents:
                tasks.start_soon(claim, agent)
        _show(console, "All three call try_claim at once", answers)
        winners = [agent for agent in agents if answers[agent.name].structured.get("claimed")]
        losers = [agent for agent in agents if agent not in winners]
        if len(winners) != 1 or any(answers[loser.name].structured.get("status") != "held" for loser in losers):
            console.print("[bold red]FAILED:[/] not exactly one agent acts.")
            return False

        winner, heir, third = winners[0], losers[0], losers[1]
        console.print(f"Exactly one acts: [bold]{winner.name}[/]. Now its server is killed (SIGKILL), claim and all.\n")
        os.kill(winner.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        asked = time.monotonic()
        inherited = await heir.call("try_claim", note=f"{heir.name} takes over")
        while not inherited.structured.get("claimed") and time.monotonic() - asked < _TAKEOVER_TIMEOUT:
            inherited = await heir.call("try_claim", note=f"{heir.name} takes over")
        took = time.monotonic() - asked
        inspected = await third.call("is_claimed_by_other")
        _show(console, "The others ask again", {heir.name: inherited, third.name: inspected})
        if not (inherited.structured.get("status") == "acquired" and "previous" in inherited.structured):
            console.print("[bold red]FAILED:[/] the claim of a dead session was not taken over.")
            return False
        console.print(f"[bold]{heir.name}[/] took over {took * 1000:.0f} ms after asking, not after the TTL.\n")

        released = await heir.call("release", outcome="done", note="fixed in #4530")
        late = await third.call("try_claim")
        _show(console, "It is done; the third asks again", {heir.name: released, third.name: late})
        seen, freed = inspected.structured.get("claimed_by_other"), released.structured.get("released")
        if not (seen and freed and late.structured.get("status") == "done"):
            console.print("[bold red]FAILED:[/] the claim was not seen, not released, or would be done again.")
            return False
    console.print("[bold green]OK:[/] one acted, the others knew, and nobody does it again.")
    return True


async def _start(servers: AsyncExitStack, name: str, directory: Path) -> Agent:
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_claims", "serve", "--dir", str(directory)],
        # What a server notes about the host that starts it goes with the directory.
        env=os.environ | {"TMPDIR": str(directory)},
    )
    client = Client(command, client_info=Implementation(name=name, version="demo"))
    await servers.enter_async_context(client)
    # The holder's name contains the PID of the server: `host:pid:nonce`.
    probe = await client.call_tool("try_claim", {"key": f"hello from {name}"})
    holder = str((probe.structured_content or {})["holder"])
    return Agent(name, client, int(holder.split(":")[-2]))


def _show(console: Console, title: str, answers: dict[str, Answer]) -> None:
    if not console.is_terminal:
        lines = (f"  {name}: {answer.text}" for name, answer in answers.items())
        console.print(f"{title}:", *lines, "", sep="\n", markup=False)
        return
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("agent", style="bold")
    table.add_column("acts?")
    table.add_column("answer")
    for name, answer in answers.items():
        acts = {True: "[green]yes[/]", False: "no", None: ""}[answer.structured.get("claimed")]
        table.add_row(name, acts, escape(answer.text))
    console.print(table)
    console.print()
