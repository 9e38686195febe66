"""Keys that several sessions hold: a claim for each of them in a place of its own, and the head, which lists these.

A claim in a place is granted, renewed and lost as any other.  That several sessions do not hold a key in ways that exclude
each other, nor too many of them, is decided at one record, the head: whoever comes or goes changes it, too.  The rules are M1
to M6 of docs/design/several-holders.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from mcp_claims.errors import ContendedError
from mcp_claims.model import expiry
from mcp_claims.model.digest import sha256
from mcp_claims.model.records import Claim, Found, Holder, Mode, Moment, Outcome, ScopedKey, Unreadable, is_head
from mcp_claims.model.validation import MAX_TTL
from mcp_claims.stores.base import LOCK_TIMEOUT, MAX_CHANGES, MAX_SWAPS, Blocks, Change, GivesWay, Store, Swaps

_NOBODY = Holder("several", pid=1)
"""The holder of each head: no session has its name, so none takes a head for its own claim."""

_MEMBER_BYTES = 8


class _UnlistedError(Exception):
    """A claim in a place that its head does not list."""


def shared_member(holder: Holder) -> str:
    """Return the member that the session of *holder* is of the keys that it shares."""
    return sha256(holder.name.encode())[:_MEMBER_BYTES].hex()


def drop(store: Store, head: Claim, ended: Sequence[Change], now: Moment, lock_timeout: float) -> None:
    """Make *ended*, which remove dead or missing members of *head*, or the first of them, unless *head* has changed.

    Whoever comes next drops the others: a change has room for so many.
    """
    known = {head.scoped: head}
    swap(store, ended[: MAX_CHANGES // 2], lambda: now, known=known, lock_timeout=lock_timeout)


def swap(
    store: Store,
    changes: Sequence[Change],
    clock: Callable[[], Moment],
    *,
    known: Mapping[ScopedKey, Found] | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
    gives_way: GivesWay | None = None,
    blocks: Blocks | None = None,
) -> Swaps:
    """Make *changes*, all or none, and those of the heads that they need; return what is stored for *changes*.

    A claim that ends in a place leaves nothing there: the head keeps its marker, for whoever comes next.  But one that was
    revoked stays, so that its session learns why.  *known* is what was found at the keys that the changes were decided by:
    where that has changed, nothing is made.
    """
    if len(changes) == 1 and changes[0].scoped.member is None:
        return Swaps.of_one(store.swap(*changes[0][:3], lock_timeout=lock_timeout, gives_way=gives_way, blocks=blocks))
    for _ in range(MAX_SWAPS):
        try:
            complete = _with_heads(store, changes, known or {}, clock())
        except _UnlistedError:
            return Swaps(False, (None,) * len(changes))
        swaps = store.swap_all(complete, lock_timeout=lock_timeout, gives_way=gives_way, blocks=blocks)
        own = swaps._replace(found=swaps.found[: len(changes)], traces=swaps.traces[: len(changes)])
        refused = swaps.won or swaps.queued or swaps.overlap is not None
        if refused or known is not None or own.found != tuple(change.old for change in changes):
            return own
        # Only a head has changed: another session came or went.
    raise ContendedError(changes[0].scoped.base.key, MAX_SWAPS)


def _with_heads(store: Store, changes: Sequence[Change], known: Mapping[ScopedKey, Found], now: Moment) -> list[Change]:
    """Return *changes* as they are stored, and behind them those of the heads."""
    stored, heads = [_stored(change) for change in changes], []
    decided = {change.scoped for change in changes}
    for base in dict.fromkeys(change.scoped.base for change in changes if change.scoped.member):
        own = [change for change in changes if change.scoped.member and change.scoped.base == base]
        # Most renewals change no head, and need not read it.
        if base in decided or (base not in known and all(map(_is_short_renewal, own))):
            continue
        old = known[base] if base in known else store.read(base)
        if isinstance(old, Unreadable):
            # It counts as held for as long as its members may live that were listed then.  Nobody lives longer unlisted.
            if not all(_ends(change) or _is_short_renewal(change) for change in own):
                raise _UnlistedError
            continue
        new = _head_after(base, old, own, now)
        if new is not old:
            heads.append(Change(base, old, new))
    return [*stored, *heads]


def _stored(change: Change) -> Change:
    new = change.new
    if change.scoped.member is None or new is None:
        return change
    if new.ended is not None and not _is_revoked_there(change):
        return change._replace(new=None)
    # What it has replaced is kept by the head.
    return change._replace(new=new._replace(replaced=None))


def _ends(change: Change) -> bool:
    return change.new is None or change.new.ended is not None


def _is_revoked_there(change: Change) -> bool:
    """Return whether *change* leaves the marker of a revocation of what was in that place, not of the whole key."""
    new = change.new
    return (
        new is not None
        and new.ended is not None
        and new.ended.outcome is Outcome.REVOKED
        and new.scoped == change.scoped
    )


def _is_short_renewal(change: Change) -> bool:
    """Return whether *change* renews a claim for so short that its head certainly outlasts it."""
    old, new = change.old, change.new
    if old is None or new is None or old.ended is not None or new.ended is not None or old.mode is not new.mode:
        return False
    longest = expiry.later(new.claimed, MAX_TTL)
    return old.generation == new.generation and expiry.remaining(new.expires, longest) <= timedelta(0)


def _head_after(base: ScopedKey, old: Claim | None, changes: Sequence[Change], now: Moment) -> Claim | None:
    """Return what is at the key *base* after *changes* in its places; *old* itself if nothing has to change."""
    head = old if is_head(old) else None
    members = [] if head is None else list(head.members)
    replaced = None if head is None else head.replaced
    renews = False
    for change in changes:
        before, new, member = change.old, change.new, change.scoped.member or ""
        if new is None or new.ended is not None:
            members = [each for each in members if each != member]
            if new is not None and not _is_revoked_there(change):
                replaced = new._replace(scoped=base, group=(), slot=None, replaced=None)
            continue
        if member not in members:
            if before is not None and before.generation == new.generation:
                # Whatever is at the key now, this claim is no longer in force, and must not come back beside it.
                raise _UnlistedError
            members.append(member)
        if new.mode is Mode.RESERVED:
            # The key may have been free, with a marker for the next holder.
            replaced = new.replaced or replaced
        elif before is None or before.generation != new.generation or before.mode is Mode.RESERVED:
            replaced = None  # It is told to this one.
        renews = True
    if not members:
        return old if head is None else expiry.uncovered(head._replace(replaced=replaced), now)
    if head is not None and not renews and tuple(members) == head.members and replaced == head.replaced:
        return old
    use = next((change.new.use for change in changes if change.new is not None and change.new.ended is None), None)
    if use is None:
        assert head is not None
        use = head.use
    claimed, expires = now, expiry.later(now, 2 * MAX_TTL)
    if head is not None and expiry.remaining(head.expires, now) >= MAX_TTL:
        # As it was: on etcd its lease then stays, too.
        claimed, expires = head.claimed, head.expires
    return Claim(
        base,
        _NOBODY,
        claimed=claimed,
        expires=expires,
        mode=use.mode,
        slots=use.slots,
        members=tuple(members),
        replaced=replaced,
    )
