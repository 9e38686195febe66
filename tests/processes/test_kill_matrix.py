"""`kill -9` before every single system call of every operation, and the next process goes on as if nothing were.

Forked from here, as some two hundred interpreters would take minutes to start; what dies is a process of its own with
a session of its own, killed by a real signal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.processes.children import Hooked
from tests.processes.kills import NEVER, Operation, killed_at

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

KEY, LIVE, OTHER_DEAD = ScopedKey("ci", "red"), ScopedKey("ci", "live"), ScopedKey("review", "dead")
MORE_CALLS_THAN_ANY_OPERATION_MAKES = 150


def in_child(directory: Path, at: int, *operations: Operation, uncounted: int = 0) -> bool:
    """Do what `killed_at` does with the claims in *directory*, before system call *at*."""

    def opened(before: Callable[[], None]) -> FileStore:
        return FileStore(directory, fs=Hooked(lambda _call: before()), history=Limits())

    return killed_at(opened, at, *operations, uncounted=uncounted)


def claim(session: Session) -> None:
    session.try_claim(KEY.key, KEY.namespace)


def claim_both(session: Session) -> None:
    claim(session)
    session.try_claim(OTHER_DEAD.key, OTHER_DEAD.namespace)


def claim_for_a_moment(session: Session) -> None:
    session.try_claim(KEY.key, KEY.namespace, ttl_minutes=validation.MIN_TTL.total_seconds() / 60)


def renew(session: Session) -> None:
    session.try_claim(KEY.key, KEY.namespace, ttl_minutes=60)


def release(session: Session) -> None:
    session.release(KEY.key, KEY.namespace)


def inspect(session: Session) -> None:
    session.inspect(KEY.key, KEY.namespace)


def prune(session: Session) -> None:
    session.prune()


def end(session: Session) -> None:
    session.close()


def nothing(_directory: Path, _survivor: Session) -> None:
    pass


def dead_claims(directory: Path, _survivor: Session) -> None:
    in_child(directory, NEVER, claim_both)


def expired_claim(directory: Path, survivor: Session) -> None:
    """Leave a claim of the survivor whose time is up."""
    claim_for_a_moment(survivor)
    found = FileStore(directory).read(KEY)
    assert isinstance(found, Claim)
    while not expiry.has_passed(found.expires, local_machine().now()):
        time.sleep(0.05)


@dataclass(frozen=True)
class ProcessExit:
    """What is there before, what the process has done, and what it is about when it dies."""

    before: Callable[[Path, Session], None]
    done: tuple[Callable[[Session], object], ...]
    about: Callable[[Session], object]


@pytest.mark.parametrize(
    "death",
    [
        pytest.param(ProcessExit(nothing, (), claim), id="claim"),
        pytest.param(ProcessExit(dead_claims, (), claim), id="takeover from the dead"),
        pytest.param(ProcessExit(nothing, (claim,), renew), id="renewal"),
        pytest.param(ProcessExit(nothing, (claim,), release), id="release"),
        pytest.param(ProcessExit(nothing, (claim_both,), end), id="end of a session"),
        pytest.param(ProcessExit(dead_claims, (), inspect), id="inspect"),
        pytest.param(ProcessExit(dead_claims, (), prune), id="prune"),
    ],
)
def test_a_kill_before_any_system_call_leaves_what_the_next_process_can_go_on_with(
    tmp_path: Path, death: ProcessExit
) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_OPERATION_MAKES):
        directory = tmp_path / str(at)
        survivor = process_session(FileStore(directory))
        live = survivor.try_claim(LIVE.key, LIVE.namespace).found
        death.before(directory, survivor)
        earlier = highest_generation(directory)
        killed = in_child(directory, at, *death.done, death.about, uncounted=len(death.done))
        go_on(directory, survivor, live, at_least=earlier, prune_first=bool(at % 2))
        if not killed:
            assert at > 5
            return
    pytest.fail("the kill never came too late")


def test_a_kill_in_a_takeover_of_an_expired_claim_leaves_it_to_the_next(tmp_path: Path) -> None:
    # One claim that expires serves for all: each process that is killed too early leaves it as it was, and the first
    # that is not has taken over and is dead.
    survivor = process_session(FileStore(tmp_path))
    expired_claim(tmp_path, survivor)
    expired = FileStore(tmp_path).read(KEY)
    for at in range(1, MORE_CALLS_THAN_ANY_OPERATION_MAKES):
        in_child(tmp_path, at, claim)
        found = FileStore(tmp_path).read(KEY)
        if found != expired:
            break
    else:
        pytest.fail("no process took over")
    assert isinstance(found, Claim) and isinstance(expired, Claim)
    assert at > 5 and found.generation > expired.generation
    attempt = survivor.try_claim(KEY.key, KEY.namespace, lock_timeout=0.5)
    assert attempt.taken_over and attempt.taken_over.state is ClaimState.ORPHANED
    assert attempt.lost == expired, "and the survivor learns that it had lost it in between"


def wait_for_live(session: Session) -> None:
    session.queue.join(LIVE, 50)


def leave(session: Session) -> None:
    session.queue.leave(LIVE)


def take_turn(session: Session) -> None:
    for reserve in (True, False):
        session.try_request(ClaimRequest(LIVE), reserve=reserve)


def wait_and_end(session: Session) -> None:
    wait_for_live(session)
    session.close()


@pytest.mark.rule("W2", "W4")
@pytest.mark.parametrize(
    ("done", "about", "released"),
    [
        pytest.param((), wait_for_live, False, id="join"),
        pytest.param((wait_for_live,), leave, False, id="leave"),
        pytest.param((), wait_and_end, False, id="end of a session"),
        pytest.param((wait_for_live,), take_turn, True, id="reserve and take"),
    ],
)
def test_a_kill_of_a_waiter_before_any_system_call_leaves_the_key_to_those_who_wait_behind_it(
    tmp_path: Path,
    done: tuple[Callable[[Session], object], ...],
    about: Callable[[Session], object],
    released: bool,
) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_OPERATION_MAKES):
        directory = tmp_path / str(at)
        # One process, three sessions: only the child dies.
        survivor, behind, stranger = (process_session(FileStore(directory)) for _ in range(3))
        if not released:
            live = survivor.try_claim(LIVE.key, LIVE.namespace).found
        else:
            # The child waits first, and finds the key free when its turn has come.
            FileStore(directory).swap(LIVE, None, None)
            live = None
        killed = in_child(directory, at, *done, about, uncounted=len(done))
        found = FileStore(directory).read(LIVE)
        assert not isinstance(found, Unreadable) and (live is None or found == live)
        wait_for_live(behind)
        assert [ticket.holder for ticket in FileStore(directory).tickets(LIVE)] == [behind.holder], (
            "of the dead there is none"
        )
        if live is not None:
            assert survivor.release(LIVE.key, LIVE.namespace, lock_timeout=0.5).released
        # Whether or not the key was reserved for the dead, or taken by it: the next in order has it at once.
        for other, status in ((stranger, Status.HELD), (behind, Status.ACQUIRED), (stranger, Status.HELD)):
            # Where the child found the key free, nobody has waited for a second: the first that asks may have it.
            if other is behind or (at % 2 and live is not None):
                assert other.try_claim(LIVE.key, LIVE.namespace, lock_timeout=0.5).status is status
        assert behind.release(LIVE.key, LIVE.namespace, lock_timeout=0.5).released
        assert stranger.try_claim(LIVE.key, LIVE.namespace, lock_timeout=0.5).status is Status.ACQUIRED
        if not killed:
            assert at > 5
            return
    pytest.fail("the kill never came too late")


def highest_generation(directory: Path) -> int:
    return max((found.generation for found in FileStore(directory).scan() if isinstance(found, Claim)), default=0)


def go_on(directory: Path, survivor: Session, live: object, *, at_least: int, prune_first: bool) -> None:
    """Be the next process: everything of the dead is free at once, what is alive stays, no number comes again."""
    left = list(FileStore(directory).scan())
    assert not any(isinstance(found, Unreadable) for found in left)
    assert live in left
    highest = max(at_least, highest_generation(directory))
    if prune_first:
        pruned = survivor.prune(lock_timeout=0.5)
        assert (pruned.orphaned, pruned.live, pruned.failed) == (len(left) - 1, 1, ())
    for scoped in (KEY, OTHER_DEAD):
        was_left = not prune_first and any(isinstance(found, Claim) and found.scoped == scoped for found in left)
        attempt = survivor.try_claim(scoped.key, scoped.namespace, lock_timeout=0.5)
        assert attempt.status is Status.ACQUIRED and (attempt.taken_over is not None) is was_left
        assert isinstance(attempt.found, Claim)
        assert scoped.namespace != KEY.namespace or attempt.found.generation > highest
        assert survivor.release(scoped.key, scoped.namespace, lock_timeout=0.5).released
    assert survivor.try_claim(LIVE.key, LIVE.namespace).status is Status.RENEWED
    assert {path.name for path in directory.glob("[!.]*/*")} == {".lock", "live.json"}, "nothing of the dead is left"
