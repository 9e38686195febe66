"""Holders that the original wrote are judged by host and PID; holders of ours never are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Holder, OriginalHolder, Proof

HOST = socket.gethostname()


@pytest.fixture
def dead() -> int:
    """The PID of a process that has ended and was reaped."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_pid_on_this_host_that_nobody_has_is_dead(dead: int) -> None:
    assert local_machine().provably_dead(OriginalHolder(f"{HOST}:{dead}", dead))


def test_a_live_process_is_alive_also_another_user_s() -> None:
    for pid in (os.getpid(), 1):
        assert not local_machine().provably_dead(OriginalHolder(f"{HOST}:{pid}", pid))


def test_a_corpse_that_nobody_has_reaped_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert local_machine().provably_dead(OriginalHolder(f"{HOST}:{child.pid}", child.pid))


@pytest.mark.rule("A4")
@pytest.mark.parametrize("host", ["elsewhere", f"{HOST}2", f"x{HOST}", ""])
def test_a_pid_of_another_host_proves_nothing(host: str, dead: int) -> None:
    assert not local_machine().provably_dead(OriginalHolder(f"{host}:{dead}", dead))


@pytest.mark.rule("A4")
def test_a_holder_of_ours_without_a_proof_is_never_judged_by_host_and_pid(dead: int) -> None:
    for name in (f"{HOST}:{dead}", f"{HOST}:{dead}:0123456789ab"):
        assert not local_machine().provably_dead(Holder(name, dead, Proof()))
