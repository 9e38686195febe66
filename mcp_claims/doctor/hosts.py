"""Checks the hosts: is the server in their files, does it start and answer, and do all of them share one store?

Not imported by `mcp_claims.doctor`: this module alone needs the SDK, whose import takes more than half a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import anyio
import anyio.to_thread
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.session import IncomingMessage
from mcp.client.stdio import stdio_client
from mcp_types import CONNECTION_CLOSED
from pydantic import ValidationError

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.doctor.hooks import check_hooks
from mcp_claims.doctor.host_stores import store_of, stores_of
from mcp_claims.errors import shown_path
from mcp_claims.hosts import HOSTS, PLUGIN, Host, Launch, UserEnvironment, parse_entry, plugin_file, read_servers
from mcp_claims.hosts.errors import HostFileUneditableError

_ANSWER_TIMEOUT = 30.0  # s
_SLOW = 3.0  # s: Cline waits no longer for the first answer, and all other hosts wait longer.
_PROC = "/proc"
_SDK_MAPS = "pydantic_core"
_NOT_A_SERVER = "it is not an MCP server: "

# The SDK logs what it cannot read, with a traceback; that is a finding here.
logging.getLogger("mcp").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class _Answer:
    """The outcome of a start: the *seconds* until *tools* were listed, or the *problem*.

    *sdk* is whether the server imported the MCP SDK for the answer, `None` if the system hides it.
    """

    seconds: float = 0.0
    tools: int = 0
    problem: str | None = None
    sdk: bool | None = None


_STAGES = {False: ", by its quick stage, without the MCP SDK", True: ", by the MCP SDK", None: ""}


def check_hosts(user: UserEnvironment, timeout: float = _ANSWER_TIMEOUT, own: str | None = None) -> Iterator[Finding]:
    """Check each host that has a file, and start each `mcp-claims` server in it as the host would.

    The stores that the entries lead to are compared with each other and with *own*, the directory or URL of the command
    line, by default that of *user*.  A server has *timeout* seconds to answer.  It is then ended, with every process of its group, within 7 s.  Nothing is
    claimed.
    """
    stores: dict[str, set[str]] = {}
    any_file = False
    for host in HOSTS.values():
        check = f"host {host.name}"
        try:
            content, servers = read_servers(host, user)
            plugin = plugin_file(host, user)
        except HostFileUneditableError as error:
            any_file = True
            yield failure(check, f"{error.where} {error.problem}", "Correct the file: the host cannot read it either.")
            continue
        launches = {name: launch for name, entry in servers.items() if (launch := _our_launch(entry))}
        hooks = list(check_hooks(host, user, {name: stores_of(launch, user) for name, launch in launches.items()}))
        any_file = any_file or content.data is not None or plugin is not None or bool(hooks)
        if plugin is not None:
            yield _plugin_finding(host, plugin, launches)
        elif content.data is not None and not launches:
            yield ok(check, f"not configured in {content.path} (`mcp-claims install {host.name}` does that)")
        for name, launch in launches.items():
            yield _finding(host, content.path, name, _start(launch, user.environment, timeout))
            stores[f"{host.name} {name}"] = stores_of(launch, user)
        yield from hooks
    if not any_file:
        yield ok("hosts", "no host has a configuration file (`mcp-claims install HOST` makes one)")
    if stores:
        stores["this command line"] = {own or store_of((), user.environment)}
    if len(set().union(*stores.values())) > 1:
        listed = "; ".join(f"{server}: {' or '.join(sorted(each))}" for server, each in stores.items())
        yield warning(
            "hosts",
            f"they do not all share their claims, so a key can have a holder in each: {listed}",
            "Run `mcp-claims install HOST` for each of them with the same --dir, and `mcp-claims doctor` with it too.",
        )


def _our_launch(entry: object) -> Launch | None:
    """Return what *entry* starts if that is this server, under whatever name."""
    launch = parse_entry(entry)
    if launch is None:
        return None
    programs = [Path(word).stem for word in (launch.command, *launch.arguments)]
    return launch if "mcp-claims" in programs or "mcp_claims" in launch.arguments else None


def _plugin_finding(host: Host, file: Path, launches: Mapping[str, Launch]) -> Finding:
    check, what = f"plugin {host.name}", f"{PLUGIN} is on in {file}"
    if launches:
        both = f"{what}, and so is {' and '.join(map(repr, launches))}: sessions have the tools twice"
        return warning(check, both, f"Run `mcp-claims uninstall {host.name}`, or remove the plugin in the host.")
    return ok(check, f"{what}; it brings the server and the guard, which are not started here")


def _finding(host: Host, path: Path, name: str, answer: _Answer) -> Finding:
    check, configured = f"host {host.name}", f"configured as {name!r} in {path}"
    if answer.problem is not None:
        remedy = f"Run `mcp-claims install {host.name} --name {name}` again."
        return failure(check, f"{configured}; {answer.problem}", remedy)
    what = f"{configured}; starts and answers in {answer.seconds * 1000:.0f} ms with {answer.tools} tools{_STAGES[answer.sdk]}"
    if answer.seconds > _SLOW:
        return warning(check, what, "Some hosts give up sooner: reduce the load of this machine and check again.")
    return ok(check, what)


class _RecordingLoop(asyncio.SelectorEventLoop):
    """An event loop that keeps the PIDs of the processes that it starts; the SDK does not reveal them."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: list[int] = []

    async def subprocess_exec(self, *arguments: Any, **options: Any) -> Any:
        """Start a process and keep its PID."""
        transport, protocol = await super().subprocess_exec(*arguments, **options)
        self.pids.append(transport.get_pid())
        return transport, protocol


def _start(launch: Launch, environment: Mapping[str, str], timeout: float) -> _Answer:
    """Start a server as a host does, list its tools, and end it with all that it has started."""
    loop = None if sys.platform == "win32" else _RecordingLoop()
    options = {"loop_factory": lambda: loop} if loop else {}
    pids = loop.pids if loop else []
    with (
        tempfile.TemporaryFile() as file,
        open(file.fileno(), "w+", encoding="utf-8", errors="replace", closefd=False) as stderr,
    ):
        try:
            answer = anyio.run(_ask, launch, environment, timeout, stderr, pids, backend_options=options)
        except (OSError, ValueError) as error:
            # ValueError: a file may have a null character in the command.
            reason = getattr(error, "strerror", None) or error
            return _Answer(problem=f"{shown_path(launch.command)} cannot be started ({reason})")
        finally:
            # The SDK kills the process group of a server that hangs.  One that has ended may have left processes behind.
            for pid in pids:
                _kill_group(pid)
        if answer.problem is None:
            return answer
        stderr.seek(0)
        lines = stderr.read().strip().splitlines()
    return _Answer(problem=f"{answer.problem}: {lines[-1][:300]}") if lines else answer


async def _ask(
    launch: Launch, environment: Mapping[str, str], timeout: float, stderr: TextIO, pids: Sequence[int]
) -> _Answer:
    """Start a server, initialize a session and list the tools, as hosts begin; *pids* gets what was started.

    Raises `OSError` if the command cannot be started.
    """
    started = time.monotonic()
    parameters = StdioServerParameters(
        command=launch.command,
        args=list(launch.arguments),
        env={**environment, **launch.variables},
        cwd=os.path.abspath(os.sep),
    )
    conversation = anyio.CancelScope(deadline=anyio.current_time() + timeout)
    unreadable = False

    async def end_if_unreadable(message: IncomingMessage) -> None:
        # The SDK would skip the line and wait for an answer; strict hosts end the connection.
        nonlocal unreadable
        if isinstance(message, Exception):
            unreadable = True
            conversation.cancel()

    async with (
        stdio_client(parameters, errlog=stderr) as streams,
        ClientSession(*streams, message_handler=end_if_unreadable) as session,
    ):
        with conversation:
            try:
                await session.initialize()
                tools = len((await session.list_tools()).tools)
                seconds = time.monotonic() - started
                return _Answer(seconds, tools, sdk=await anyio.to_thread.run_sync(_has_imported_sdk, pids))
            except MCPError as error:
                if error.code == CONNECTION_CLOSED:
                    return _Answer(problem="it ended without an answer")
                return _Answer(problem=f"{_NOT_A_SERVER}{error}")
            except (ValidationError, RuntimeError):
                return _Answer(problem=f"{_NOT_A_SERVER}its answer has another form")
    if unreadable:
        return _Answer(problem=f"{_NOT_A_SERVER}it prints lines that are not messages")
    return _Answer(problem=f"it did not answer in {timeout:g} s")


def _has_imported_sdk(groups: Sequence[int]) -> bool | None:
    """Return whether a process of *groups* has imported the SDK and so maps pydantic's core, `None` if that is hidden."""
    if sys.platform == "win32" or not groups:
        return None
    if os.path.isdir(_PROC):
        for maps in Path(_PROC).glob("[0-9]*/maps"):
            # It may have ended, or be somebody else's.
            with suppress(OSError):
                if os.getpgid(int(maps.parent.name)) in groups and _SDK_MAPS in maps.read_text(errors="replace"):
                    return True
        return False
    command = ["lsof", "-a", "-g", ",".join(map(str, groups)), "-d", "txt,mem", "-Fn"]
    try:
        # Its exit code is 1 as well where it lists only a part of what it was asked for.
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError:
        return None
    return _SDK_MAPS in listed if listed else None


def _kill_group(pid: int) -> None:
    """Kill the processes that are left in the group of *pid*, a server that has ended; there is none on Windows."""
    # The group keeps its number from being reused while it has a member.
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
