"""The machine of macOS and Windows, on Linux: what psutil and the system do not reveal proves nothing, and refuses nothing."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import portable
from mcp_claims.liveness.portable import PortableMachine
from mcp_claims.model.records import MAX_GENERATION, Holder, Proof
from mcp_claims.session.identity import process_session, session_for_process
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.memory import MemoryStore
from tests.support.on_windows import BOOT as BOOT_COUNT
from tests.support.on_windows import MACHINE_GUID, on_windows

BOOT = "6A3C5CE6-1B3B-4E43-9C43-BE9B2B1A5B1F"


@pytest.fixture(autouse=True)
def _on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "sys", SimpleNamespace(platform="darwin"))


@pytest.fixture
def _psutil_7_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the machine a psutil whose private method cannot return the kernel's start time yet."""

    def process(pid: int) -> SimpleNamespace:
        return SimpleNamespace(_proc=SimpleNamespace(create_time=lambda: 0.0), status=psutil.Process(pid).status)

    monkeypatch.setattr(portable, "psutil", SimpleNamespace(**vars(psutil) | {"Process": process}))


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def machine(boot: str | None = BOOT) -> PortableMachine:
    made = PortableMachine()
    made._boot = boot
    return made


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def other(store: MemoryStore, boot: str | None = BOOT) -> Session:
    return process_session(store, machine(boot))


def test_the_death_of_a_process_is_proved(child: subprocess.Popen[bytes]) -> None:
    holder = Holder("x", child.pid, machine().proof(child.pid))
    assert holder.proof.start is not None
    assert not machine().provably_dead(holder)
    assert machine().provably_dead(holder._replace(proof=holder.proof._replace(start=holder.proof.start + 1)))
    end(child)
    assert machine().provably_dead(holder)


@pytest.mark.rule("P2")
@pytest.mark.usefixtures("_psutil_7_0")
def test_without_a_start_time_a_process_is_acted_for_and_its_end_proved(child: subprocess.Popen[bytes]) -> None:
    store = MemoryStore()
    session = session_for_process(store, child.pid, machine())
    assert session.holder.proof.start is None
    assert session.try_claim("deploy").claimed
    assert session_for_process(store, child.pid, machine()).try_claim("deploy").status is Status.RENEWED
    assert other(store).try_claim("deploy").status is Status.HELD
    end(child)
    assert other(store).try_claim("deploy").claimed


@pytest.mark.rule("P2")
def test_without_a_boot_a_process_is_acted_for_and_its_claim_is_held_to_its_expiry(
    child: subprocess.Popen[bytes],
) -> None:
    store = MemoryStore()
    session = session_for_process(store, child.pid, machine(None))
    assert session.try_claim("deploy").claimed
    end(child)
    assert other(store, None).try_claim("deploy").status is Status.HELD
    assert session.release("deploy").released


@pytest.mark.parametrize("pid", [-1, 0, 1, 2**31, MAX_GENERATION])
def test_a_number_that_is_no_process_is_refused_and_proves_nothing(pid: int) -> None:
    with pytest.raises(InvalidInputError):
        session_for_process(MemoryStore(), pid, machine())
    assert not machine().provably_dead(Holder("x", max(pid, 1), Proof(BOOT, BOOT)))


def test_a_process_that_has_ended_is_refused(child: subprocess.Popen[bytes]) -> None:
    end(child)
    for boot in (BOOT, None):
        with pytest.raises(InvalidInputError, match="that is running"):
            session_for_process(MemoryStore(), child.pid, machine(boot))


class _Kqueue:
    """A kqueue that does not take the process that is to be watched."""

    def control(self, changes: list[object], limit: int) -> None:
        raise ProcessLookupError


class _NoKqueue:
    def __init__(self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("kqueue", [_Kqueue, _NoKqueue])
def test_on_macos_a_process_that_cannot_be_watched_is_polled(
    child: subprocess.Popen[bytes], kqueue: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is watched otherwise, `tests/server/test_waiting.py` shows where macOS is forced."""
    constants = dict.fromkeys(["KQ_FILTER_PROC", "KQ_EV_ADD", "KQ_EV_ONESHOT", "KQ_NOTE_EXIT"], 0)
    monkeypatch.setattr(portable, "select", SimpleNamespace(kqueue=kqueue, kevent=lambda *fields: fields, **constants))
    here = machine()
    assert here.watch_exit(Holder("x", child.pid, here.proof(child.pid))) is None


def test_on_macos_a_process_of_another_boot_is_not_watched(child: subprocess.Popen[bytes]) -> None:
    """Its number may be that of any process by now."""
    assert machine().watch_exit(Holder("x", child.pid, machine("another boot").proof(child.pid))) is None


windows = on_windows("mcp_claims.liveness.portable")


class _GetTickCount64:
    restype: object = None

    def __call__(self) -> int:
        return 12_345


@pytest.fixture
def _on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windll = SimpleNamespace(kernel32=SimpleNamespace(GetTickCount64=_GetTickCount64()))
    monkeypatch.setattr(windows, "ctypes", SimpleNamespace(windll=windll, c_ulonglong="unsigned, of 64 bits"))


@pytest.mark.usefixtures("_on_windows")
def test_on_windows_the_boot_is_the_machine_and_its_count_of_boots(child: subprocess.Popen[bytes]) -> None:
    here = windows.PortableMachine()
    proof = here.proof(child.pid)
    assert proof.boot == proof.pid_namespace == f"{MACHINE_GUID}:{BOOT_COUNT}"
    assert proof.start == round(psutil.Process(child.pid).create_time() * 1_000_000)
    holder = Holder("x", child.pid, proof)
    assert not here.provably_dead(holder) and here.watch_exit(holder) is None and here.peers(0) == []
    end(child)
    assert here.provably_dead(holder)


@pytest.mark.usefixtures("_on_windows")
def test_on_windows_time_is_counted_from_boot_in_milliseconds() -> None:
    now = windows.PortableMachine().now()
    assert (now.ticks, now.epoch) == (12.345, f"{MACHINE_GUID}:{BOOT_COUNT}")
    # Without its type the call would return the lower half of the number, which starts anew after 49 days.
    assert windows.ctypes.windll.kernel32.GetTickCount64.restype == "unsigned, of 64 bits"


@pytest.mark.usefixtures("_on_windows")
def test_on_windows_without_the_count_of_boots_no_process_is_proved_dead(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows.winreg, "values", SimpleNamespace(MachineGuid=MACHINE_GUID))
    here = windows.PortableMachine()
    holder = Holder("x", child.pid, here.proof(child.pid))
    end(child)
    assert holder.proof.boot is None and not here.provably_dead(holder)
