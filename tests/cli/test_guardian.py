"""The guardian of a command, its clock in the hand of the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from mcp_claims.cli.guardian import Guardian, Processes


class Recorded(Processes):
    """Processes that are always there, and a record of the signals that were sent to them."""

    def __init__(self) -> None:
        super().__init__(0, adopted=True)
        self.sent: list[int] = []

    def send(self, number: int) -> None:
        self.sent.append(number)

    def left(self) -> bool:
        return True


class Clocked(Guardian):
    """A guardian of a command that runs and has to be stopped at 100 and killed at 110."""

    def __init__(self, channel: int) -> None:
        self.now = self.suspended = 0.0
        super().__init__(channel, 0, set())
        self._processes = self.processes = Recorded()
        self._stop_at, self._kill_at = 100.0, 110.0

    def _now(self) -> float:
        return self.now

    def _suspended_time(self) -> float:
        return self.suspended

    def sent_at(self, now: float, suspended: float = 0.0) -> list[int]:
        """Return what it has sent once the time is *now*, after the machine was *suspended* for so many seconds."""
        self.now, self.suspended = now, suspended
        self._end_what_must_end()
        return self.processes.sent


@pytest.fixture
def clocked() -> Iterator[Clocked]:
    channel = os.open(os.devnull, os.O_WRONLY)
    yield Clocked(channel)
    os.close(channel)


@pytest.mark.rule("L4")
def test_a_command_without_a_renewal_is_asked_to_end_and_killed_in_time(clocked: Clocked) -> None:
    assert clocked.sent_at(99.9) == []
    assert clocked.sent_at(100) == [signal.SIGTERM]
    assert clocked.sent_at(109.9) == [signal.SIGTERM]
    assert clocked.sent_at(110) == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.rule("L4")
def test_after_a_suspension_beyond_the_ttl_there_is_a_moment_for_a_renewal(clocked: Clocked) -> None:
    assert clocked.sent_at(99) == []
    assert clocked.sent_at(3_600, suspended=3_500) == []
    assert clocked.sent_at(3_600.4, suspended=3_500) == []
    assert clocked.sent_at(3_600.6, suspended=3_500) == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.rule("L4")
def test_a_guardian_that_got_no_time_gives_none(clocked: Clocked) -> None:
    assert clocked.sent_at(99) == []
    assert clocked.sent_at(3_600) == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.rule("L4")
def test_a_renewal_does_not_put_off_the_end_of_a_command_that_is_being_ended() -> None:
    orders, channel = socket.socketpair()
    with orders, channel:
        clocked = Clocked(channel.fileno())
        orders.sendall(b"stop 50\nuntil 1000 1010\n")
        assert clocked._read_orders()
        assert clocked.sent_at(50) == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.rule("L4")
@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_group_or_the_command_was_sent_is_not_sent_to_a_process_again(
    monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    with subprocess.Popen(["sleep", "60"], process_group=0) as command:
        sent: list[tuple[int, int]] = []
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
            Processes(sign * command.pid, adopted=False).send(signal.SIGINT)
        command.kill()
    assert [pid for pid, _ in sent if abs(pid) == command.pid] == [sign * command.pid]
