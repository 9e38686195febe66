"""What the child processes of these tests do: `python children.py COMMAND DIRECTORY [ARGUMENT ...]`.

They print one JSON object a line on stdout and read their commands on stdin.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits

_SYSTEM_CALLS = frozenset(name for name in vars(FileSystem) if not name.startswith("_")) - {"monotonic", "sleep"}


class Hooked(FileSystem):
    """Calls *before* with the name of each system call that is about to be made."""

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def __getattribute__(self, name: str) -> Any:
        if name in _SYSTEM_CALLS:
            super().__getattribute__("_before")(name)
        return super().__getattribute__(name)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def facts(attempt: ClaimResult) -> dict[str, object]:
    found, taken = attempt.found, attempt.taken_over
    return {
        "status": attempt.status.value,
        "holder": found.holder.name if isinstance(found, Claim) else None,
        "generation": found.generation if isinstance(found, Claim) else None,
        "from": taken.found.holder.name if taken and isinstance(taken.found, Claim) else None,
        "why": taken.state.value if taken else None,
    }


def perform(session: Session, order: dict[str, Any]) -> dict[str, object]:
    """Make the call that *order* asks for."""
    call = order.pop("call")
    if call == "try_claim":
        return facts(session.try_claim(**order))
    if call == "release":
        return {"released": session.release(**order).released}
    pruned = session.prune(**order)
    return {"expired": pruned.expired, "orphaned": pruned.orphaned, "live": pruned.live}


def run_commands(directory: str) -> None:
    """Run the commands, line by line."""
    session = process_session(FileStore(directory))
    say(name=session.holder.name)
    for line in sys.stdin:
        say(**perform(session, json.loads(line)))


def race(directory: str, start: str) -> None:
    """Try each key that is sent; with the key read and before the first attempt to lock, wait for a byte from pipe *start*."""
    waiting = False

    def wait_once(call: str) -> None:
        nonlocal waiting
        if waiting and call == "try_lock":
            waiting = False
            say(ready=True)
            os.read(int(start), 1)

    session = process_session(FileStore(directory, fs=Hooked(wait_once), history=Limits()))
    say(name=session.holder.name)
    for line in sys.stdin:
        waiting = True
        say(**facts(session.try_claim(json.loads(line)["key"])))


def die(directory: str, key: str, calls: str) -> None:
    """Claim and release *key* over and over, and be killed before system call number *calls*."""
    left = int(calls)

    def die_at_last(_call: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    session = process_session(FileStore(directory, fs=Hooked(die_at_last), history=Limits()))
    while True:
        say(**facts(session.try_claim(key)))
        session.release(key)


def stop(directory: str, place: str) -> None:
    """Run the commands, line by line, but stop (SIGSTOP) before the first system call named *place* of each."""
    armed = False

    def stop_once(call: str) -> None:
        nonlocal armed
        if armed and call == place:
            armed = False
            os.kill(os.getpid(), signal.SIGSTOP)

    session = process_session(FileStore(directory, fs=Hooked(stop_once), history=Limits()))
    say(name=session.holder.name)
    for line in sys.stdin:
        armed = True
        say(**perform(session, json.loads(line)))


COMMANDS: dict[str, Callable[..., None]] = {"run_commands": run_commands, "race": race, "die": die, "stop": stop}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
