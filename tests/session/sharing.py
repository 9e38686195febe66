"""Sessions that hold a key at once: how tests take it, and what they ask about who has it."""

from __future__ import annotations

from datetime import timedelta

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import named_holder
from mcp_claims.model.records import Claim, Holder, Mode, ScopedKey, Use
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from tests.session.bench import KEY, Bench

SCOPED = ScopedKey(DEFAULT_NAMESPACE, KEY)
RED, GREEN = ScopedKey(DEFAULT_NAMESPACE, "red"), ScopedKey(DEFAULT_NAMESPACE, "green")
TTL = timedelta(minutes=30)
ALONE_USE, SLOT_USE = Use(), Use(Mode.SLOT, 2)


def attempt(
    session: Session,
    *keys: str,
    slots: int | None = None,
    shared: bool = False,
    reserve: bool = False,
    redo: bool = False,
) -> ClaimResult:
    """Make an attempt; with *reserve* as a call does that has waited."""
    key, *also = keys or (KEY,)
    request = ClaimRequest.parse(key, also=also, slots=slots, shared=shared, redo=redo)
    return session.try_request(session.resolved(request), reserve=reserve)


def share(session: Session, *keys: str, ttl_minutes: float = 30, note: str | None = None) -> Claim:
    """Share keys, which has to be possible; return the claim on the first."""
    key, *also = keys or (KEY,)
    result = session.try_claim(key, also=also, shared=True, ttl_minutes=ttl_minutes, note=note)
    assert result.claimed and isinstance(result.found, Claim), result
    return result.found


def slot(
    session: Session, slots: int = 2, key: str = KEY, *, ttl_minutes: float = 30, note: str | None = None
) -> Claim:
    """Take a slot, which has to be possible."""
    result = session.try_claim(key, slots=slots, ttl_minutes=ttl_minutes, note=note)
    assert result.claimed and isinstance(result.found, Claim), result
    return result.found


def holders(bench: Bench, key: str = KEY) -> dict[str, str]:
    """Return who holds *key*, by what `read` shows: how, or in which slot."""
    return {
        each.found.holder.name: each.found.mode.value if each.found.slot is None else str(each.found.slot)
        for each in bench.session().read(key).claims
        if isinstance(each.found, Claim) and each.state in (ClaimState.HELD, ClaimState.RESERVED)
    }


def named(bench: Bench) -> Session:
    """Open, in a process of its own, a session that has the same name in all of them."""
    machine = bench.world.process()
    return Session(bench.store, Holder(named_holder("rig", "", "ada"), machine.pid(), machine.proof()), machine)


def head(bench: Bench, scoped: ScopedKey = SCOPED) -> Claim | None:
    """Return the head at *scoped*, if there is one."""
    found = bench.store.read(scoped)
    return found if isinstance(found, Claim) and found.members else None


def wait(bench: Bench, session: Session, *keys: str, use: Use) -> None:
    """Let *session* take a ticket, and grow older than a stranger may overtake."""
    scoped = [ScopedKey(DEFAULT_NAMESPACE, key) for key in keys or (KEY,)]
    assert session.queue.join(scoped[0], 300, tuple(scoped[1:]), use=use) is not None
    bench.world.pass_time(2)


def names(*sessions: Session) -> set[str]:
    return {session.holder.name for session in sessions}


def taken_over(result: ClaimResult) -> tuple[ClaimState, str | None] | None:
    """Return the state and the note of what *result* says was there before."""
    if result.taken_over is None or not isinstance(result.taken_over.found, Claim):
        return None
    return result.taken_over.state, result.taken_over.found.note
