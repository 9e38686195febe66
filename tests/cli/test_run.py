"""`mcp-claims run`: signals, exit codes, kills of parent and child, at a terminal and in a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mcp_claims.cli.run import _hold_until_ended
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.files.wait_queue import QUEUE_FILE
from tests.cli.commands import COMMAND, TIMEOUT, Commands, at_terminal, eventually
from tests.stores.samples import claim

# Says its PID and what signals it gets, and ends on a SIGTERM or at the end of its input.
WITNESS = """
import os, signal, sys
def on_signal(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    signal.signal(signal.Signals[name], on_signal)
# Not `pause`: a signal that comes just before it would be handled when it ends, at the next signal.
wakeup, written = os.pipe()
os.set_blocking(written, False)
signal.set_wakeup_fd(written)
print(os.getpid(), flush=True)
while True:
    os.read(wakeup, 1)
"""


class Running:
    """`mcp-claims run` and the command that it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.child = int(self.receive())

    def receive(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def running(commands: Commands, *options: str, script: str = WITNESS, **popen: int) -> Iterator[Running]:
    """Run *script* while holding `red`; what is left of it is killed."""
    with commands.start(
        "run", "red", *options, "--", sys.executable, "-u", "-c", script, stdout=subprocess.PIPE, **popen
    ) as process:
        started = Running(process)
        try:
            yield started
        finally:
            for pid in (process.pid, started.child):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def holder(claims_dir: Path) -> Claim | None:
    """Return the live claim on `red`."""
    inspection = process_session(FileStore(claims_dir)).inspect("red")
    return inspection.found if isinstance(inspection.found, Claim) and inspection.found.ended is None else None


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("script", "code", "outcome"),
    [
        ("exit 0", 0, "done"),
        ("exit 3", 3, "failed"),
        ("exit 255", 255, "failed"),
        ("kill -KILL $$", 137, "failed"),
        ("kill -TERM $$", 143, "failed"),
    ],
)
def test_the_exit_code_is_passed_on_and_is_the_outcome(
    commands: Commands, script: str, code: int, outcome: str
) -> None:
    done = commands("run", "red", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (code, "")
    answer = commands.json("show", "red")
    assert answer["outcome"] == outcome
    assert answer.get("note") == (None if code == 0 else f"exit code {code}")


def test_work_that_is_done_is_not_run_again_unless_asked_to(commands: Commands) -> None:
    assert commands("run", "red", "--", "echo", "once").stdout == "once\n"
    again = commands("run", "red", "-E", "75", "--", "echo", "twice")
    assert (again.returncode, again.stdout) == (75, "") and "was done by" in again.stderr
    assert commands("run", "red", "--redo", "--forget", "--", "echo", "twice").stdout == "twice\n"
    assert commands("run", "red", "--", "echo", "thrice").stdout == "thrice\n"


def test_what_somebody_else_holds_is_not_run(commands: Commands, claims_dir: Path) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    done = commands("run", "red", "--", "echo", "run")
    assert (done.returncode, done.stdout) == (1, "") and other.holder.name in done.stderr
    assert other.inspect("red").held_by_you


def test_it_waits_if_asked_to_and_runs_when_the_key_is_free(commands: Commands, claims_dir: Path) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    with commands.start("run", "red", "--wait", "60", "--", "echo", "run", stdout=subprocess.PIPE) as waiting:
        eventually((claims_dir / "default" / QUEUE_FILE).exists)
        other.release("red")
        assert waiting.communicate(timeout=TIMEOUT)[0] == "run\n"
    assert waiting.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_wait_that_is_interrupted_runs_nothing_and_leaves_nothing(
    commands: Commands, claims_dir: Path, number: signal.Signals
) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    with commands.start("run", "red", "--wait", "60", "--", "echo", "run", stdout=subprocess.PIPE) as waiting:
        eventually((claims_dir / "default" / QUEUE_FILE).exists)
        children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
        (child,) = map(int, children.read_text().split())
        waiting.send_signal(number)
        assert waiting.communicate(timeout=TIMEOUT)[0] == ""
    assert waiting.returncode in (130, -number)
    eventually(lambda: ended(child))
    assert other.inspect("red").held_by_you


@pytest.mark.parametrize(
    ("command", "code"), [(["/nonsense"], 127), (["nonsense"], 127), (["/"], 126), (["/etc/hostname"], 126)]
)
def test_a_command_that_cannot_be_run_is_an_error_and_leaves_the_key_free(
    commands: Commands, command: list[str], code: int
) -> None:
    done = commands("run", "red", "--", *command)
    assert done.returncode == code and f"cannot run {command[0]}" in done.stderr
    assert commands("show", "red").returncode == 1


def test_no_command_is_wrong_usage(commands: Commands) -> None:
    for arguments in (["run", "red"], ["run", "red", "--"]):
        assert commands(*arguments).returncode == 2
    assert not commands.directory.exists()


@pytest.mark.rule("L4")
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_signal_is_passed_on_once_and_the_command_decides(commands: Commands, claims_dir: Path, name: str) -> None:
    with running(commands) as run:
        run.process.send_signal(signal.Signals[name])
        assert run.receive() == name
        assert name == "SIGTERM" or holder(claims_dir) is not None
        if name != "SIGTERM":
            run.process.send_signal(signal.SIGTERM)
            assert run.receive() == "SIGTERM", "and nothing came twice"
        assert run.process.wait(TIMEOUT) == 7


@pytest.mark.rule("L4")
def test_at_a_terminal_ctrl_c_reaches_the_command_once(commands: Commands) -> None:
    command = [*COMMAND, "run", "red", "--", sys.executable, "-u", "-c", WITNESS]
    with at_terminal(command, commands.environment, stdout=subprocess.PIPE) as (process, terminal):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            os.write(terminal, b"\x03")
            assert process.stdout.readline() == b"SIGINT\n"
            # `run` takes signals one after the other, so it would have passed on a second SIGINT before this one.
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == b"SIGUSR1\n"
            os.kill(child, signal.SIGTERM)
            assert process.stdout.read() == b"SIGTERM\n"
            assert process.wait(TIMEOUT) == 7
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_the_command_inherits_what_it_would_have_without_us(commands: Commands) -> None:
    script = "import signal,sys; print(signal.getsignal(signal.SIGPIPE), signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.stdin.read())"
    plain = subprocess.run([sys.executable, "-c", script], input="in", capture_output=True, text=True, check=True)
    assert commands("run", "red", "--", sys.executable, "-c", script, output="in").stdout == plain.stdout


def test_a_parent_that_ignores_sigchld_does_not_hide_the_commands_end(commands: Commands) -> None:
    script = "import signal; raise SystemExit(7 if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN else 8)"
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [*COMMAND, "run", "red", "--", sys.executable, "-c", script]
    ran = subprocess.run(
        [sys.executable, "-c", ignoring, *command], env=commands.environment, timeout=TIMEOUT, check=False
    )
    assert ran.returncode == 7


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_command_runs_where_an_output_is_closed(commands: Commands, closed: str) -> None:
    command = [*COMMAND, "run", "red", "--", sys.executable, "-c", "raise SystemExit(7)"]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    assert subprocess.run(shell, env=commands.environment, timeout=TIMEOUT, check=False).returncode == 7


@pytest.mark.rule("L4")
def test_when_we_are_killed_the_command_is_too_and_the_key_is_free(commands: Commands, claims_dir: Path) -> None:
    with running(commands) as run:
        claim = holder(claims_dir)
        assert claim is not None and claim.holder.pid == run.child
        run.process.kill()
        eventually(lambda: ended(run.child))
        assert holder(claims_dir) is None


@pytest.mark.rule("L4")
def test_a_key_is_held_as_long_as_the_command_lives_whatever_becomes_of_us(
    commands: Commands, claims_dir: Path
) -> None:
    """As where the kernel does not end the command with us: it is what the claim is bound to."""
    with running(commands) as run:
        claim = holder(claims_dir)
        assert claim is not None
        os.kill(run.process.pid, signal.SIGSTOP)
        assert holder(claims_dir) == claim
        os.kill(run.child, signal.SIGKILL)
        eventually(lambda: ended(run.child))
        assert holder(claims_dir) is None
        os.kill(run.process.pid, signal.SIGCONT)


def test_it_is_renewed_while_the_command_runs(commands: Commands, claims_dir: Path) -> None:
    # 6 s, so that a busy machine does not let it expire.
    with running(commands, "--ttl", "0.1") as run:
        first = holder(claims_dir)
        assert first is not None
        last = first
        while last.expires.ticks < first.expires.ticks + 3:
            claim = holder(claims_dir)
            assert claim is not None and claim.generation == first.generation
            last = claim
            time.sleep(0.05)
        run.process.terminate()
        assert run.process.wait(TIMEOUT) == 7


@pytest.mark.rule("L4")
def test_a_command_whose_claim_is_taken_away_is_stopped(commands: Commands) -> None:
    # Long before it has to be renewed.
    with running(commands, "--ttl", "600", stderr=subprocess.PIPE) as run:
        assert commands("release", "red", "--force", "--yes").returncode == 0
        assert run.receive() == "SIGTERM"
        assert run.process.wait(TIMEOUT) == 7
        assert run.process.stderr is not None and "the claim is lost" in run.process.stderr.read()
    assert commands.json("show", "red")["outcome"] == "revoked", "what it became is not written over that"


@pytest.mark.rule("L4")
def test_a_claim_that_cannot_be_renewed_in_time_stops_the_command(commands: Commands, claims_dir: Path) -> None:
    with running(commands, "--ttl", "0.05", stderr=subprocess.PIPE) as run:
        claims_dir.rename(claims_dir.with_name("elsewhere"))
        claims_dir.write_text("no directory")
        assert run.receive() == "SIGTERM"
        assert run.process.wait(TIMEOUT) == 7
        assert run.process.stderr is not None and "could not be renewed in time" in run.process.stderr.read()


def test_what_the_command_leaves_behind_does_not_keep_the_key(commands: Commands, claims_dir: Path) -> None:
    done = commands("run", "red", "--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0 and holder(claims_dir) is None


def test_in_a_pipe_the_commands_output_is_all_there_is(commands: Commands) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(COMMAND)} run red -- yes | head -1"],
        env=commands.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


@pytest.mark.rule("L4")
def test_a_run_that_was_suspended_beyond_its_ttl_goes_on_if_the_claim_can_still_be_renewed() -> None:
    clock, renewed = [1_000.0], Event()
    ttl = timedelta(seconds=3)

    def now() -> Moment:
        return Moment(datetime.now(UTC), clock[0], "boot")

    granted = claim()._replace(expires=expiry.later(now(), ttl))

    class Session:
        remote = False

        def now(self) -> Moment:
            return now()

        def read(self, *_: object) -> ClaimPage:
            return ClaimPage((ListedClaim(granted, ClaimState.HELD),), now(), None)

        def renew(self, grant: Claim, ttl: timedelta) -> Claim:
            assert clock[0] > 1_000, "the suspension comes first"
            renewed.set()
            return grant._replace(expires=expiry.later(now(), ttl))

    class Child:
        def wait(self, seconds: float) -> bool:
            clock[0] = 1_010.0  # At the first wait both processes are suspended, and the claim expires.
            return renewed.wait(0.01)

        def stop(self, timeout: float) -> None:
            pytest.fail("nobody else has taken the claim")

    session: Any = Session()
    child: Any = Child()
    assert _hold_until_ended(session, granted, ttl, child)
