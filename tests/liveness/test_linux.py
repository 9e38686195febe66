"""Death is proved or not assumed: the Linux machine against real processes, users, namespaces and clocks."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import MAX_GENERATION, Holder, Proof
from tests.support.launch import process, unshare
from tests.support.platforms import PLATFORM
from tests.support.process import holder_from_json

if sys.platform != "linux" or PLATFORM != "linux":
    pytest.skip("tests the Linux machine", allow_module_level=True)

MACHINE = local_machine()


@contextmanager
def sleeper(executable: Path | None = None) -> Iterator[int]:
    """Run a process that does nothing, and reap it in the end."""
    child = subprocess.Popen(["sleep", "600"], executable=executable)
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def reaped() -> Holder:
    """A process that has ended and left nothing behind."""
    with sleeper() as pid:
        return holder_of(pid)


def start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])


def holder_of(pid: int) -> Holder:
    return Holder("rig", pid, MACHINE.proof()._replace(start=start_of(pid)))


def test_a_process_is_not_dead_to_itself() -> None:
    assert MACHINE.proof().start == start_of(os.getpid())
    assert not MACHINE.provably_dead(Holder("me", MACHINE.pid(), MACHINE.proof()))


def test_another_process_is_not_dead_while_it_lives_and_dead_when_it_has_ended() -> None:
    with process() as other:
        assert not MACHINE.provably_dead(other.holder)
    assert MACHINE.provably_dead(other.holder)


@pytest.mark.rule("P2")
def test_a_killed_process_that_nobody_has_reaped_is_dead() -> None:
    with sleeper() as pid:
        holder = holder_of(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.kill(pid, 0)  # The zombie still has the PID.
        assert MACHINE.provably_dead(holder)


@pytest.mark.rule("P4")
def test_a_process_is_dead_right_after_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a machine under load a process takes longer to die than the time-out.
    monkeypatch.setattr("mcp_claims.liveness.linux._EXIT_TIMEOUT", 10_000)
    answers = []
    for _ in range(20):
        with sleeper() as pid:
            holder = holder_of(pid)
            os.kill(pid, signal.SIGKILL)
            answers.append(MACHINE.provably_dead(holder))
    # Not all: the kernel may be interrupted between taking the signal and showing that.
    assert sum(answers) >= 15


def test_a_stopped_process_is_not_dead() -> None:
    with sleeper() as pid:
        holder = holder_of(pid)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        assert not MACHINE.provably_dead(holder)


@pytest.mark.rule("P2")
@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="number of the system call unknown")
def test_a_process_whose_first_thread_has_exited_is_not_dead_while_another_runs() -> None:
    with process("--without-leader") as other:
        assert ") Z " in Path(f"/proc/{other.holder.pid}/stat").read_text(encoding="utf-8")
        assert not MACHINE.provably_dead(other.holder)
    assert MACHINE.provably_dead(other.holder)


def test_a_process_with_brackets_in_its_name_is_not_mistaken_for_a_zombie(tmp_path: Path) -> None:
    # `/proc/PID/stat` puts the name into brackets and escapes nothing.
    name = tmp_path / "a) Z 0 0 ("
    name.symlink_to(shutil.which("sleep") or "/bin/sleep")
    with sleeper(name) as pid:
        assert name.name in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        assert not MACHINE.provably_dead(holder_of(pid))


@pytest.mark.rule("P2")
def test_a_later_process_with_the_same_pid_does_not_keep_the_first_one_alive() -> None:
    with sleeper() as pid:
        holder = holder_of(pid)
        assert not MACHINE.provably_dead(holder)
        earlier = holder.proof._replace(start=start_of(pid) - 1)
        assert MACHINE.provably_dead(holder._replace(proof=earlier))


@pytest.mark.rule("P2")
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda proof: proof._replace(boot="another"), id="another-boot"),
        pytest.param(lambda proof: proof._replace(boot=None), id="no-boot"),
        pytest.param(lambda proof: proof._replace(pid_namespace="pid:[1]"), id="another-pid-namespace"),
        pytest.param(lambda proof: proof._replace(pid_namespace=None), id="no-pid-namespace"),
        pytest.param(lambda _: Proof(), id="nothing"),
    ],
)
def test_a_pid_from_elsewhere_proves_nothing(reaped: Holder, spoil: Callable[[Proof], Proof]) -> None:
    assert MACHINE.provably_dead(reaped)
    assert not MACHINE.provably_dead(reaped._replace(proof=spoil(reaped.proof)))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda proof: proof._replace(start=None), id="no-start"),
        pytest.param(lambda proof: proof._replace(start=1, time_namespace="time:[1]"), id="another-time-namespace"),
        pytest.param(lambda proof: proof._replace(start=1, time_namespace=None), id="no-time-namespace"),
    ],
)
def test_a_start_time_that_cannot_be_compared_proves_nothing(spoil: Callable[[Proof], Proof]) -> None:
    holder = Holder("me", MACHINE.pid(), spoil(MACHINE.proof()))
    assert not MACHINE.provably_dead(holder)


def test_a_pid_that_is_free_proves_death_without_a_start_time(reaped: Holder) -> None:
    assert MACHINE.provably_dead(reaped._replace(proof=reaped.proof._replace(start=None)))


@pytest.mark.parametrize("pid", [0, 2**31, 2**63, MAX_GENERATION])
def test_a_number_that_is_no_pid_proves_nothing(pid: int) -> None:
    assert not MACHINE.provably_dead(Holder("who", pid, MACHINE.proof()))


def test_a_process_of_another_user_is_not_dead() -> None:
    with process("--nobody") as nobody:
        assert nobody.state_of(holder_of(1)) == "not dead"


@pytest.mark.parametrize(
    "error",
    [
        errno.EPERM,
        errno.EACCES,
        errno.ENOSYS,
        errno.EINVAL,
    ],
    ids=errno.errorcode.get,
)
def test_a_sandbox_that_forbids_kill_proves_nothing(
    reaped: Holder, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A seccomp filter answers with whatever error its author liked.
    def forbidden(_pid: int, _signal: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "kill", forbidden)
    assert not MACHINE.provably_dead(reaped)


def test_nobody_is_proved_dead_across_pid_namespaces(reaped: Holder) -> None:
    with process(under=unshare("--pid", "--fork", "--mount-proc")) as inside:
        assert inside.holder.pid == 1
        assert inside.state_of(Holder("outside", MACHINE.pid(), MACHINE.proof())) == "not dead"
        assert inside.state_of(reaped) == "not dead"
        spawned = holder_from_json(inside.ask("spawn"))
        assert inside.ask("kill") == "killed"
        assert not MACHINE.provably_dead(spawned._replace(pid=reaped.pid))
    assert not MACHINE.provably_dead(inside.holder)


def test_a_pid_namespace_of_its_own_proves_its_own_dead() -> None:
    with process(under=unshare("--pid", "--fork", "--mount-proc")) as inside:
        spawned = holder_from_json(inside.ask("spawn"))
        assert spawned.proof.start is not None
        assert inside.state_of(spawned) == "not dead"
        assert inside.state_of(spawned._replace(proof=spawned.proof._replace(start=1))) == "dead"
        assert inside.ask("kill") == "killed"
        assert inside.state_of(spawned) == "dead"


@pytest.mark.rule("P3")
def test_start_times_from_the_proc_of_another_namespace_are_not_used() -> None:
    # `/proc` numbers processes of the outer namespace here: `/proc/2` is some other process than our PID 2.  The
    # spawned one mounts a `/proc` of its own and so knows its start time, which the one that judges must not use.
    with process(under=unshare("--pid", "--fork")) as inside:
        assert inside.holder.pid == 1
        assert inside.holder.proof.start is None
        assert inside.state_of(inside.holder) == "not dead"
        spawned = holder_from_json(inside.ask("spawn unshare --mount-proc"))
        assert spawned.proof.start is not None
        assert spawned.proof.pid_namespace == inside.holder.proof.pid_namespace
        assert inside.state_of(spawned) == "not dead"
        assert inside.ask("kill") == "killed"
        assert inside.state_of(spawned) == "dead"


@pytest.mark.rule("P3")
def test_start_times_shifted_by_a_time_namespace_are_not_compared() -> None:
    with process(under=unshare("--time", "--fork", "--boottime", "100000")) as shifted:
        me = Holder("me", MACHINE.pid(), MACHINE.proof())
        assert shifted.holder.proof.pid_namespace == me.proof.pid_namespace
        assert shifted.holder.proof.start != start_of(shifted.holder.pid)
        assert shifted.state_of(me) == "not dead"
        assert not MACHINE.provably_dead(shifted.holder)


def test_where_the_boot_is_unknown_nobody_is_proved_dead_and_time_has_no_epoch() -> None:
    hide = ["sh", "-c", 'mount --bind /dev/null /proc/sys/kernel/random/boot_id && exec "$@"', "sh"]
    with process(under=[*unshare("--mount"), *hide]) as lost:
        spawned = holder_from_json(lost.ask("spawn"))
        assert spawned.proof.boot is None
        assert spawned.proof.pid_namespace is not None
        assert lost.ask("kill") == "killed"
        assert lost.state_of(spawned) == "not dead"
        assert json.loads(lost.ask("now"))[1] is None


def test_without_proc_nobody_is_proved_dead(reaped: Holder) -> None:
    hide = ["sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    with process(under=[*unshare("--mount"), *hide]) as blind:
        assert blind.holder.proof == Proof()
        assert blind.state_of(reaped) == "not dead"
        assert blind.state_of(blind.holder) == "not dead"


def test_the_wall_clock_is_utc_in_whole_milliseconds() -> None:
    for _ in range(100):
        wall = MACHINE.now().wall
        assert wall.tzinfo is UTC
        assert wall.microsecond % 1_000 == 0


@pytest.mark.rule("T1")
def test_the_ticks_count_from_boot_with_time_asleep_and_never_go_back() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = [MACHINE.now().ticks for _ in range(100)]
    assert ticks == sorted(ticks)
    assert before <= ticks[0] <= ticks[-1] <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_epoch_names_this_boot_for_all_processes() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    epoch = MACHINE.now().epoch
    assert epoch is not None
    assert boot in epoch
    assert local_machine().now().epoch == epoch


def test_the_ticks_and_the_epoch_are_those_of_the_time_namespace() -> None:
    # Only the clock that counts time asleep is shifted here, which distinguishes it from the one that does not.
    with process(under=unshare("--time", "--fork", "--boottime", "100000")) as shifted:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks, epoch = json.loads(shifted.ask("now"))
    assert ticks >= before + 100_000
    assert epoch != MACHINE.now().epoch


@pytest.mark.rule("P3")
def test_a_time_namespace_with_the_number_of_one_that_is_gone_has_other_clocks() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for shift in range(100_000, 100_050):  # The kernel gives the lowest number that is free, so nearly always the same.
        with process(under=unshare("--time", "--fork", "--boottime", str(shift))) as shifted:
            namespace, epoch = shifted.holder.proof.time_namespace, json.loads(shifted.ask("now"))[1]
        assert namespace is not None and epoch is not None
        number = namespace[: namespace.index("]")]
        if number in seen:
            assert namespace != seen[number][0], "start times would be compared"
            assert epoch != seen[number][1], "times would be compared"
            break
        seen[number] = namespace, epoch
    else:
        raise AssertionError("no number was given twice")


def test_the_clocks_of_a_process_whose_children_get_others_are_compared_with_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The kernel shows the offsets of the children's namespace, never those of the process's own.
    monkeypatch.setattr(os, "readlink", lambda path: f"{path}:[7]")
    one, other = local_machine(), local_machine()
    assert one.now().epoch != other.now().epoch
    assert one.proof().time_namespace != other.proof().time_namespace
