"""The store: a register per key, on etcd."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Found, Holder, Leased, Moment, Outcome, Proof, ScopedKey, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, SECRET_BYTES, Swap, call_deadline, deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.gateway import ANSWER_WITHIN, NOT_FOUND, RefusedError, Transport, UnansweredError
from mcp_claims.stores.etcd.keepalive import Tender
from mcp_claims.stores.etcd.keys import Names, after_all, unspell
from mcp_claims.stores.etcd.lease import SHORTEST_TTL, Lease, ProcessLease, grant_lease, lease_seconds, revoke_lease
from mcp_claims.stores.etcd.messages import Change
from mcp_claims.stores.etcd.txn import Changes
from mcp_claims.stores.etcd.watch import Watching

_PAGE = 500


class Here(Protocol):
    """What the store has to know of the machine that it runs on."""

    def now(self) -> Moment:
        """Return the time on both clocks."""
        ...

    def host(self) -> str:
        """Return the name of the machine, for people."""
        ...

    def pid(self) -> int:
        """Return the PID of the calling process."""
        ...

    def proof(self) -> Proof:
        """Return by what the death of the calling process can be proved."""
        ...


@dataclass(frozen=True, slots=True)
class _Process:
    """What belongs to one process; a forked child needs its own connections, threads and lease."""

    holder_pid: int
    proof: Proof
    transport: Transport
    lease: ProcessLease
    changes: Changes
    tender: Tender
    watching: Watching


class EtcdStore:
    """Claims below the prefix of *address*, shared by all machines that reach the cluster."""

    remote = True
    shortest_lease = SHORTEST_TTL
    """Seconds that the lease of a single claim has at least."""

    def __init__(self, address: Address, here: Here) -> None:
        self.address = address
        self._here = here
        self._names = Names(address.prefix)
        self._processes: dict[int, _Process] = {}

    def read(self, scoped: ScopedKey) -> Found:
        key = self._names.claim(scoped)
        with self._answering():
            stored = self._process().changes.stored(key, deadline_in(ANSWER_WITHIN))
        return None if stored is None else messages.claim_in(stored, key)

    def swap(
        self, scoped: ScopedKey, old: Claim | None, new: Claim | None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> Swap:
        key = self._names.claim(scoped)
        # All that it takes, giving up a lease included, has one time together.
        with self._answering(), call_deadline(deadline_in(ANSWER_WITHIN)):
            if old is not None and old.leased is None:
                # Not as we returned it, so its revision has to be found out.
                found = self.read(scoped)
                if found != old or not isinstance(found, Claim):
                    return Swap(False, found)
                old = found
            return self._swap(key, old, new, deadline_in(ANSWER_WITHIN))

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap(found.scoped, found, None, lock_timeout=lock_timeout).won
        (revision,) = found.fingerprint
        assert isinstance(revision, int)
        with self._answering():
            change = Change(unspell(found.where), revision, None)
            return self._process().changes.make(change, deadline_in(ANSWER_WITHIN)).revision is not None

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        fresh = secrets.token_bytes(SECRET_BYTES)
        with self._answering():
            transport, until = self._process().transport, deadline_in(ANSWER_WITHIN)
            # Asked twice, it answers with what the first asking has made.
            answer = transport.ask("/kv/txn", messages.creation(self._names.secret, fresh), until)
        if answer.get("succeeded"):
            return fresh
        (stored,) = messages.seen_by_loser(answer)
        if stored is None or len(stored.value) != SECRET_BYTES:
            damaged = "the secret of the session handles is damaged (delete it: all handles given so far are void then)"
            raise StoreUnavailableError(f"{self.address}/secrets/handles", OSError(errno.EIO, damaged))
        return stored.value

    def scan(self, namespace: str | None = None, after: str = "") -> Iterator[Claim | Unreadable]:
        beginning = self._names.namespace(namespace)
        start, end = max(beginning, self._names.behind(after)) if after else beginning, after_all(beginning)
        until = deadline_in(ANSWER_WITHIN)
        while start < end:
            with self._answering():
                wanted = messages.many(start, end, _PAGE)
                process = self._process()
                answer = process.transport.ask("/kv/range", wanted, until)
            process.changes.saw(answer)
            page = messages.stored_in(answer)
            for stored in page:
                found = messages.claim_in(stored)
                if isinstance(found, Claim):
                    found = messages.claim_in(stored, self._names.claim(found.scoped))
                yield found
            if not answer.get("more"):
                return
            # However many there are: a cluster that has answered once is asked on.
            start, until = page[-1].key + b"\0", time.monotonic() + ANSWER_WITHIN

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        if isinstance(target, ScopedKey):
            return self._process().watching.of(self._names.claim(target).__eq__, notify)
        beginning = self._names.namespace(target)
        return self._process().watching.of(lambda key: key.startswith(beginning), notify)

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        return nullcontext(False)

    def position(self, found: Claim | Unreadable) -> str:
        key = self._names.claim(found.scoped) if isinstance(found, Claim) else unspell(found.where)
        return self._names.position(key)

    def close(self, *, within: float) -> None:
        process = self._processes.pop(os.getpid(), None)
        if process is None:
            return
        process.tender.end()
        try:
            process.lease.revoke(deadline_in(within))
        except (UnansweredError, RefusedError):
            # It has been given up, and nobody renews it any more.
            return

    def trusted(self, claim: Claim) -> bool:
        """Tell whether *claim*, which was granted here, is certain to be there still, without asking anybody.

        By the holder's own clock alone: neither is its time up, nor has the lease gone without an answer for too long.
        """
        if claim.leased is None or expiry.has_passed(claim.expires, self._here.now()):
            return False
        process = self._process()
        lease = process.lease.current
        if not self._lives_here(claim.holder, process):
            return True  # Under a lease of its own, which is longer than its time.
        return lease is not None and lease.id == claim.leased.lease and process.lease.is_trusted(lease)

    def _swap(self, key: bytes, old: Claim | None, new: Claim | None, until: float) -> Swap:
        process = self._process()
        before = 0 if old is None or old.leased is None else old.leased.revision
        while True:
            shared = self._shared_lease(new, process, until)
            if new is not None and shared is None and old is None:
                # Making a lease is a write, which whoever waits would make in vain again and again.
                stored = process.changes.stored(key, until)
                if stored is not None:
                    return Swap(False, messages.claim_in(stored, key))
            lease = shared.id if shared else self._own_lease(new, process, until)
            fence = (shared.fence, shared.fenced_at) if shared and new is not None and not new.generation else None
            change = Change.to(new, key, before, lease, fence) if new is not None else Change(key, before, None)
            if shared and new is not None:
                process.tender.expect(key, new.expires.ticks)
            try:
                made = process.changes.make(change, until, shared)
            except RefusedError as error:
                if error.code != NOT_FOUND or new is None:
                    raise
                if shared is not None:
                    process.tender.forget(key, new.expires.ticks)
                    process.lease.lost(shared)
                continue
            if made.revision is None:
                stored = made.seen[0]
                if shared is not None and new is not None:
                    process.tender.forget(key, new.expires.ticks)
                elif lease:
                    self._give_up(lease, process)
                if shared is not None and fence is not None and (stored.revision if stored else 0) == before:
                    # Not the key has changed but the fence: the lease is gone, or another grant was made void.
                    fenced = made.seen[1]
                    if fenced is None:
                        process.lease.lost(shared)
                    else:
                        process.lease.noticed(shared, fenced.revision)
                    continue
                found = None if stored is None else messages.claim_in(stored, key)
                if made.maybe and old is not None and self._ended_by_us(old, new, found):
                    process.tender.forget(key, old.expires.ticks)
                    return Swap(True, None)
                return Swap(False, found)
            if old is not None:
                process.tender.forget(key, old.expires.ticks)
            if new is None:
                return Swap(True, None)
            if shared and not process.changes.is_there(shared, change, until):
                # We were stopped for so long that it may have been somebody else's by now.
                stored = process.changes.stored(key, until)
                return Swap(False, None if stored is None else messages.claim_in(stored, key))
            won = new._replace(generation=new.generation or made.revision, leased=Leased(lease, made.revision))
            return Swap(True, won)

    def _ended_by_us(self, old: Claim, new: Claim | None, found: Found) -> bool:
        """Tell whether it was by our asking that *old* has ended, where that had no answer and *found* is there instead.

        Its time was not up and its lease was there, so nobody else could end it but by force, which leaves a marker.
        """
        if (new is not None and new.ended is None) or not isinstance(found, Claim) or not self.trusted(old):
            return False
        # A parallel call may have renewed it: told as released, it would be held until that renewal's time is up.
        same_grant = found.generation == old.generation
        return not same_grant and (found.ended is None or found.ended.outcome is not Outcome.REVOKED)

    def _give_up(self, lease: int, process: _Process) -> None:
        """End *lease*, under which nothing is."""
        try:
            revoke_lease(process.transport, lease, deadline_in(ANSWER_WITHIN))
        except (UnansweredError, RefusedError):
            return  # It ends by itself.

    def _shared_lease(self, new: Claim | None, process: _Process, until: float) -> Lease | None:
        """Return the lease of this process if *new* is to be under it."""
        if new is None or new.ended is not None or not self._lives_here(new.holder, process):
            return None
        return process.lease.get(until)

    def _own_lease(self, new: Claim | None, process: _Process, until: float) -> int:
        """Have a lease made for *new* alone: a marker, or the claim of a session that outlives this process."""
        if new is None:
            return 0
        left = expiry.remaining(new.expires, self._here.now()).total_seconds()
        return grant_lease(process.transport, lease_seconds(left, self.shortest_lease), until)

    def _lives_here(self, holder: Holder, process: _Process) -> bool:
        """Tell whether the session of *holder* ends with this process."""
        return holder.pid == process.holder_pid and holder.proof == process.proof and process.proof.boot is not None

    def _process(self) -> _Process:
        return self._processes.get(pid := os.getpid()) or self._begin(pid)

    def _begin(self, pid: int) -> _Process:
        # Of an ancestor, whose PID one of its descendants may have one day.
        for other in [other for other in list(self._processes) if other != pid]:
            self._processes.pop(other, None)
        transport = Transport(self.address)
        about = f"{self._here.host()}:{pid}"
        lease = ProcessLease(transport, self._names, self._ticks, about)
        changes = Changes(transport, lease, lambda grant: tender.doubt(grant))
        tender = Tender(lease, self._ticks, self._expire, changes.settle)
        watching = Watching(transport, self._names.claims, lambda: changes.seen, changes.forget_seen)
        made = _Process(self._here.pid(), self._here.proof(), transport, lease, changes, tender, watching)
        # Threads that begin at once have to have one lease and one tender.  No lock: a forked child could find it locked.
        return self._processes.setdefault(pid, made)

    def _ticks(self) -> float:
        return self._here.now().ticks

    def _expire(self, key: bytes) -> None:
        """Take the claim at *key* away if it is under our lease and its time is up."""
        process, until = self._process(), deadline_in(ANSWER_WITHIN)
        stored, lease = process.changes.stored(key, until), process.lease.current
        if stored is None or lease is None or stored.lease != lease.id:
            return
        found = messages.claim_in(stored, key)
        if isinstance(found, Claim) and expiry.is_expired(found, self._here.now()):
            process.changes.make(Change(key, stored.revision, None), until)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what the cluster does not do into errors of the store."""
        try:
            yield
        except UnansweredError as error:
            unanswered = OSError(errno.ETIMEDOUT, f"no endpoint of etcd has answered in time: {error}")
            raise StoreUnavailableError(str(self.address), unanswered) from error
        except RefusedError as error:
            raise StoreUnavailableError(str(self.address), OSError(errno.EPROTO, f"etcd refuses: {error}")) from error
