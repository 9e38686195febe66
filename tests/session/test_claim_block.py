"""`with session.claim()` and its asynchronous form: held for the block, whatever happens in it or before it."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from threading import BoundedSemaphore, Event, Thread
from typing import Any, NoReturn

import anyio
import pytest

from mcp_claims.errors import NotClaimedError, SessionEndedError, StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import acquire as acquire_module
from mcp_claims.session import acquire as waiting
from mcp_claims.session import offload
from mcp_claims.session.acquire import Wakeup, acquire
from mcp_claims.session.operations import _disown_in_forked_child as disown_in_forked_child
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.stores.base import LOCK_TIMEOUT, Swap
from tests.session.bench import HALF_AN_HOUR, KEY, Bench, MemoryBench, granted
from tests.session.faulty import Busy, Delayed
from tests.support.interrupting import DelegatingStore

WITHIN = 20.0  # s, on a machine that is busy with other things


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def answer_lost() -> NoReturn:
    raise StoreUnavailableError("the network", OSError(errno.ETIMEDOUT, "timed out"))


def test_an_error_in_the_block_releases_the_key_and_is_passed_on(bench: Bench) -> None:
    session = bench.session()
    with pytest.raises(ZeroDivisionError), session.claim(KEY):
        raise ZeroDivisionError
    assert list(bench.store.scan()) == []


def test_a_session_that_is_closed_in_the_block_ends_it_without_an_error(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    with session.claim(KEY):
        session.close()
        granted(other)
    assert other.inspect(KEY).held_by_you


def test_a_block_inside_a_block_is_refused_and_the_outer_one_goes_on(bench: Bench) -> None:
    session = bench.session()
    with session.claim(KEY):
        with pytest.raises(NotClaimedError), session.claim(KEY):
            pass
        assert session.inspect(KEY).held_by_you


@pytest.mark.rule("C4")
def test_the_end_of_a_block_that_lost_its_claim_spares_a_newer_one_of_the_same_session(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    with session.claim(KEY) as first:
        bench.world.pass_time(HALF_AN_HOUR)
        granted(other)
        other.release(KEY)
        newer = granted(session)  # As another thread would.
        assert newer.generation > first.generation
    assert session.inspect(KEY, generation=newer.generation).in_force


class Lasting(DelegatingStore):
    """Takes its time over a new claim, after it is made: `made` says so, `go` lets it go on."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.made, self.go = Event(), Event()

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
        if new is not None:
            self.made.set()
            assert self.go.wait(WITHIN)
        return swap


@pytest.mark.parametrize("remote", [False, True])
def test_a_task_that_is_cancelled_just_as_its_key_is_granted_holds_nothing(bench: Bench, remote: bool) -> None:
    store = Lasting(bench)
    store.remote = remote
    session = bench.session(store)

    async def hold() -> None:
        async with session.claim_async(KEY, wait=0 if remote else WITHIN):
            pytest.fail("it was cancelled")

    async def cancel() -> None:
        task = asyncio.create_task(hold())
        assert await asyncio.to_thread(store.made.wait, WITHIN)
        task.cancel()
        await asyncio.sleep(0.05)
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    # asyncio's own cancellation does not wait for threads.
    asyncio.run(cancel())
    assert list(bench.store.scan()) == [] and not session.holds_anything


def test_an_asynchronous_wait_fails_with_the_error_itself(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    granted(other)

    async def wait() -> None:
        request = ClaimRequest.parse(KEY, wait_seconds=WITHIN)
        task = asyncio.create_task(offload.acquire_async(session, request))
        await asyncio.sleep(0.1)
        session.close()
        other.release(KEY)
        with pytest.raises(SessionEndedError):
            await task

    asyncio.run(wait())


def test_the_end_of_an_asynchronous_block_does_not_block_the_loop(bench: Bench) -> None:
    store = Busy(bench.store)
    store.idle = True
    session = bench.session(store)

    async def hold() -> None:
        async with session.claim_async(KEY):
            store.idle = False

    async def run() -> None:
        task = asyncio.create_task(hold())
        while store.idle or not store.waits:
            await asyncio.sleep(0)
        store.idle = True
        await task

    asyncio.run(run())
    assert set(store.waits) == {0.0}
    assert list(bench.store.scan()) == []


@pytest.mark.parametrize("fail", [interrupt, answer_lost])
def test_a_key_that_was_granted_to_a_call_that_failed_is_granted_again(
    bench: Bench, fail: Callable[[], NoReturn]
) -> None:
    store = Delayed(bench.store)
    session = bench.session(store)
    store.rival = fail
    with pytest.raises((KeyboardInterrupt, StoreUnavailableError)):
        session.try_claim(KEY)
    assert session.inspect(KEY).held_by_you
    with session.claim(KEY), pytest.raises(NotClaimedError), session.claim(KEY):
        pass
    assert list(bench.store.scan()) == []


@pytest.mark.rule("C8")
@pytest.mark.parametrize("fail", [interrupt, answer_lost])
def test_the_end_releases_what_was_granted_to_a_call_that_failed_although_an_older_grant_is_cached(
    bench: Bench, fail: Callable[[], NoReturn]
) -> None:
    store = Delayed(bench.store)
    session, other = bench.session(store), bench.session()
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    granted(other)
    other.release(KEY)
    store.rival = fail
    with pytest.raises((KeyboardInterrupt, StoreUnavailableError)):
        session.try_claim(KEY)
    assert session.close() == 1
    assert list(bench.store.scan()) == [] and not session.holds_anything


def test_a_failed_call_that_wrote_nothing_leaves_nothing_to_release(bench: Bench) -> None:
    class Refusing(DelegatingStore):
        def swap(
            self,
            scoped: ScopedKey,
            old: Claim | None,
            new: Claim | None,
            *,
            lock_timeout: float = LOCK_TIMEOUT,
            **options: Any,
        ) -> Swap:
            answer_lost()

    session = bench.session(Refusing(bench.store))
    with pytest.raises(StoreUnavailableError):
        session.try_claim(KEY)
    assert session.holds_anything, "nobody knows yet what was written"
    assert session.close() == 0
    assert not session.holds_anything, "a server would try to release it for ever"


def test_a_wait_that_is_stopped_does_not_wait_for_a_lock(bench: Bench) -> None:
    busy = Busy(bench.store)
    session = bench.session(busy)
    wakeup = Wakeup()
    ended: list[float] = []

    def wait() -> None:
        with pytest.raises(StoreBusyError):
            acquire(session, ClaimRequest.parse(KEY, wait_seconds=WITHIN), wakeup=wakeup)
        ended.append(time.monotonic())

    thread = Thread(target=wait)
    thread.start()
    while not busy.waits:
        time.sleep(0.01)
    wakeup.stop()
    stopped = time.monotonic()
    thread.join(WITHIN)
    assert ended[0] - stopped < LOCK_TIMEOUT / 2


def test_of_waits_that_begin_at_once_those_beyond_the_limit_are_answered_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_waits", BoundedSemaphore(2))
    session, other = bench.session(), bench.session()
    granted(other)
    answers: list[ClaimResult] = []

    async def wait() -> None:
        answers.append(await offload.acquire_async(session, ClaimRequest.parse(KEY, wait_seconds=WITHIN)))

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait)
            with anyio.fail_after(WITHIN / 2):
                while len(answers) < 3:
                    await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            assert [answer.status for answer in answers] == [Status.HELD] * 3
            tasks.cancel_scope.cancel()

    asyncio.run(run())


def test_a_wait_is_cancelled_although_its_client_reads_no_progress(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire_module, "_PROGRESS_INTERVAL", 0.0)
    monkeypatch.setattr(acquire_module, "_POLL_INTERVAL", 0.01)
    session, other = bench.session(), bench.session()
    granted(other)

    async def run() -> None:
        sending = asyncio.Event()

        async def report(waited: float, of: float, what: str) -> None:
            sending.set()
            await anyio.sleep_forever()

        task = asyncio.create_task(offload.acquire_async(session, ClaimRequest.parse(KEY, wait_seconds=60), report))
        await sending.wait()
        task.cancel()
        _, waiting = await asyncio.wait([task], timeout=WITHIN)
        assert not waiting

    asyncio.run(run())


def test_a_wait_without_descriptors_is_a_clear_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(StoreUnavailableError, match="Too many open files"), bench.session().claim(KEY, wait=1):
        pass
    assert list(bench.store.scan()) == []


@pytest.mark.rule("P5")
@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_forked_child_that_leaves_the_block_releases_nothing(keep_alive: bool) -> None:
    bench = MemoryBench()
    session = bench.session()
    with session.claim(KEY, keep_alive=keep_alive) as claim:
        # What the hook at fork does to the sessions of the parent in its child.
        disown_in_forked_child()
        session.release_grant(claim)
        assert not session.release_own(claim, 0).released
        assert bench.session().try_claim(KEY).status is Status.HELD
        session._in_forked_child = False
    assert bench.session().try_claim(KEY).claimed
