"""The machine of macOS and Windows, on Linux: what psutil and the system do not reveal proves nothing, and refuses nothing."""

from __future__ import annotations

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
