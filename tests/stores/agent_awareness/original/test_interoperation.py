"""Each state in which one side can leave a key, and how the other side judges it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_claims.errors import LockDirectoryBusyError
from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Holder, Moment, OriginalHolder, ScopedKey, Unreadable
from mcp_claims.session.identity import handle_session, named_session, process_session, session_for_process
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.agent_awareness.original.conftest import StartSession
from tests.stores.agent_awareness.samples import lock, record
from tests.stores.samples import grant

KEY = "vercel/next.js#4521:checks_failed"
SCOPED = ScopedKey("ci", KEY)
A_DAY_AND_MORE = 86_400 + 60


def expired_claim(minutes: float = 1) -> Claim:
    """Return an expired claim of a live process of mcp-claims on this machine."""
    then = Moment(datetime.now(UTC) - timedelta(minutes=60))
    holder = Holder(f"{socket.gethostname()}:{os.getpid()}:0123456789ab", os.getpid())
    return Claim(SCOPED, holder, then, expiry.later(then, timedelta(minutes=minutes)))


def make_old(path: Path, seconds: float = 11) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# The original acts first, then we do.


@pytest.mark.rule("A2")
def test_the_original_writes_the_file_that_we_read(start_original: StartSession, store: AgentAwarenessStore) -> None:
    start_original().call("tryClaim", KEY)
    assert record(store, SCOPED) == Path(store.directory, "ci", "vercel_next.js_4521_checks_failed.json")
    assert record(store, SCOPED).is_file()


def test_a_live_claim_of_the_original_is_held_and_has_an_original_holder(
    start_original: StartSession, session: Session
) -> None:
    holder = start_original()
    assert holder.call("tryClaim", KEY, minutes=45) == {"claimed": True}
    attempt = session.try_claim(KEY, "ci")
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Claim)
    assert isinstance(attempt.found.holder, OriginalHolder)
    assert (attempt.found.holder.name, attempt.found.holder.pid) == (holder.name, holder.pid)
    assert attempt.found.generation == 0
    assert expiry.remaining(attempt.found.expires, attempt.now) == pytest.approx(
        timedelta(minutes=45), abs=timedelta(seconds=30)
    )
    assert session.inspect(KEY, "ci").claimed_by_other
    assert not session.release(KEY, "ci").released
    assert session.prune().live == 1


def test_the_original_renews_its_claim(start_original: StartSession, session: Session) -> None:
    holder = start_original()
    holder.call("tryClaim", KEY, minutes=10)
    holder.call("tryClaim", KEY, minutes=60)
    found = session.try_claim(KEY, "ci").found
    assert isinstance(found, Claim)
    assert expiry.remaining(found.expires, Moment(datetime.now(UTC))) > timedelta(minutes=59)


def test_a_key_that_the_original_released_is_free(start_original: StartSession, session: Session) -> None:
    holder = start_original()
    holder.call("tryClaim", KEY)
    holder.call("release", KEY)
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED


def test_an_expired_claim_of_a_live_original_is_taken_over(start_original: StartSession, session: Session) -> None:
    holder = start_original()
    holder.call("tryClaim", KEY, minutes=-1)
    attempt = session.try_claim(KEY, "ci")
    assert attempt.claimed and attempt.taken_over
    assert attempt.taken_over.state is ClaimState.EXPIRED
    assert isinstance(attempt.taken_over.found, Claim)
    assert attempt.taken_over.found.holder.name == holder.name


@pytest.mark.parametrize("reaped", [True, False])
def test_a_claim_of_a_dead_original_is_orphaned(start_original: StartSession, session: Session, reaped: bool) -> None:
    holder = start_original()
    holder.call("tryClaim", KEY)
    if reaped:
        holder.kill_and_reap()
    else:
        holder.kill()
    attempt = session.try_claim(KEY, "ci")
    assert attempt.claimed and attempt.taken_over
    assert attempt.taken_over.state is ClaimState.ORPHANED


def test_a_claim_of_the_original_on_another_host_is_held_until_it_expires(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    holder = start_original()
    holder.call("tryClaim", KEY)
    holder.kill_and_reap()
    there = record(store, SCOPED)
    there.write_text(there.read_text().replace(holder.name, f"elsewhere:{holder.pid}"))
    assert session.try_claim(KEY, "ci").status is Status.HELD


@pytest.mark.rule("A11")
def test_a_corrupt_record_counts_as_held(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    start_original().call("tryClaim", KEY)
    there = record(store, SCOPED)
    there.write_bytes(there.read_bytes()[:20])
    attempt = session.try_claim(KEY, "ci")
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Unreadable)
    assert not expiry.is_past_any_ttl(attempt.found, attempt.now)


def test_we_wait_for_a_live_lock_of_the_original_and_the_error_names_it(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    inside = start_original()
    assert inside.ask(call="tryClaim", plugin="ci", key=KEY, stops=["inside"]) == {"paused": "inside"}
    # The lock looks old, but its owner lives.
    make_old(lock(store, SCOPED), 3_600)
    meta = lock(store, SCOPED) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"createdAt": "2026-01-01T00:00:00.000Z"}))
    with pytest.raises(
        LockDirectoryBusyError, match=f"is 60 min old, of process {inside.pid}, which lives.*Other keys"
    ):
        session.try_claim(KEY, "ci", lock_timeout=0.1)
    assert session.try_claim("another key", "ci", lock_timeout=0).claimed
    assert inside.ask(go=True) == {"answer": {"claimed": True}}
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_the_lock_of_a_dead_original_is_removed_at_once(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    inside = start_original()
    inside.ask(call="tryClaim", plugin="ci", key=KEY, stops=["inside"])
    inside.kill()
    assert session.try_claim(KEY, "ci", lock_timeout=0).status is Status.ACQUIRED
    assert not lock(store, SCOPED).exists()


def test_a_lock_of_the_original_without_meta_is_removed_after_10_s(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    slow = start_original()
    assert slow.ask(call="tryClaim", plugin="ci", key=KEY, stops=["made"]) == {"paused": "made"}
    make_old(lock(store, SCOPED), 9)
    with pytest.raises(LockDirectoryBusyError):
        session.try_claim(KEY, "ci", lock_timeout=0.05)
    make_old(lock(store, SCOPED), 11)
    assert session.try_claim(KEY, "ci", lock_timeout=0).status is Status.ACQUIRED
    # Its process was alive after all; its call fails, and it holds nothing.
    assert slow.ask(go=True) == {"failed": "ENOENT"}
    assert session.inspect(KEY, "ci").held_by_you


@pytest.mark.rule("A2")
def test_the_claims_of_a_scoped_plugin_of_the_original_are_in_every_view(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    live, dead = start_original(), start_original()
    for plugin in ("@scope/plugin", "a/b/c"):
        live.call("tryClaim", "red", plugin=plugin)
        dead.call("tryClaim", "blue", plugin=plugin)
    # Beside a plugin's claims there may be directories of other programs.
    cache = Path(store.directory, "@scope", "plugin", "cache")
    cache.mkdir()
    (cache / "package.json").write_text('{"name": "x"}')
    cache.chmod(0o775)
    dead.kill_and_reap()
    views = [session.list_claims().claims, *(session.list_claims(name).claims for name in ("@scope/plugin", "a/b/c"))]
    seen = [[(each.found.scoped, each.state) for each in view if isinstance(each.found, Claim)] for view in views]
    for plugin, view in zip(("@scope/plugin", "a/b/c"), seen[1:], strict=True):
        assert view == [
            (ScopedKey(plugin, "blue"), ClaimState.ORPHANED),
            (ScopedKey(plugin, "red"), ClaimState.HELD),
        ]
    assert seen[0] == seen[1] + seen[2] and len(views[0]) == 4
    pruned = session.prune()
    assert (pruned.orphaned, pruned.live, pruned.kept_unreadable) == (2, 2, ())
    (damaged := Path(store.directory, "@scope", "plugin", "red.json")).write_text("{")
    assert [each.where for each in store.scan() if isinstance(each, Unreadable)] == [str(damaged)]


# We act first, then the original does.


@pytest.mark.rule("A4")
def test_the_original_sees_our_claim_as_held(start_original: StartSession, session: Session) -> None:
    session.try_claim(KEY, "ci")
    other = start_original()
    assert other.call("tryClaim", KEY) == {"claimed": False, "holder": session.holder.name}
    assert other.call("isClaimedByOther", KEY) is True
    other.call("release", KEY)
    assert other.call("prune") == 0
    assert session.try_claim(KEY, "ci").status is Status.RENEWED
    assert other.call("tryClaim", KEY)["claimed"] is False


def test_the_original_finds_a_key_free_that_we_released(start_original: StartSession, session: Session) -> None:
    session.try_claim(KEY, "ci")
    assert session.release(KEY, "ci").released
    assert start_original().call("tryClaim", KEY) == {"claimed": True}
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_the_original_takes_over_our_expired_claim(start_original: StartSession, store: AgentAwarenessStore) -> None:
    grant(store, expired_claim())
    holder = start_original()
    assert holder.call("tryClaim", KEY) == {"claimed": True}
    found = store.read(SCOPED)
    assert isinstance(found, Claim)
    assert found.holder.name == holder.name


def test_the_original_takes_over_from_our_dead_process(start_original: StartSession, start_ours: StartSession) -> None:
    holder = start_ours()
    assert holder.ask(call="try_claim", key=KEY, plugin="ci")["answer"]["status"] == "acquired"
    other = start_original()
    assert other.call("tryClaim", KEY)["claimed"] is False
    holder.kill_and_reap()
    assert other.call("tryClaim", KEY) == {"claimed": True}


@pytest.mark.rule("A11", "A13")
def test_the_original_takes_a_corrupt_record_for_free_and_we_report_the_loss(
    start_original: StartSession, session: Session, store: AgentAwarenessStore
) -> None:
    session.try_claim(KEY, "ci")
    record(store, SCOPED).write_bytes(b'{"holder": "half')
    assert start_original().call("tryClaim", KEY) == {"claimed": True}
    lost = session.try_claim(KEY, "ci")
    assert lost.status is Status.HELD
    assert lost.lost


@pytest.mark.rule("A5")
def test_the_original_waits_for_our_lock(
    start_original: StartSession, start_ours: StartSession, store: AgentAwarenessStore
) -> None:
    inside = start_ours("stop")
    inside.send(call="try_claim", key=KEY, plugin="ci")
    inside.await_stop()
    assert {path.name for path in lock(store, SCOPED).iterdir()} == {"meta.json"}
    other = start_original()
    other.send(call="tryClaim", plugin="ci", key=KEY)
    inside.go_on()
    assert inside.receive()["answer"] == {"status": "acquired", "holder": inside.name}
    assert other.receive()["answer"] == {"claimed": False, "holder": inside.name}


def test_the_original_breaks_the_lock_of_our_dead_process(
    start_original: StartSession, start_ours: StartSession, store: AgentAwarenessStore
) -> None:
    inside = start_ours("stop")
    inside.send(call="try_claim", key=KEY, plugin="ci")
    inside.await_stop()
    inside.kill_and_reap()
    assert start_original().call("tryClaim", KEY) == {"claimed": True}
    assert not lock(store, SCOPED).exists()


def test_the_original_breaks_our_lock_without_meta_after_10_s(
    start_original: StartSession, store: AgentAwarenessStore
) -> None:
    # The state between our `mkdir` and our `link`, where one of our processes may also have died.
    lock(store, SCOPED).mkdir(parents=True)
    other = start_original()
    paused = other.ask(call="tryClaim", plugin="ci", key=KEY, stops=["no meta", "no meta", "stale"])
    assert paused == {"paused": "no meta"}
    assert other.ask(go=True) == {"paused": "no meta"}, "it did not wait for a fresh lock"
    make_old(lock(store, SCOPED))
    assert other.ask(go=True) == {"paused": "stale"}
    assert other.ask(go=True) == {"answer": {"claimed": True}}


# What outlives its process.


def dead_session(store: AgentAwarenessStore, *, kind: str) -> Session:
    """Return a session that outlives its process, as if that had ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    machine = local_machine()
    machine.pid = lambda: child.pid  # type: ignore[method-assign]  # As that process saw it.
    if kind == "name":
        return named_session(store, "nightly", machine)
    return handle_session(store, machine, 4242, b"nonce", bound=False)


@pytest.mark.rule("A15")
@pytest.mark.parametrize("kind", ["name", "handle"])
def test_the_original_neither_takes_nor_prunes_a_claim_that_outlives_its_process(
    start_original: StartSession, store: AgentAwarenessStore, session: Session, kind: str
) -> None:
    holder = dead_session(store, kind=kind)
    assert holder.try_claim(KEY, "ci").status is Status.ACQUIRED
    other = start_original()
    assert other.call("tryClaim", KEY)["claimed"] is False
    assert other.call("isClaimedByOther", KEY) is True
    assert other.call("prune") == 0
    attempt = session.try_claim(KEY, "ci")
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Claim) and attempt.found.holder.name == holder.holder.name
    assert dead_session(store, kind=kind).try_claim(KEY, "ci").status is Status.RENEWED
    assert dead_session(store, kind=kind).release(KEY, "ci").released
    assert other.call("tryClaim", KEY) == {"claimed": True}


@pytest.mark.rule("A15")
def test_the_original_neither_redoes_nor_prunes_what_an_ended_session_has_done(
    start_original: StartSession, start_ours: StartSession, session: Session
) -> None:
    worker = start_ours()
    assert worker.ask(call="try_claim", key=KEY, plugin="ci")["answer"]["status"] == "acquired"
    assert worker.ask(call="release", key=KEY, plugin="ci", outcome="done")["answer"]["released"]
    worker.kill_and_reap()
    other = start_original()
    assert other.call("prune") == 0
    assert other.call("tryClaim", KEY)["claimed"] is False
    assert session.try_claim(KEY, "ci").status is Status.DONE


@pytest.mark.rule("A15")
def test_only_what_ends_with_its_process_is_judged_by_the_original_by_its_pid(store: AgentAwarenessStore) -> None:
    """A claim that this program can prove dead is free for the original at once, and no other."""
    here = f"{socket.gethostname()}:"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for number, (session, judged) in enumerate(
            [
                (process_session(store), True),
                (session_for_process(store, child.pid), True),
                (handle_session(store, local_machine(), os.getpid(), b"a", bound=True), True),
                (handle_session(store, local_machine(), os.getpid(), b"b", bound=False), False),
                (named_session(store, "ci"), False),
            ]
        ):
            scoped = ScopedKey("ci", f"key {number}")
            session.try_claim(*reversed(scoped))
            written = json.loads(record(store, scoped).read_text())["holder"]
            assert written.startswith(here) is judged
            assert written.endswith(session.holder.name)
            session.release(*reversed(scoped), outcome="done")
            assert not json.loads(record(store, scoped).read_text())["holder"].startswith(here)
            found = store.read(scoped)
            assert isinstance(found, Claim) and found.holder.name == session.holder.name


# Keys with the same file name.


@pytest.mark.rule("A3")
def test_two_keys_with_one_file_exclude_each_other_and_the_refusal_names_the_other_key(
    session: Session, store: AgentAwarenessStore
) -> None:
    holder = session.try_claim("a/b", "ci").found
    attempt = session.try_claim("a:b", "ci")
    assert attempt.status is Status.HELD, "the session holds the other key, not this one"
    assert attempt.found == holder
    assert session.inspect("a:b", "ci").claimed_by_other
    assert not session.release("a:b", "ci").released
    assert session.inspect("a/b", "ci").held_by_you
    assert session.release("a/b", "ci").released
    assert session.try_claim("a:b", "ci").claimed
    assert store.read(ScopedKey("ci", "a/b")) == store.read(ScopedKey("ci", "a:b"))


def test_an_expired_claim_on_another_key_with_the_same_file_is_taken_over(
    session: Session, store: AgentAwarenessStore
) -> None:
    grant(store, expired_claim()._replace(scoped=ScopedKey("ci", "a/b")))
    attempt = session.try_claim("a:b", "ci")
    assert attempt.claimed and attempt.taken_over
    assert session.inspect("a:b", "ci").held_by_you
    assert session.inspect("a/b", "ci").claimed_by_other


def test_inspect_removes_an_expired_claim_on_another_key_with_the_same_file(
    session: Session, store: AgentAwarenessStore
) -> None:
    grant(store, expired_claim()._replace(scoped=ScopedKey("ci", "a/b")))
    assert not session.inspect("a:b", "ci").claimed_by_other
    assert store.read(ScopedKey("ci", "a/b")) is None


@pytest.mark.rule("A3")
def test_a_claim_of_the_original_holds_every_key_with_the_same_file(
    start_original: StartSession, session: Session
) -> None:
    start_original().call("tryClaim", "a/b")
    for key in ("a/b", "a:b", "a#b", "a\\b", "a_b"):
        assert session.try_claim(key, "ci").status is Status.HELD
    assert session.try_claim("a-b", "ci").claimed
