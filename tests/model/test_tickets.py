"""The rules of tickets: who goes first, who keeps a place, and who loses it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import ALONE, SHARED, Claim, Holder, Mode, Moment, ScopedKey, Ticket, Use
from mcp_claims.model.tickets import KEPT_PLACE

KEY, OTHER = ScopedKey("ci", "red"), ScopedKey("ci", "blue")
START = Moment(datetime(2026, 11, 23, 12, 0, tzinfo=UTC), 1_000.0, "boot-1")
MINUTE = timedelta(minutes=1)


def at(seconds: float) -> Moment:
    return expiry.later(START, timedelta(seconds=seconds))


def holder(number: int) -> Holder:
    return Holder(f"rig:{number}:{number:012x}", number)


def stored(after: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
    """Return *after* with numbers, as a store gives them."""
    last = max((ticket.number for ticket in after), default=0)
    return tuple(ticket if ticket.number else ticket._replace(number=last + 1) for ticket in after)


def joined(found: tuple[Ticket, ...], number: int, seconds: float, scoped: ScopedKey = KEY) -> tuple[Ticket, ...]:
    return stored(tickets.joined(found, (scoped,), holder(number), at(seconds), MINUTE))


def reservation(number: int, seconds: float) -> Claim:
    return expiry.reserved(KEY, holder(number), at(seconds), None, ClaimState.FREE)


def ahead(found: tuple[Ticket, ...], number: int, seconds: float) -> list[int]:
    return [ticket.holder.pid for ticket in tickets.ahead_of(found, KEY, holder(number), at(seconds))]


@pytest.mark.rule("W2")
def test_those_with_a_lower_number_go_first_and_a_session_without_a_ticket_comes_last() -> None:
    found = joined(joined(joined((), 1, 0), 2, 0), 3, 0)
    assert [ahead(found, number, 2) for number in (1, 2, 3, 4)] == [[], [1], [1, 2], [1, 2, 3]]


@pytest.mark.rule("W2")
@pytest.mark.parametrize(("age", "goes_first"), [(0.0, []), (1.0, []), (1.01, [1])])
def test_a_session_without_a_ticket_overtakes_one_that_came_within_the_same_second(
    age: float, goes_first: list[int]
) -> None:
    assert ahead(joined((), 1, 0), 2, age) == goes_first


@pytest.mark.rule("W2")
def test_a_session_without_a_ticket_that_gives_way_to_one_gives_way_to_all_before_it() -> None:
    # The second waited for the lock of the namespace before it got its number.
    found = joined(joined((), 1, 0.3), 2, 0.0)
    assert [ahead(found, 3, seconds) for seconds in (0.9, 1.2, 1.4)] == [[], [1, 2], [1, 2]]


def test_a_ticket_for_another_key_is_not_in_the_way() -> None:
    assert ahead(joined((), 1, 0, OTHER), 2, 10) == []


@pytest.mark.rule("W8")
def test_a_ticket_counts_for_the_time_of_the_wait_and_thirty_seconds_more() -> None:
    found = joined((), 1, 0)
    end = (MINUTE + KEPT_PLACE).total_seconds()
    assert ahead(found, 2, end - 0.01) == [1]
    assert ahead(found, 2, end) == []
    assert tickets.current(found, at(end), lambda _: False) == ()


@pytest.mark.rule("W8")
def test_a_session_that_waits_again_keeps_its_number_and_the_longer_time() -> None:
    found = joined(joined((), 1, 0), 2, 0)
    again = stored(tickets.joined(found, (KEY,), holder(1), at(10), timedelta(seconds=1)))
    assert [ticket.number for ticket in again] == [1, 2] and again[0].until == found[0].until
    longer = joined(found, 1, 50)
    assert longer[0].until == at(50 + 60 + 30) and longer[0].taken == START


@pytest.mark.rule("W8")
@pytest.mark.parametrize("kept", [KEY, OTHER])
def test_a_new_ticket_replaces_those_of_its_session_that_share_a_key(kept: ScopedKey) -> None:
    third = ScopedKey("ci", "green")
    found = joined(joined(joined((), 1, 0, kept), 2, 0, kept), 1, 0, third)
    both = stored(tickets.joined(found, (KEY, OTHER), holder(1), at(10), MINUTE))
    assert [(each.number, each.holder, each.keys) for each in both] == [
        (2, holder(2), (kept,)),
        (3, holder(1), (third,)),
        (4, holder(1), (KEY, OTHER)),
    ]
    again = stored(tickets.joined(both, (KEY, OTHER), holder(1), at(20), MINUTE))
    assert [each.number for each in again] == [2, 3, 4], "its place for the same keys stays"


def test_the_tickets_of_the_dead_are_dropped() -> None:
    found = joined(joined((), 1, 0), 2, 0)
    assert [each.holder.pid for each in tickets.current(found, at(1), lambda holder: holder.pid == 1)] == [2]


@pytest.mark.rule("W4")
def test_a_lapse_takes_the_place_and_a_wait_within_ten_minutes_restores_it_once() -> None:
    found = joined(joined((), 1, 0), 2, 0)
    lapsed = tickets.lapsed(found, reservation(1, 10))
    assert ahead(lapsed, 2, 71) == [] and ahead(lapsed, 1, 71) == [2]
    assert tickets.lapsed(lapsed, reservation(1, 10)) == lapsed, "whoever notes it second changes nothing"
    back = joined(lapsed, 1, 100)
    assert ahead(back, 2, 101) == [1] and back[0].number == 1
    assert [each.holder.pid for each in tickets.lapsed(back, reservation(1, 110))] == [2], "the second time for good"


@pytest.mark.rule("W4")
def test_after_ten_minutes_the_place_is_gone() -> None:
    lapsed = tickets.lapsed(joined((), 1, 0), reservation(1, 10))
    assert tickets.current(lapsed, at(10 + 60 + 600 - 0.01), lambda _: False) == lapsed
    assert tickets.current(lapsed, at(10 + 60 + 600), lambda _: False) == ()


@pytest.mark.rule("W4")
def test_a_lapse_that_somebody_else_has_noted_before_takes_no_newer_ticket() -> None:
    newer = joined((), 1, 80)
    assert tickets.lapsed(newer, reservation(1, 10)) == newer


def test_leaving_takes_only_the_sessions_ticket_for_that_key() -> None:
    found = joined(joined(joined((), 1, 0), 2, 0), 1, 0, OTHER)
    assert [(each.holder.pid, each.keys) for each in tickets.left(found, KEY, holder(1))] == [
        (2, (KEY,)),
        (1, (OTHER,)),
    ]


SLOT = Use(Mode.SLOT, 2)


def asking(found: tuple[Ticket, ...], number: int, use: Use) -> tuple[Ticket, ...]:
    return stored(tickets.joined(found, (KEY,), holder(number), at(0), MINUTE, use=use))


@pytest.mark.rule("M7")
def test_only_those_who_would_share_do_not_stand_in_each_others_way() -> None:
    for use in (ALONE, SHARED, SLOT):
        found = asking((), 1, use)
        for other in (ALONE, SHARED, SLOT):
            in_front = tickets.ahead_of(found, KEY, holder(2), at(2), use=other)
            assert bool(in_front) is not (use is other is SHARED)


@pytest.mark.rule("M7")
def test_one_that_would_share_waits_for_each_in_front_of_it_that_wants_it_alone() -> None:
    found: tuple[Ticket, ...] = ()
    for number, use in enumerate((SHARED, ALONE, SHARED, SHARED), 1):
        found = asking(found, number, use)

    def in_front(number: int, use: Use) -> list[int]:
        return [each.holder.pid for each in tickets.ahead_of(found, KEY, holder(number), at(2), use=use)]

    assert [in_front(1, SHARED), in_front(2, ALONE), in_front(3, SHARED), in_front(4, SHARED)] == [[], [1], [2], [2]]
    assert in_front(5, SHARED) == [2] and in_front(5, ALONE) == [1, 2, 3, 4]


@pytest.mark.rule("M7")
def test_a_ticket_for_another_use_is_a_new_one() -> None:
    found = asking(asking((), 1, SLOT), 2, SLOT)
    assert [each.number for each in asking(found, 1, SLOT)] == [1, 2]
    for use in (ALONE, SHARED, Use(Mode.SLOT, 3)):
        assert [(each.number, each.use) for each in asking(found, 1, use)] == [(2, SLOT), (3, use)]


@pytest.mark.rule("M7")
def test_the_reservation_of_a_place_that_lapses_takes_the_ticket_for_its_key() -> None:
    found = asking((), 1, SLOT)
    place = expiry.reserved(KEY.place("0"), holder(1), at(10), None, ClaimState.FREE)
    assert [each.lapsed for each in tickets.lapsed(found, place)] == [True]
    assert tickets.left(found, KEY.place("0"), holder(1)) == ()


STEPS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "lapse", "forget"]), st.integers(1, 4), st.floats(0, 100)), max_size=30
)


@pytest.mark.rule("W2")
@given(STEPS)
def test_in_any_order_of_events_each_session_has_one_ticket_and_exactly_one_waiter_is_first(
    steps: list[tuple[str, int, float]],
) -> None:
    found: tuple[Ticket, ...] = ()
    seconds = 0.0
    for what, number, passes in steps:
        seconds += passes
        if what == "join":
            found = joined(tickets.current(found, at(seconds), lambda _: False), number, seconds)
        elif what == "leave":
            found = tickets.left(found, KEY, holder(number))
        elif what == "lapse":
            found = tickets.lapsed(found, reservation(number, seconds))
        else:
            found = tickets.current(found, at(seconds), lambda _: False)
        assert len({ticket.holder.name for ticket in found}) == len({ticket.number for ticket in found}) == len(found)
        waiting = [each.holder.pid for each in found if tickets.is_waiting(each, at(seconds))]
        assert sum(not ahead(found, each, seconds) for each in waiting) == bool(waiting)
