"""What hooks of a host claim for its session, and what they do to the claims that the session holds under another name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.records import Claim, Found, Holder, Maker, Mode, ScopedKey
from mcp_claims.session.host_session import HostSession, Whose, whose
from mcp_claims.session.members import is_of
from mcp_claims.session.several import Several
from mcp_claims.stores.base import MAX_SWAPS, Change, Store

_SECOND, _LONGEST = timedelta(seconds=1), timedelta(seconds=30)
_SHARE_OF_TTL = 60
"""A claim is renewed from outside once this part of its TTL has passed, at most 30 s: hooks run many times a minute."""


class Guarded(Several):
    """A session that may act in a host's session, whose hooks claim under a name of their own."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        super().__init__(store, holder, machine)
        self.host: HostSession | None = None
        """The host's session in which this one acts; see `act_in`."""

    @property
    def has_places(self) -> bool:
        """Whether the store holds files and branches."""
        return self._store.has_places

    def act_in(self, host: HostSession) -> None:
        """Set in which session of a host this one acts: what its hooks claim for it is this session's own."""
        self.host = host
        self.holder = self.holder._replace(host_session=host.id, agent=host.agent)

    def is_ours(self, claim: Claim) -> bool:
        """Return whether this session holds *claim*, or the host's session in which it acts, under another name.

        By the id of the host's session alone: for people, and for commands in its shell.
        """
        in_host = self.host is not None and self.host.id is not None and claim.holder.host_session == self.host.id
        return is_of(claim, self.holder) or (in_host and claim.holder.agent is None)

    def amend(self, found: Claim, new: Claim, *, lock_timeout: float = 0) -> Claim | None:
        """Put *new*, the same grant of the same holder, in the place of *found*; return it as it is stored.

        `None` means that it has changed meanwhile, or that it had expired and a file that overlaps is claimed now.
        """
        swap = self._swap([Change(found.scoped, found, new)], found.holder, lock_timeout).only
        return swap.found if swap.won and isinstance(swap.found, Claim) else None

    def free(self, found: Claim, *, exactly: bool = False, lock_timeout: float = 0) -> bool:
        """Release *found*, which this host's session holds under any name; return whether that has ended it.

        Unless it has to be *exactly* that record, a grant that was renewed meanwhile ends, too.
        """
        for _ in range(MAX_SWAPS):
            swap = self._swap_one(Change(found.scoped, found, self._untaken(found, None)), lock_timeout)
            if swap.won:
                self._pass_on(found.scoped, swap.found)
                return True
            again = swap.found
            if exactly or not isinstance(again, Claim) or again.ended is not None:
                return False
            if (again.generation, again.claimed, again.maker) != (found.generation, found.claimed, found.maker):
                return False  # Another grant, or a tool has taken it over.
            found = again
        return False

    def extend(self, found: Claim, *, lock_timeout: float = 0) -> bool:
        """Renew *found*, which this host's session holds under any name, to its own TTL, if some of that has passed; return whether it was.

        Its holder stays, and nothing is shortened.
        """
        now = self._machine.now()
        # The times of a record are on one clock, and this one may be another machine's.
        if (
            found.ttl is None
            or found.ended is not None
            or found.mode is Mode.RESERVED
            or found.claimed.epoch != now.epoch
        ):
            return False
        ttl = timedelta(seconds=found.ttl)
        left = expiry.remaining(found.expires, now)
        if not timedelta(0) < left <= ttl - min(max(_SECOND, ttl / _SHARE_OF_TTL), _LONGEST):
            return False
        return self.amend(found, found._replace(expires=expiry.later(now, ttl)), lock_timeout=lock_timeout) is not None

    def _adopt(self, keys: Sequence[ScopedKey], lock_timeout: float) -> None:
        """Make what hooks have claimed for this host's session, and overlaps with *keys*, claims of this session."""
        if self.host is None or not self._store.has_places:
            return
        for scoped in filter(is_file_key, keys):
            for found in (self._store.read(scoped), *self._store.overlapping(scoped)):
                if self._is_guarded_for_us(found) and self._state_of(found, self._machine.now()) is ClaimState.HELD:
                    # The same grant, with its generation; whoever changes it meanwhile keeps what it has.
                    assert isinstance(found, Claim)
                    self._swap_one(Change(found.scoped, found, found._replace(holder=self.holder)), lock_timeout)

    def _is_guarded_for_us(self, found: Found) -> bool:
        """Return whether a hook has made *found* for the host's session in which this one acts, under another name."""
        if not isinstance(found, Claim) or found.maker != Maker.GUARD or found.ended is not None or self.host is None:
            return False
        return not is_of(found, self.holder) and whose(found, self.host, self._machine) is Whose.OURS
