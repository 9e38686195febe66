"""Which session is served next: the rules of tickets, which order those that wait.  Pure.

A ticket decides only the order.  Who holds a key is decided by the compare-and-swap of its record, so a list of tickets
that is lost or damaged costs places, never exclusion.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta

from mcp_claims.model import expiry
from mcp_claims.model.keys import conflict
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, Claim, Holder, Moment, ScopedKey, Ticket, Use

KEPT_PLACE = timedelta(seconds=30)
"""How long a session keeps its place after its wait has ended without the key, so that its next call goes on waiting."""

MAX_TICKETS = 1_000
"""The most tickets of one namespace; a session that waits beyond that has none."""

_LAPSED_KEPT = timedelta(minutes=10)  # in which a session whose turn has lapsed can have its place back, once
_SIMULTANEOUS = timedelta(seconds=1)


def is_waiting(ticket: Ticket, now: Moment) -> bool:
    """Return whether *ticket* counts at *now*, provided that its holder lives."""
    return not ticket.lapsed and not expiry.has_passed(ticket.until, now)


def wants(ticket: Ticket, *keys: ScopedKey) -> bool:
    """Return whether the session of *ticket* waits for a key that nobody can hold while another holds one of *keys*."""
    return any(conflict(each, key) for each in ticket.keys for key in keys)


def wanting(tickets: Iterable[Ticket], *keys: ScopedKey) -> list[Ticket]:
    """Return those of *tickets* that want one of *keys*."""
    return [ticket for ticket in tickets if wants(ticket, *keys)]


def ticket_of(tickets: Iterable[Ticket], scoped: ScopedKey, holder: Holder, now: Moment) -> Ticket | None:
    """Return the waiting ticket of the session of *holder* for *scoped*."""
    return next((each for each in tickets if _is_of(each, scoped, holder) and is_waiting(each, now)), None)


def ahead_of(
    tickets: Iterable[Ticket],
    scoped: ScopedKey,
    holder: Holder,
    now: Moment,
    also: Iterable[ScopedKey] = (),
    use: Use = ALONE,
) -> list[Ticket]:
    """Return the tickets of other sessions that go before *holder* in the order in which *scoped*, and *also*, are granted.

    Those of a use that goes with *use* do not count.

    A session without a ticket may overtake one that is not yet a second old: it then came at the same time.  But where it
    gives way to an older one, it gives way to all before that too, since numbers are given in another order than times.
    """
    tickets = list(tickets)
    own = ticket_of(tickets, scoped, holder, now)
    others = [
        each
        for each in wanting(tickets, scoped, *also)
        if is_waiting(each, now) and not is_same_session(each.holder.name, holder.name) and not each.use.goes_with(use)
    ]
    if own is not None:
        return [each for each in others if each.number < own.number]
    older = [each.number for each in others if -expiry.remaining(each.taken, now) > _SIMULTANEOUS]
    return [each for each in others if each.number <= max(older, default=0)]


def joined(
    tickets: Iterable[Ticket],
    keys: tuple[ScopedKey, ...],
    holder: Holder,
    now: Moment,
    wait: timedelta,
    *,
    any_of_them: bool = False,
    use: Use = ALONE,
) -> tuple[Ticket, ...]:
    """Return *tickets* with one of *holder* for *keys* that counts for *wait* and `KEPT_PLACE` longer.

    A ticket that the session already has for them, of the same *use*, keeps its number; so does a lapsed one, once.  A new ticket comes last, and
    has the number 0 until it is stored.  It replaces the session's tickets for some of these keys and others.
    """
    until = expiry.later(now, wait + KEPT_PLACE)
    for index, ticket in enumerate(tickets := tuple(tickets)):
        if ticket.keys == keys and ticket.use == use and is_same_session(ticket.holder.name, holder.name):
            longer = max(ticket.until, until, key=lambda moment: expiry.remaining(moment, now))
            own = ticket._replace(
                holder=holder,
                until=until if ticket.lapsed else longer,
                lapsed=False,
                returned=ticket.returned or ticket.lapsed,
            )
            return (*tickets[:index], own, *tickets[index + 1 :])
    # A session has one ticket for a key: etcd has no room for a second one, and elsewhere a key would be reserved for a wait
    # that is over, in the way of all behind it.
    others = (each for each in tickets if not any(_is_of(each, scoped, holder) for scoped in keys))
    return (*others, Ticket(0, keys, holder, now, until, any=any_of_them, use=use))


def left(tickets: Iterable[Ticket], scoped: ScopedKey, holder: Holder) -> tuple[Ticket, ...]:
    """Return *tickets* without those of *holder* for *scoped*."""
    return tuple(ticket for ticket in tickets if not _is_of(ticket, scoped, holder))


def lapsed(tickets: Iterable[Ticket], reservation: Claim) -> tuple[Ticket, ...]:
    """Return *tickets* after *reservation* has lapsed: its session loses its place, for good if that happens again.

    A ticket that was taken after the reservation was made stays: somebody else has noted the lapse before.
    """
    result: list[Ticket] = []
    for ticket in tickets:
        newer = expiry.remaining(ticket.taken, reservation.claimed) > timedelta(0)
        if not _is_of(ticket, reservation.scoped, reservation.holder) or ticket.lapsed or newer:
            result.append(ticket)
        elif not ticket.returned:
            result.append(ticket._replace(lapsed=True, until=expiry.later(reservation.expires, _LAPSED_KEPT)))
    return tuple(result)


def current(tickets: Iterable[Ticket], now: Moment, provably_dead: Callable[[Holder], bool]) -> tuple[Ticket, ...]:
    """Return *tickets* without those whose time is over or whose holder is dead."""
    return tuple(
        ticket for ticket in tickets if not expiry.has_passed(ticket.until, now) and not provably_dead(ticket.holder)
    )


def _is_of(ticket: Ticket, scoped: ScopedKey, holder: Holder) -> bool:
    return scoped.base in ticket.keys and is_same_session(ticket.holder.name, holder.name)
