"""`mcp-claims run`: signals, exit codes, kills of parent and child, at a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from mcp_claims.cli import guardian
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, TIMEOUT, Commands, at_terminal, eventually
from tests.support.launch import unshare
from tests.support.platforms import PLATFORM
from tests.support.servers import in_queue

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


@pytest.mark.rule("L9")
@pytest.mark.parametrize(
    ("script", "code", "outcome"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, "failed"),
        ("exit 255", 255, "failed"),
        ("kill -KILL $$", 137, "failed"),
        ("kill -TERM $$", 143, "failed"),
    ],
)
def test_the_exit_code_is_passed_on_and_a_failure_is_recorded(
    commands: Commands, script: str, code: int, outcome: str | None
) -> None:
    done = commands("run", "red", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (code, "")
    answer = commands.json("show", "red")
    assert answer.get("outcome") == outcome
    assert answer.get("note") == (outcome and f"exit code {code}")
    assert commands("run", "red", "--", "echo", "again").stdout == "again\n", "a mutex: the key is free in any case"


@pytest.mark.rule("L9")
def test_with_once_what_has_succeeded_is_not_run_again_unless_asked_to(commands: Commands) -> None:
    assert commands("run", "--once", "red@1", "--", "sh", "-c", "exit 3").returncode == 3
    assert commands("run", "red@1", "--once", "--", "echo", "first").stdout == "first\n"
    again = commands("run", "red@1", "--once", "--", "echo", "second")
    assert (again.returncode, again.stdout) == (75, "") and "DONE:" in again.stderr
    assert "--redo" in again.stderr and "mcp-claims forget" in again.stderr
    assert commands("run", "red@1", "--once", "-E", "0", "--", "echo", "second").returncode == 0
    assert commands("run", "red@1", "--once", "--redo", "--", "echo", "second").stdout == "second\n"
    assert commands("forget", "red@1").returncode == 0
    assert commands("run", "--once", "2h", "red@1", "--", "echo", "third").stdout == "third\n"
    assert 7_000 < commands.json("show", "red@1")["expires_in_seconds"] <= 7_200
    assert commands("run", "--once", "red@2", "--", "echo", "another").stdout == "another\n"


@pytest.mark.rule("L4", "M1")
def test_a_command_runs_in_a_slot_of_its_own(commands: Commands) -> None:
    tell = ("sh", "-c", "echo $MCP_CLAIMS_KEY $MCP_CLAIMS_SLOT $MCP_CLAIMS_GENERATION")
    inside = ("run", "--slots", "2", "test", "--", *COMMAND, "run", "--slots", "2", "test", "--")
    assert re.fullmatch(r"test 1 \d+\n", commands(*inside, *tell).stdout)
    full = commands(*inside, *COMMAND, "run", "--slots", "2", "test", "--", "true")
    assert full.returncode == 75 and "all 2 slots" in full.stderr
    plain = commands("run", "--slots", "2", "test", "--", *COMMAND, "run", "test", "--", "true")
    assert plain.returncode == 75 and "--slots 2" in plain.stderr
    assert commands("run", "--once", "--slots", "2", "test", "--", "true").returncode == 2
    assert not [each for each in commands.json("list")["claims"] if each["state"] == "held"]


@pytest.mark.rule("L4", "C15", "C16")
def test_a_command_runs_with_one_of_several_keys_or_with_all(commands: Commands) -> None:
    tell = ("sh", "-c", "echo $MCP_CLAIMS_KEY")
    keys = ("port:1", "port:2")
    inside = ("run", "--any", *keys, "--", *COMMAND, "run")
    assert commands(*inside, "--any", *keys, "--", *tell).stdout == "port:2\n"
    assert commands(*inside, "--all", *keys, "--", *tell).returncode == 75
    assert commands("run", "--all", *keys, "--", *tell).stdout == "port:1\n"
    assert commands("run", *keys, "--", "true").returncode == 2
    assert commands("run", "--once", "--any", *keys, "--", *tell).stdout == "port:1\n"
    assert commands("run", "--any", *keys, "--once", "--", *tell).stdout == "port:2\n"
    done = commands("run", "--any", *keys, "--once", "--", *tell)
    assert done.returncode == 75 and "DONE" in done.stderr


def test_once_checks_its_duration_and_its_key(commands: Commands) -> None:
    wrong_uses = (
        ["--once", "7d", "--"],
        ["--once", "--"],
        ["--once", "soon", "red", "--"],
        ["--once", "31d", "red", "--"],
    )
    for wrong in (*wrong_uses, ["--"], ["red", "--once", "--wait", "9999999999d", "--"]):
        done = commands("run", *wrong, "true")
        assert done.returncode == 2 and re.search("--once|KEY|--wait", done.stderr), done.stderr
    assert not commands.directory.exists()


def test_the_exit_code_is_the_commands_even_if_the_claim_cannot_be_released(commands: Commands) -> None:
    gone = shlex.quote(str(commands.directory))
    done = commands("run", "red", "--", "sh", "-c", f"rm -rf {gone}; echo in the way > {gone}; exit 7")
    assert done.returncode == 7 and "the claim was not released" in done.stderr


def test_the_command_is_given_its_key_and_generation(commands: Commands) -> None:
    script = 'echo "$MCP_CLAIMS_KEY $MCP_CLAIMS_NAMESPACE $MCP_CLAIMS_GENERATION"'
    check = f'{script}; {" ".join(COMMAND)} check "$MCP_CLAIMS_KEY" -n ci --generation "$MCP_CLAIMS_GENERATION"'
    done = commands("run", "nächtlich #1", "-n", "ci", "--", "sh", "-c", check)
    assert done.returncode == 0, "the generation is in force while the command runs"
    assert done.stdout.startswith("nächtlich #1 ci ")


def test_what_somebody_else_holds_is_not_run(commands: Commands, claims_dir: Path) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    done = commands("run", "red", "--", "echo", "run")
    assert (done.returncode, done.stdout) == (75, "") and other.holder.name in done.stderr
    assert other.inspect("red").held_by_you


def test_it_waits_if_asked_to_and_runs_when_the_key_is_free(commands: Commands, claims_dir: Path) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    wait = ["run", "red", "--wait", "2h", "--", "echo", "run"]
    with commands.start(*wait, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        reported = waiting.stderr.readline()
        assert "waiting up to 2 h 0 min" in reported and other.holder.name in reported
        other.release("red")
        assert waiting.communicate(timeout=TIMEOUT) == ("run\n", "")
    assert waiting.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_wait_that_is_interrupted_runs_nothing_and_leaves_nothing(
    commands: Commands, claims_dir: Path, number: signal.Signals
) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("red")
    with commands.start("run", "red", "--wait", "60", "--", "echo", "run", stdout=subprocess.PIPE) as waiting:
        eventually(lambda: in_queue(claims_dir))
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


# Holds a lock as long as any of its processes lives: itself, a child, and an orphan, in a session of its own where such
# an orphan is found.
FAMILY = f"""
exec 9>>"$WITNESS"
flock -n 9 || {{ echo overlap >>"$WITNESS"; exit 1; }}
({"setsid " if PLATFORM == "linux" else ""}sleep 600 &)
sh -c 'sleep 600; echo next >>"$WITNESS"'
echo next >>"$WITNESS"
"""


class Family:
    """`mcp-claims run` with `FAMILY`, all of which has started."""

    def __init__(self, process: subprocess.Popen[str], witness: Path) -> None:
        self.process, self.witness = process, witness

    @property
    def guardian(self) -> int:
        (guardian,) = children_of(self.process.pid)
        return guardian

    def has_ended(self) -> bool:
        with self.witness.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


@contextmanager
def family(commands: Commands, *options: str, under: list[str] | None = None) -> Iterator[Family]:
    """Run `FAMILY` while holding `red`; nothing of it may have gone on to its next command in the end."""
    witness = commands.directory.with_name("witness")
    command = [*(under or []), *COMMAND, "run", "red", *options, "--", "sh", "-c", FAMILY]
    environment = commands.environment | {"WITNESS": str(witness)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: len(sleeping(witness)) == 2)
            yield Family(process, witness)
            assert witness.read_text() == ""
        finally:
            process.kill()
            for pid in sleeping(witness):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def sleeping(witness: Path) -> list[int]:
    """Return the PIDs of the `sleep` processes that have *witness* open."""
    return [
        each.pid
        for each in psutil.process_iter(["name", "environ"])
        if each.info["name"] == "sleep" and (each.info["environ"] or {}).get("WITNESS") == str(witness)
    ]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.rule("L4")
def test_when_we_are_killed_all_of_the_command_ends_and_the_key_is_not_free_before(
    commands: Commands, claims_dir: Path
) -> None:
    with family(commands) as run:
        guardian = run.guardian
        claim = holder(claims_dir)
        assert claim is not None and claim.holder.pid == guardian
        words = Path(f"/proc/{guardian}/cmdline").read_bytes()
        assert not {b"run", b"red", b"sh"} & set(words.split(b"\0")), "`pkill -f` must not end both"
        # Stopped, so that it can be seen what is the case before it acts.
        os.kill(guardian, signal.SIGSTOP)
        run.process.kill()
        run.process.wait(TIMEOUT)
        assert holder(claims_dir) == claim and not run.has_ended()
        os.kill(guardian, signal.SIGCONT)
        eventually(lambda: holder(claims_dir) is None)
        assert run.has_ended()


@pytest.mark.rule("L4")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_command_that_is_ended_takes_along_what_it_has_started(
    commands: Commands, claims_dir: Path, name: str
) -> None:
    with family(commands) as run:
        run.process.send_signal(signal.Signals[name])
        assert run.process.wait(TIMEOUT) == 128 + signal.Signals[name]
        assert run.has_ended()
    answer = commands.json("show", "red")
    assert (answer["outcome"], answer["note"]) == ("abandoned", f"interrupted by {name}")


@pytest.mark.rule("L4")
def test_all_of_a_command_whose_claim_is_taken_away_is_stopped(commands: Commands) -> None:
    with family(commands, "--ttl", "10h") as run:
        assert commands("release", "red", "--force", "--yes").returncode == 0
        assert run.process.wait(TIMEOUT) == 128 + signal.SIGTERM
        assert run.has_ended()


@pytest.mark.rule("L4")
def test_when_we_are_stopped_beyond_the_ttl_the_command_has_ended_before_the_next_begins(commands: Commands) -> None:
    with family(commands, "--ttl", "3s") as run:
        run.process.send_signal(signal.SIGSTOP)
        next_one = commands("run", "red", "--wait", "60s", "--", "flock", "-n", str(run.witness), "echo", "alone")
        assert next_one.stdout == "alone\n"
        run.process.send_signal(signal.SIGCONT)
        assert run.process.wait(TIMEOUT) == 128 + signal.SIGTERM
        assert run.process.stderr is not None and "could not be renewed in time" in run.process.stderr.read()


@pytest.mark.rule("L4")
def test_when_the_guardian_is_killed_we_end_the_command(commands: Commands) -> None:
    with family(commands) as run:
        os.kill(run.guardian, signal.SIGKILL)
        assert run.process.wait(TIMEOUT) == 128 + signal.SIGKILL
        assert run.has_ended()
        assert run.process.stderr is not None and "guards the command was killed" in run.process.stderr.read()


def test_when_the_guardian_is_stopped_we_continue_it(commands: Commands) -> None:
    with running(commands) as run:
        (guardian,) = children_of(run.process.pid)
        os.kill(guardian, signal.SIGSTOP)
        run.process.terminate()
        assert run.receive() == "SIGTERM"
        assert run.process.wait(TIMEOUT) == 7


@pytest.mark.rule("L4")
def test_where_proc_is_of_another_namespace_the_process_group_ends(commands: Commands) -> None:
    """As on macOS, where orphans are not adopted: but for what has left the group."""
    # The first process of a PID namespace takes all others along, so that must not be `run`.
    first = [*unshare("--pid", "--fork", "--kill-child"), "sh", "-c", '"$@"; exec tail -f /dev/null', "sh"]
    with family(commands, under=first) as run:
        ((inside,),) = map(children_of, children_of(run.process.pid))
        (guardian,) = children_of(inside)
        (own_session,) = [pid for pid in sleeping(run.witness) if os.getsid(pid) == pid]
        os.kill(inside, signal.SIGKILL)
        eventually(lambda: sleeping(run.witness) == [own_session])
        assert not ended(guardian)
        os.kill(own_session, signal.SIGKILL)
        eventually(run.has_ended)
        eventually(lambda: ended(guardian))


@pytest.mark.rule("L4")
@pytest.mark.parametrize("once", [True, False])
def test_the_end_is_noticed_where_sigchld_is_dropped(commands: Commands, tmp_path: Path, once: bool) -> None:
    """As XNU drops it at its default action, before anybody can wait for it."""
    dropping = tmp_path / "guardian.py"
    dropping.write_text(
        "import runpy, signal, sys\n"
        "install = signal.signal\n"
        "signal.signal = lambda number, action: number == signal.SIGCHLD or install(number, action)\n"
        f"runpy.run_path({guardian.__file__!r}, run_name='__main__')\n"
    )
    script = (
        "import sys; from mcp_claims.cli import guardian, main\n"
        f"guardian.__file__ = {str(dropping)!r}\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    # Not before the guardian, its parent, waits: it would notice that without a signal.
    command = ["sh", "-c", 'until grep -q "^State:.S" "/proc/$PPID/status"; do :; done; exit 7']
    ran = subprocess.run(
        [sys.executable, "-c", script, "run", "red", *(["--once"] if once else []), "--", *command],
        env=commands.environment,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 7


@pytest.mark.rule("L4")
def test_a_claim_that_has_expired_before_the_command_starts_starts_nothing(commands: Commands, tmp_path: Path) -> None:
    script = (
        "import sys; from mcp_claims.cli import main, supervisor\n"
        "start = supervisor.Child.start\n"
        "supervisor.Child.start = lambda self, variables, stop_at, kill_at: start(self, variables, stop_at - 1e6, kill_at)\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "run", "red", "--", "touch", str(tmp_path / "started")]
    ran = subprocess.run(
        command, env=commands.environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert ran.returncode == 75 and "expired before the command was started" in ran.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.rule("L4")
def test_a_signal_that_comes_before_the_command_is_started_reaches_it(commands: Commands) -> None:
    script = (
        "import os, signal, sys, threading; from mcp_claims.cli import main, supervisor\n"
        "send, passed_on = supervisor.Child._send, threading.Event()\n"
        "def with_a_signal_before(child, line):\n"
        "    if line.startswith('start '):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        passed_on.wait()\n"
        "    send(child, line)\n"
        "    if line.startswith('signal '):\n"
        "        passed_on.set()\n"
        "supervisor.Child._send = with_a_signal_before\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "run", "red", "--", "sleep", "60"]
    ran = subprocess.run(command, env=commands.environment, timeout=TIMEOUT, check=False)
    assert ran.returncode == 128 + signal.SIGTERM
    assert commands.json("show", "red")["outcome"] == "abandoned"


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
