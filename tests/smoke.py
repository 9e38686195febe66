"""Tries the promises on this machine and prints what to send: `python -m tests.smoke`.

For macOS and Windows, where nobody has run this yet; it runs on Linux, too.  It needs the installed package and nothing of the
tests, takes some minutes, and changes nothing outside a temporary directory.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mcp_claims.liveness import local_machine

PROGRAM = [sys.executable, "-m", "mcp_claims"]
TIMEOUT = 120.0  # s, for what takes seconds on a busy machine
RACERS, EVENTS = 8, 40

Check = Callable[[Path], str]
CHECKS: list[Check] = []

HOLD = """
import sys, time
from mcp_claims import open_session
session = open_session()
assert session.try_claim(sys.argv[1]).claimed
print("holds", flush=True)
time.sleep(600)
"""
WAIT = """
import sys, time
from mcp_claims import open_session
with open_session() as session:
    print("waits", flush=True)
    with session.claim(sys.argv[1], wait=120):
        print(time.time(), flush=True)
"""
RACE = """
import sys
from mcp_claims import open_session
session = open_session()
print("ready", flush=True)
sys.stdin.readline()
won = [n for n in range(int(sys.argv[1])) if session.try_claim(f"event:{n}").claimed]
print(*won, flush=True)
sys.stdin.readline()
"""


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def run(*arguments: str, here: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=here,
        env=environment(here) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )


def environment(here: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_CLAIMS_")}
    return kept | {"MCP_CLAIMS_DIR": str(here / "claims"), "PYTHONUNBUFFERED": "1"}


@contextmanager
def script(code: str, *arguments: str, here: Path) -> Iterator[subprocess.Popen[str]]:
    """Run *code* in a process of its own, which is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=here,
        env=environment(here),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def started(*arguments: str, here: Path, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the program with *arguments*; kill it at the end, if it still runs."""
    with subprocess.Popen([*PROGRAM, *arguments], cwd=here, env=environment(here), text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@check
def a_process_is_known_by_what_it_takes_to_prove_it_dead(here: Path) -> str:
    machine = local_machine()
    proof, first = machine.proof(), machine.now()
    time.sleep(0.05)
    second = machine.now()
    assert proof.boot and proof.start, proof
    assert first.epoch and 0.02 < second.ticks - first.ticks < 5, (first, second)
    above = " < ".join(program.name for program in machine.programs_above(os.getpid()))
    return f"boot {proof.boot}, start {proof.start}, up {first.ticks:.0f} s, started by {above}"


@check
def doctor_finds_nothing_wrong(here: Path) -> str:
    done = run("doctor", here=here)
    assert done.returncode == 0, done.stdout + done.stderr
    return "\n" + done.stdout.strip()


@check
def of_many_that_race_exactly_one_gets_each_key(here: Path) -> str:
    with ExitStack() as stack:
        racers = [stack.enter_context(script(RACE, str(EVENTS), here=here)) for _ in range(RACERS)]
        assert {line(racer) for racer in racers} == {"ready"}
        began = time.monotonic()
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [line(racer).split() for racer in racers]
        took = time.monotonic() - began
    winners = sorted(int(event) for events in won for event in events)
    assert winners == list(range(EVENTS)), [len(events) for events in won]
    return f"{RACERS} processes, {EVENTS} keys, {took:.2f} s; won by each: {[len(events) for events in won]}"


@check
def a_key_of_a_killed_process_is_free_at_once(here: Path) -> str:
    with script(HOLD, "red@1", here=here) as holder:
        assert line(holder) == "holds"
        held = run("try", "red@1", "--session", "me", here=here)
        assert held.returncode == 1 and held.stdout.startswith("HELD"), held
        holder.kill()
        holder.wait()
        began = time.monotonic()
        taken = run("try", "red@1", "--session", "me", here=here)
        took = time.monotonic() - began
    assert taken.returncode == 0 and "whose process is dead" in taken.stdout, taken.stdout + taken.stderr
    return f"{took * 1000:.0f} ms with the start of a process"


@check
def a_release_wakes_who_waits(here: Path) -> str:
    assert run("try", "red@2", "--session", "me", here=here).returncode == 0
    with script(WAIT, "red@2", here=here) as waiter:
        assert line(waiter) == "waits"
        time.sleep(3)
        assert run("release", "red@2", "--session", "me", here=here).returncode == 0
        released = time.time()
        woken = float(line(waiter))
    assert woken - released < 15, woken - released
    return f"{(woken - released) * 1000:+.0f} ms from the end of the command that released"


@check
def the_death_of_the_holder_wakes_who_waits(here: Path) -> str:
    with script(HOLD, "red@3", here=here) as holder:
        assert line(holder) == "holds"
        with script(WAIT, "red@3", here=here) as waiter:
            assert line(waiter) == "waits"
            time.sleep(3)
            killed = time.time()
            holder.kill()
            holder.wait()
            woken = float(line(waiter))
    assert woken - killed < 15, woken - killed
    return f"{(woken - killed) * 1000:.0f} ms; above 500 it was noticed by polling"


@check
def a_server_answers_and_releases_at_the_end_of_its_input(here: Path) -> str:
    began = time.monotonic()
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with started("serve", here=here, **streams) as server:
        assert server.stdin and server.stdout

        def ask(method: str, **params: Any) -> Any:
            message = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
            assert server.stdin and server.stdout
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())["result"]

        hello = {"name": "smoke", "version": "1"}
        ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=hello)
        took = time.monotonic() - began
        server.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        answer = ask("tools/call", name="try_claim", arguments={"key": "red@4", "note": "Grüße ✓"})
        assert answer["structuredContent"]["claimed"], answer
        assert run("check", "red@4", "--session", "me", here=here).returncode == 1
        server.stdin.close()
        assert server.wait(TIMEOUT) == 0
    assert run("check", "red@4", "--session", "me", here=here).returncode == 0
    return f"first answer after {took * 1000:.0f} ms"


@check
def run_holds_its_key_and_what_it_started_ends_with_it(here: Path) -> str:
    mark = here / "alive"
    tick = (
        f"import time, pathlib\nwhile True: pathlib.Path({str(mark)!r}).write_text(str(time.time())); time.sleep(0.1)"
    )
    assert run("run", "deploy", "--", sys.executable, "-c", "raise SystemExit(7)", here=here).returncode == 7
    with subprocess.Popen(
        [*PROGRAM, "run", "deploy", "--", sys.executable, "-c", tick], env=environment(here)
    ) as runner:
        deadline = time.monotonic() + TIMEOUT
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        second = run("run", "deploy", "--", sys.executable, "-c", "pass", here=here)
        assert second.returncode == 75, second
        runner.kill()
        runner.wait()
    third = run("run", "deploy", "--wait", "60", "--", sys.executable, "-c", "pass", here=here)
    free = time.time()
    assert third.returncode == 0, third
    time.sleep(1)
    last = float(mark.read_text() or 0)
    late = (
        "ended before the key was free" if last <= free else f"went on for {last - free:.1f} s after the key was free"
    )
    if sys.platform != "win32":
        assert last <= free, late
    return f"what a killed `run` had started {late}"


@check
def files_are_known_by_every_name_that_they_have(here: Path) -> str:
    (here / "Straße").mkdir()
    (here / "Straße" / "Ä.txt").write_text("")
    assert run("try", "file:Straße/", "--session", "me", here=here).returncode == 0
    assert run("check", "file:Straße/Ä.txt", "--session", "you", here=here).returncode == 1
    (here / "Probe").write_text("")
    folds = (here / "pROBE").exists()
    other = run("check", "file:straße/ä.TXT", "--session", "you", here=here)
    assert other.returncode == (1 if folds else 0), other
    return f"the file system {'folds' if folds else 'keeps'} case"


@check
def hosts_get_the_server_and_lose_it_again(here: Path) -> str:
    home = here / "home"
    home.mkdir()
    variables = {"HOME": str(home), "USERPROFILE": str(home), "APPDATA": str(home / "AppData"), "CLAUDE_CONFIG_DIR": ""}
    paths = []
    for host in ("claude-code", "claude-desktop", "codex", "vscode", "zed", "cursor"):
        done = run("install", host, here=here, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        found = [str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()]
        paths.append(f"{host}: {', '.join(sorted(found))}")
        assert run("uninstall", host, here=here, **variables).returncode == 0
        left = [file for file in home.rglob("*") if file.is_file() and not file.name.endswith(".bak")]
        assert not left, left
        for backup in home.rglob("*.bak"):
            backup.unlink()
    return "\n  " + "\n  ".join(paths)


@check
def the_board_and_http_are_served(here: Path) -> str:
    with started("serve", "--http", "--port", "0", here=here, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        first = server.stderr.readline()
        url = first.rpartition(" ")[2].strip().removesuffix("/mcp")
        with urllib.request.urlopen(f"{url}/healthz", timeout=TIMEOUT) as answer:
            assert answer.status == 200
        server.terminate()
        server.wait(TIMEOUT)
    return url


def about() -> Iterator[str]:
    """Yield what has to be known about the machine."""
    yield f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()} ({sys.executable})"
    for name in ("mcp-claims", "mcp", "psutil", "watchdog", "platformdirs"):
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def main() -> int:
    """Run all checks; return 1 if one fails."""
    print("== Send everything from here on, whether it passed or not.")
    print(*about(), sep="\n", flush=True)
    failed = []
    for each in CHECKS:
        name = each.__name__.replace("_", " ")
        here = Path(tempfile.mkdtemp(prefix="mcp-claims-smoke-")).resolve()
        try:
            print(f"ok    {name}: {each(here)}", flush=True)
        except Exception:  # noqa: BLE001 - whatever goes wrong is what has to be reported
            failed.append(name)
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
        finally:
            shutil.rmtree(here, ignore_errors=True)
    print(f"== {len(CHECKS) - len(failed)} passed, {len(failed)} failed" + "".join(f"\n   {name}" for name in failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
