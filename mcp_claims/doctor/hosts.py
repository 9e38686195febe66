"""The hosts: is the server in their files, and does what they would start answer?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.errors import InvalidInputError
from mcp_claims.hosts import HOSTS, Host, Started, Surroundings, configured, started_by
from mcp_claims.hosts.errors import HostFileUnfitError
from mcp_claims.stores.config import claims_directory

_PATIENCE = 30.0  # s
# Cline gives a server 3 s to answer first, the least of all.
_SLOW = 3.0  # s
_ENDING = 2.0  # s
_VERSION = "2025-06-18"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a start: *tools* and *seconds* until they were listed, or *problem*."""

    seconds: float = 0.0
    tools: int = 0
    problem: str | None = None


def examine_hosts(where: Surroundings, patience: float = _PATIENCE) -> Iterator[Finding]:
    """Examine the hosts that have a file, and start each server of ours as they would, for *patience* seconds at most.

    A server that answers is ended, one that does not is killed; nothing is claimed.
    """
    directories: dict[str, str] = {}
    any_file = False
    for host in HOSTS.values():
        check = f"host {host.name}"
        try:
            content, servers = configured(host, where)
        except HostFileUnfitError as error:
            any_file = True
            yield failure(check, f"{error.where} {error.problem}", "Mend the file: the host cannot read it either.")
            continue
        if content.data is None:
            continue
        any_file = True
        ours = {name: started for name, entry in servers.items() if (started := _ours(started_by(entry)))}
        if not ours:
            yield ok(check, f"not configured, in {content.path} (`mcp-claims install {host.name}`)")
        for name, started in ours.items():
            yield _judged(host, content.path, name, _asked(started, where.environment, patience))
            directories[f"{host.name} {name}"] = _directory(started, where.environment)
    if not any_file:
        yield ok("hosts", "none has a file here yet (`mcp-claims install HOST` makes one)")
    if len(set(directories.values())) > 1:
        listed = "; ".join(f"{who}: {directory}" for who, directory in directories.items())
        yield warning(
            "hosts",
            f"they do not share their claims, so a key can have a holder in each: {listed}",
            "Install them with the same --dir.",
        )


def _ours(started: Started | None) -> Started | None:
    """Return *started* if that is this server, under whatever name."""
    if started is None:
        return None
    names = [Path(word).stem for word in (started.command, *started.arguments)]
    return started if "mcp-claims" in names or "mcp_claims" in started.arguments else None


def _directory(started: Started, environment: Mapping[str, str]) -> str:
    """Return where it would keep its claims, if the host hands on our environment."""
    words = started.arguments
    option = words[words.index("--dir") + 1] if "--dir" in words[:-1] else None
    try:
        return str(claims_directory(option, environment={**environment, **started.variables}))
    except InvalidInputError:
        return str(option)


def _judged(host: Host, path: Path, name: str, answer: _Answer) -> Finding:
    check, said = f"host {host.name}", f"configured as {name!r} in {path}"
    if answer.problem is not None:
        return failure(check, f"{said}; {answer.problem}", f"Run `mcp-claims install {host.name} --name {name}` again.")
    took = f"{said}; starts and answers in {answer.seconds * 1000:.0f} ms with {answer.tools} tools"
    if answer.seconds > _SLOW:
        return warning(check, took, "Hosts that are impatient give up: let the machine do less, and look again.")
    return ok(check, took)


def _asked(started: Started, environment: Mapping[str, str], patience: float) -> _Answer:
    """Start it as a host does, shake hands and list the tools, in plain lines of JSON: the SDK stays unimported."""
    begun = time.monotonic()
    try:
        server = subprocess.Popen(
            [started.command, *started.arguments],
            env={**environment, **started.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=os.path.abspath(os.sep),
            start_new_session=True,
        )
    except OSError as error:
        return _Answer(problem=f"{started.command} cannot be started ({error.strerror})")
    lines: SimpleQueue[bytes] = SimpleQueue()
    errors: list[bytes] = []
    # Daemons: a grandchild that got away may keep the pipes open.
    readers = [
        Thread(target=_read, args=(server, lines), daemon=True),
        Thread(target=_drain, args=(server, errors), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        answer = _conversation(server, lines, begun, patience)
    finally:
        _end(server, readers)
    said = b"".join(errors).decode(errors="replace").strip().splitlines()
    if answer.problem is not None and said:
        return _Answer(problem=f"{answer.problem}: {said[-1][:300]}")
    return answer


def _end(server: subprocess.Popen[bytes], readers: list[Thread]) -> None:
    """End *server*: at the end of its input it goes by itself; one that hangs is killed, with what it has started."""
    assert server.stdin is not None
    with contextlib.suppress(OSError):
        server.stdin.close()
    deadline = time.monotonic() + _ENDING
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    # Not waited for before: its PID, and so its group, would be free for others then.
    if sys.platform == "win32":
        server.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    for reader in readers:
        reader.join(_ENDING)


def _conversation(server: subprocess.Popen[bytes], lines: SimpleQueue[bytes], begun: float, patience: float) -> _Answer:
    client = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": {"name": "doctor", "version": "1"}}

    def ask(message: dict[str, Any]) -> Any:
        assert server.stdin is not None
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        while "id" in message:
            line = lines.get(timeout=max(0.0, begun + patience - time.monotonic()))
            if not line:
                raise BrokenPipeError
            answer = json.loads(line)
            # Others are notices.
            if answer.get("id") == message["id"]:
                return answer["result"]
        return None

    line = "its first line"
    try:
        ask({"id": 1, "method": "initialize", "params": client})
        line = "a later line"
        ask({"method": "notifications/initialized"})
        tools = len(ask({"id": 2, "method": "tools/list"})["tools"])
    except OSError:
        return _Answer(problem="it ended without an answer")
    except Empty:
        return _Answer(problem=f"it did not answer in {patience:g} s")
    except (ValueError, AttributeError, LookupError, TypeError):
        return _Answer(problem=f"it is no server of this kind: {line} is no answer to what it was asked")
    return _Answer(time.monotonic() - begun, tools)


def _read(server: subprocess.Popen[bytes], lines: SimpleQueue[bytes]) -> None:
    assert server.stdout is not None
    with server.stdout as stdout:
        for line in stdout:
            lines.put(line)
    lines.put(b"")


def _drain(server: subprocess.Popen[bytes], errors: list[bytes]) -> None:
    assert server.stderr is not None
    with server.stderr as stderr:
        errors.extend(stderr)
