"""Making one change, and knowing whether it was made: what is not answered is found out by reading, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import ANSWER_WITHIN, RefusedError, Transport, UnansweredError
from mcp_claims.stores.etcd.lease import Lease, ProcessLease, revoke_lease
from mcp_claims.stores.etcd.messages import Change, Stored


class Made(NamedTuple):
    """What became of a change.

    `revision` is the one that it made.  It is `None` if the change was not found to be made; then `seen` is what was found
    instead, at the key and the fence, and `maybe` tells that it may have been made all the same, and be gone since.
    """

    revision: int | None
    seen: tuple[Stored | None, ...] = ()
    maybe: bool = False


class Changes:
    """The changes of one process, of which grants are under *lease* or one of their own.

    *doubt* is told of a grant that nobody knows the outcome of, to `settle` it later.  Methods raise as `Transport.ask` does.
    """

    def __init__(self, transport: Transport, lease: ProcessLease, doubt: Callable[[Change], None]) -> None:
        self._transport, self._lease, self._doubt = transport, lease, doubt
        self.seen = 0
        """The latest revision of the cluster that is known, 0 if none is."""

    def stored(self, key: bytes, until: float) -> Stored | None:
        """Return what is at *key*."""
        answer = self._transport.ask("/kv/range", messages.one(key), until)
        self.saw(answer)
        return next(iter(messages.stored_in(answer)), None)

    def make(self, change: Change, until: float, shared: Lease | None = None) -> Made:
        """Make *change*; return what became of it.

        *shared* is the lease of this process if a grant is under it.  Whether a grant was made is known when this returns,
        and when it raises `RefusedError`.
        """
        asked_before = False
        while True:
            try:
                answer = self._transport.ask("/kv/txn", change.question(), until, again=False)
            except UnansweredError as error:
                if not error.maybe_done:
                    raise
            else:
                revision = self.saw(answer)
                if answer.get("succeeded"):
                    return Made(revision)
                seen = messages.seen_by_loser(answer)
                # What was not answered before may have come just before this, and be what this has lost to.
                return Made(self._made_at(change, seen[0]) if asked_before else None, tuple(seen), asked_before)
            asked_before = True
            try:
                stored = self._find_out(change, shared, until)
            except (UnansweredError, RefusedError):
                if change.is_grant:
                    self._doubt(change)
                raise
            if (revision_made := self._made_at(change, stored)) is not None:
                return Made(revision_made)
            if (stored.revision if stored else 0) != change.before:
                return Made(None, (stored,), maybe=True)
            # It was not made, and never will be, so it can be asked for anew; a grant, under the fence of now.
            if change.fence is not None:
                return Made(None, (stored, self.stored(change.fence[0], until)))

    def is_there(self, shared: Lease, change: Change, until: float) -> bool:
        """Tell whether *shared*, under which *change* was made, is there still; asks only where our clock does not tell."""
        if self._lease.is_trusted(shared):
            return True
        try:
            return self._lease.renew(shared, until)
        except (UnansweredError, RefusedError):
            if change.is_grant:
                self._doubt(change)
            raise

    def settle(self, grant: Change) -> None:
        """Take away what *grant* has put, if it was made although its caller was told that it failed."""
        until = deadline_in(ANSWER_WITHIN)
        if grant.fence is None:
            revoke_lease(self._transport, grant.lease, until)
        elif (lease := self._lease.current) is not None:
            self._lease.void(lease, until)
        stored = self.stored(grant.key, until)
        if stored is not None and grant.mark.encode() in stored.value:
            self.make(Change(grant.key, stored.revision, None), until)

    def saw(self, answer: dict[str, Any]) -> int:
        """Note up to which revision *answer* tells of; return it."""
        revision = messages.revision_of(answer)
        self.seen = max(self.seen, revision)
        return revision

    def forget_seen(self) -> None:
        """Count anew: the cluster has counted less far than what was seen."""
        self.seen = 0

    def _find_out(self, change: Change, shared: Lease | None, until: float) -> Stored | None:
        """Return what is at the key after *change* had no answer, once it can no longer be made later than this."""
        if change.fence is not None and shared is not None:
            self._lease.void(shared, until)
        stored = self.stored(change.key, until)
        if change.is_grant and shared is None and not change.made(stored):
            # A lease of its own: without it, the claim cannot come any more, and goes if it came just now.
            revoke_lease(self._transport, change.lease, until)
        return stored

    def _made_at(self, change: Change, stored: Stored | None) -> int | None:
        """Return the revision by which *change* was made, if *stored* is what it has left."""
        if change.made(stored):
            assert stored is not None
            return stored.revision
        if stored is None and change.value is None:
            return self.seen  # Gone, as was wanted.
        return None
