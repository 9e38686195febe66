"""A process for tests to examine: it prints its identity, and judges others from where it runs.

Run as `python -m tests.support.process`.  It prints itself as a holder, answers each line of input with one line, and
ends with its input:

    judge HOLDER      answers `dead` or `not dead`
    now               answers with its ticks and its epoch, or with `null` for the latter
    spawn [WORDS...]  starts one more of these, WORDS before its command; answers with what that prints of itself
    kill              kills and reaps the one started last; answers `killed`
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
from threading import Thread
from typing import Any

from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import Holder, Proof

NOBODY = 65534
COMMAND = [sys.executable, "-m", "tests.support.process"]
# exit(2) of one thread; the C library's function of that name ends them all.
_EXIT_CALLS = {"x86_64": 60, "aarch64": 93}


def holder_to_json(holder: Holder) -> str:
    return json.dumps({**holder._asdict(), "proof": holder.proof._asdict()})


def holder_from_json(line: str) -> Holder:
    fields: dict[str, Any] = json.loads(line)
    return Holder(fields["name"], fields["pid"], Proof(**fields["proof"]))


def answer(machine: Machine) -> None:
    spawned: list[subprocess.Popen[str]] = []
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "judge":
            print("dead" if machine.provably_dead(holder_from_json(rest)) else "not dead", flush=True)
        elif word == "now":
            now = machine.now()
            print(json.dumps([now.ticks, now.epoch]), flush=True)
        elif word == "spawn":
            spawned.append(
                subprocess.Popen(
                    [*rest.split(), *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
                )
            )
            assert spawned[-1].stdout is not None
            print(spawned[-1].stdout.readline(), end="", flush=True)
        elif word == "kill":
            spawned[-1].kill()
            spawned[-1].wait()
            print("killed", flush=True)


def answer_without_leader(machine: Machine, holder: Holder) -> None:
    """Let the main thread exit and go on in another one: the leader is then a zombie, the process alive."""

    def work() -> None:
        stat = f"/proc/{os.getpid()}/task/{os.getpid()}/stat"
        while True:
            with open(stat, encoding="utf-8") as file:
                if ") Z " in file.read():
                    break
            if sys.platform != "win32":
                os.sched_yield()
        print(holder_to_json(holder), flush=True)
        answer(machine)
        os._exit(0)

    Thread(target=work).start()
    ctypes.CDLL(None).syscall(_EXIT_CALLS[platform.machine()], 0)


def become_nobody() -> None:
    """Give up root, where we are root."""
    if sys.platform != "win32" and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nobody", action="store_true")
    parser.add_argument("--without-leader", action="store_true")
    options = parser.parse_args()
    machine = local_machine()
    holder = Holder("other", machine.pid(), machine.proof())
    if options.nobody:
        become_nobody()
    if options.without_leader:
        answer_without_leader(machine, holder)
    else:
        print(holder_to_json(holder), flush=True)
        answer(machine)


if __name__ == "__main__":
    main()
