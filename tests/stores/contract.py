"""What every store has to do.  A store's test class inherits this contract and provides the store."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Barrier, Event

import pytest

from mcp_claims.model import expiry, tickets
from mcp_claims.model.records import Claim, Found, Proof, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import SECRET_BYTES, Store, Swap
from tests.stores.samples import KEY, claim, grant, renewed

OTHER_KEY = ScopedKey("ci", "review")
OTHER_NAMESPACE = ScopedKey("deploy", "red-check")


# A notice takes milliseconds; the bound is for a machine that is busy with other things.
WATCHED_WITHIN = 20.0


def release(store: Store, granted: Claim) -> None:
    assert store.swap(granted.scoped, granted, None).won


def discard(store: Store, granted: Claim) -> None:
    assert store.discard(granted)


class StoreContract:
    """The contract of `Store`."""

    rounds = 200

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store."""
        raise NotImplementedError

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        """Make what is stored for *scoped* unreadable, as a fault of the medium would, and return what is found."""
        raise NotImplementedError

    def test_the_names_of_a_namespace_are_those_of_its_keys_as_far_as_they_are_known(self, store: Store) -> None:
        keys = ["red-check", "Red check", "#12:r\u00e9d/\u2764\ufe0f", ".", "con"]
        for key in keys:
            grant(store, claim(ScopedKey("ci", key)))
        grant(store, claim(ScopedKey("other", "blue")))
        known = list(store.names("ci", 100))
        assert set(known) <= set(keys) and len(known) in (0, len(keys))
        assert len(list(store.names("ci", 3))) <= 3
        assert list(store.names("nothing here", 100)) == []

    def test_nothing_is_stored_at_first(self, store: Store) -> None:
        assert store.read(KEY) is None
        assert list(store.scan()) == []
        assert list(store.scan("ci")) == []

    def test_the_first_claim_is_stored_with_a_number(self, store: Store) -> None:
        swap = store.swap(KEY, None, claim())
        assert swap.won
        assert isinstance(swap.found, Claim)
        assert swap.found.generation >= 1
        assert swap.found == claim()._replace(generation=swap.found.generation)

    @pytest.mark.parametrize(
        "wanted",
        [
            pytest.param(claim(), id="plain"),
            pytest.param(claim()._replace(note="“quoted”, 👩‍💻, \\ and \u00e9 or e\u0301"), id="note"),
            pytest.param(claim(ScopedKey("vercel/next.js", "PR #4521: checks\\failed 👀 ..")), id="awkward-key"),
            pytest.param(claim(ScopedKey("n" * 1_024, "k" * 1_024)), id="longest-key"),
            pytest.param(claim(boot=None)._replace(holder=claim().holder._replace(proof=Proof())), id="no-proof"),
        ],
    )
    def test_a_read_returns_exactly_what_the_swap_returned(self, store: Store, wanted: Claim) -> None:
        granted = grant(store, wanted)
        assert store.read(wanted.scoped) == granted
        longer = grant(store, renewed(granted), over=granted)
        assert store.read(wanted.scoped) == longer

    def test_a_key_that_is_taken_is_not_given_again(self, store: Store) -> None:
        granted = grant(store, claim(session=1))
        assert store.swap(KEY, None, claim(session=2)) == Swap(False, granted)
        assert store.read(KEY) == granted

    @pytest.mark.rule("S3")
    @pytest.mark.parametrize("new", [claim(session=2), None], ids=["replace", "remove"])
    def test_a_swap_against_what_was_there_before_is_lost_and_says_what_is(
        self, store: Store, new: Claim | None
    ) -> None:
        first = grant(store, claim(session=1))
        second = grant(store, renewed(first), over=first)
        assert store.swap(KEY, first, new) == Swap(False, second)
        assert store.read(KEY) == second

    @pytest.mark.parametrize("new", [claim(session=2), None], ids=["replace", "remove"])
    def test_a_swap_against_what_is_gone_is_lost(self, store: Store, new: Claim | None) -> None:
        granted = grant(store, claim())
        release(store, granted)
        assert store.swap(KEY, granted, new) == Swap(False, None)
        assert store.read(KEY) is None

    def test_the_same_session_s_later_claim_is_another_claim(self, store: Store) -> None:
        earlier = grant(store, claim())
        release(store, earlier)
        later = grant(store, claim())
        assert store.swap(KEY, earlier, None) == Swap(False, later)
        assert not store.discard(earlier)
        assert store.read(KEY) == later

    def test_a_removal_leaves_nothing(self, store: Store) -> None:
        granted = grant(store, claim())
        assert store.swap(KEY, granted, None) == Swap(True, None)
        assert store.read(KEY) is None
        assert list(store.scan()) == []

    def test_a_renewal_keeps_the_generation(self, store: Store) -> None:
        granted = grant(store, claim())
        assert grant(store, renewed(granted), over=granted) == renewed(granted)

    @pytest.mark.rule("E6")
    def test_generations_grow_whichever_way_a_claim_ends(self, store: Store) -> None:
        def take_over(store: Store, granted: Claim) -> None:
            seen.append(grant(store, claim(session=2), over=granted).generation)
            held = store.read(KEY)
            assert isinstance(held, Claim)
            release(store, held)

        def renew_and_release(store: Store, granted: Claim) -> None:
            release(store, grant(store, renewed(granted), over=granted))

        def lose_it_to_a_fault(store: Store, granted: Claim) -> None:
            assert store.discard(self.spoil(store, granted.scoped))

        ways: list[Callable[[Store, Claim], None]] = [
            release,
            discard,
            take_over,
            renew_and_release,
            lose_it_to_a_fault,
            release,
        ]
        seen: list[int] = []
        for end in ways * 2:
            granted = grant(store, claim())
            seen.append(granted.generation)
            end(store, granted)
        assert seen == sorted(set(seen))

    @pytest.mark.rule("W4")
    def test_generations_grow_although_what_was_replaced_comes_back(self, store: Store) -> None:
        first = grant(store, claim())
        second = grant(store, claim(session=2), over=first)
        restored = grant(store, first, over=second)
        third = grant(store, claim(session=3), over=restored)
        assert third.generation > second.generation > first.generation

    def test_a_claim_is_discarded_once(self, store: Store) -> None:
        granted = grant(store, claim())
        assert store.discard(granted)
        assert store.read(KEY) is None
        assert not store.discard(granted)

    @pytest.mark.rule("S3")
    def test_a_claim_that_changed_since_it_was_seen_is_not_discarded(self, store: Store) -> None:
        seen = grant(store, claim())
        now = grant(store, renewed(seen), over=seen)
        assert not store.discard(seen)
        assert store.read(KEY) == now

    def test_keys_and_namespaces_are_apart(self, store: Store) -> None:
        granted = [grant(store, claim(scoped)) for scoped in (KEY, OTHER_KEY, OTHER_NAMESPACE)]
        release(store, granted[0])
        assert store.read(OTHER_KEY) == granted[1]
        assert store.read(OTHER_NAMESPACE) == granted[2]

    def test_what_is_stored_for_several_keys_is_what_a_read_of_each_returns(self, store: Store) -> None:
        granted = [grant(store, claim(scoped)) for scoped in (KEY, OTHER_NAMESPACE)]
        unreadable = self.spoil(store, grant(store, claim(OTHER_KEY)).scoped)
        free = ScopedKey("ci", "free")
        keys = [OTHER_NAMESPACE, free, OTHER_KEY, KEY, KEY]
        assert store.read_all(keys) == [granted[1], None, unreadable, granted[0], granted[0]]
        assert store.read_all([]) == []
        many = [free._replace(key=f"{number}") for number in range(250)]
        assert store.read_all([*many, KEY]) == [None] * 250 + [granted[0]]

    def test_a_scan_shows_one_namespace_or_all(self, store: Store) -> None:
        granted = [grant(store, claim(scoped)) for scoped in (KEY, OTHER_KEY, OTHER_NAMESPACE)]
        assert {found for found in store.scan("ci") if isinstance(found, Claim)} == set(granted[:2])
        assert list(store.scan("deploy")) == granted[2:]
        assert len(list(store.scan())) == 3
        assert set(store.scan()) == set(granted)
        assert list(store.scan("nobody's")) == []

    @pytest.mark.rule("C12")
    def test_a_scan_goes_on_behind_each_position_and_stands_made_up_ones(self, store: Store) -> None:
        keys = ("a", "a b", "a/b", "ab", "\N{SNOWMAN}", "\N{GRINNING FACE}")
        for space in ("ci", "ci-2", "deploy"):
            for key in keys:
                grant(store, claim(ScopedKey(space, key)))
        self.spoil(store, ScopedKey("ci-2", "ab"))
        for namespace in (None, "ci", "ci-2"):
            everything = list(store.scan(namespace))
            positions = [store.position(found) for found in everything]
            assert positions == sorted(set(positions)) and "" not in positions
            for index, position in enumerate(positions):
                assert list(store.scan(namespace, position)) == everything[index + 1 :]
            for made_up in ("\0", "\0\0", "~", "\N{SNOWMAN}", "ci", "ci\0", "x" * 5_000, "\ud800"):
                behind = [store.position(found) for found in store.scan(namespace, made_up)]
                assert behind == positions[len(positions) - len(behind) :]

    def test_what_a_scan_shows_may_be_removed_meanwhile(self, store: Store) -> None:
        granted = [grant(store, claim(ScopedKey("ci", f"key-{number}"))) for number in range(5)]
        for found in store.scan():
            assert store.discard(found)
        assert [store.read(each.scoped) for each in granted] == [None] * 5

    def test_what_cannot_be_read_is_never_free(self, store: Store) -> None:
        granted = grant(store, claim(session=1))
        found = self.spoil(store, KEY)
        assert found.problem
        assert store.read(KEY) == found
        assert list(store.scan()) == [found]
        for old, new in ((None, claim(session=2)), (granted, claim(session=2)), (granted, None), (None, None)):
            assert store.swap(KEY, old, new) == Swap(False, found)
        assert not store.discard(granted)
        assert store.read(KEY) == found

    def test_what_cannot_be_read_is_discarded_once(self, store: Store) -> None:
        grant(store, claim())
        found = self.spoil(store, KEY)
        assert store.discard(found)
        assert store.read(KEY) is None
        assert not store.discard(found)

    def test_a_claim_made_where_something_unreadable_was_is_not_discarded_with_it(self, store: Store) -> None:
        grant(store, claim())
        found = self.spoil(store, KEY)
        assert store.discard(found)
        granted = grant(store, claim(session=2))
        assert not store.discard(found)
        assert store.read(KEY) == granted

    @pytest.mark.rule("S1")
    def test_of_many_who_change_the_same_claim_at_once_exactly_one_wins(self, store: Store) -> None:
        ready = Barrier(8, timeout=20)
        seen: list[Found] = []

        def contend(number: int) -> list[bool]:
            results = []
            for round_ in range(self.rounds):
                # All compare with what they read together: nobody has changed anything yet.
                if ready.wait() == 0:
                    seen.append(store.read(KEY))
                ready.wait()
                old = seen[round_]
                assert not isinstance(old, Unreadable)
                if old is None or number < 4:
                    results.append(store.swap(KEY, old, claim(session=number)).won)
                elif number < 6:
                    results.append(store.swap(KEY, old, None).won)
                else:
                    results.append(store.discard(old))
            return results

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                results = list(pool.map(contend, range(8)))
        finally:
            sys.setswitchinterval(interval)
        assert [sum(wins) for wins in zip(*results, strict=True)] == [1] * self.rounds
        generations = [old.generation for old in seen if isinstance(old, Claim)]
        assert generations == sorted(set(generations))

    def test_the_secret_is_the_same_for_all_and_no_claim(self, store: Store) -> None:
        secret = store.secret()
        assert len(secret) == SECRET_BYTES
        assert store.secret() == secret
        assert list(store.scan()) == []

    @pytest.mark.rule("V8", "E11")
    @pytest.mark.parametrize("of", [KEY, KEY.namespace, None], ids=["key", "namespace", "all"])
    @pytest.mark.parametrize("kind", ["claim", "renewal", "removal"])
    def test_a_watcher_is_notified_of_each_change_and_of_no_read(
        self, store: Store, of: ScopedKey | str | None, kind: str
    ) -> None:
        first = grant(store, claim()) if kind != "claim" else None
        grant(store, claim(OTHER_KEY))
        notified = Notified()
        with store.watch(of, notified) as watched:
            assert watched
            store.read(KEY)
            list(store.scan())
            assert not notified.wait(0.2), "reading is no change"
            if first is None:
                grant(store, claim())
            elif kind == "renewal":
                grant(store, renewed(first), over=first)
            else:
                release(store, first)
            assert notified.wait(WATCHED_WITHIN)
        notified.clear()
        grant(store, claim(OTHER_NAMESPACE))
        assert not notified.wait(0.2), "it is no longer watched"

    @pytest.mark.rule("E11")
    def test_a_watcher_of_one_key_or_namespace_is_not_notified_of_others(self, store: Store) -> None:
        grant(store, claim())
        of_key, of_namespace, of_all = Notified(), Notified(), Notified()
        with store.watch(KEY, of_key), store.watch(KEY.namespace, of_namespace), store.watch(None, of_all):
            grant(store, claim(OTHER_NAMESPACE))
            assert of_all.wait(WATCHED_WITHIN)
            assert not of_namespace.wait(0.2) and not of_key.wait(0)
            grant(store, claim(OTHER_KEY))
            assert of_namespace.wait(WATCHED_WITHIN)
            assert not of_key.wait(0.2)

    def test_a_namespace_is_watched_before_its_first_claim(self, store: Store) -> None:
        grant(store, claim(OTHER_NAMESPACE))
        notified = Notified()
        with store.watch(KEY, notified) as watched:
            assert watched
            grant(store, claim())
            assert notified.wait(WATCHED_WITHIN)


class TicketContract:
    """The contract of a `Store` that has tickets."""

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store."""
        raise NotImplementedError

    def test_tickets_are_in_the_order_in_which_they_were_taken(self, store: Store) -> None:
        assert store.tickets(KEY) == store.tickets(KEY.namespace) == store.tickets(None) == ()
        taken = [join(store, ticket(session)) for session in (3, 1, 2)]
        assert taken == sorted(taken) and len({each.number for each in taken}) == 3
        assert store.tickets(KEY) == store.tickets(KEY.namespace) == store.tickets(None) == tuple(taken)
        assert [each.holder for each in taken] == [claim(session=session).holder for session in (3, 1, 2)]

    def test_a_ticket_keeps_its_number_until_it_is_given_up_and_the_last_one_is_the_highest(self, store: Store) -> None:
        first, second = (join(store, ticket(session)) for session in (1, 2))
        lapsed = first._replace(lapsed=True, until=expiry.later(first.until, timedelta(minutes=1)))
        assert store.change_tickets(KEY, lambda _: (lapsed, second)) == (lapsed, second)
        assert store.tickets(KEY) == (lapsed, second)
        returned = lapsed._replace(lapsed=False, returned=True)
        assert store.change_tickets(KEY, lambda _: (returned, second)) == (returned, second)
        assert store.change_tickets(KEY, lambda _: (second,)) == (second,)
        again = join(store, ticket(1))
        assert store.tickets(KEY) == (second, again)

    def test_tickets_of_keys_and_namespaces_are_apart(self, store: Store) -> None:
        keys = [ScopedKey("ci", "a"), ScopedKey("ci", "a/b"), ScopedKey("ci", "a%2Fb"), ScopedKey("ci/a", "b")]
        taken = {scoped: join(store, ticket(1, scoped)) for scoped in keys}
        for scoped, mine in taken.items():
            assert [each for each in store.tickets(scoped) if scoped in each.keys] == [mine]
        assert set(store.tickets("ci")) == {taken[scoped] for scoped in keys[:3]}
        assert store.tickets("ci/a") == (taken[keys[3]],)
        assert set(store.tickets(None)) == set(taken.values())
        for scoped in keys:
            gone = taken.pop(scoped)
            store.change_tickets(scoped, partial(without, gone))
            assert set(store.tickets(None)) == set(taken.values())

    @pytest.mark.parametrize("kept", [KEY, OTHER_KEY])
    def test_a_session_that_waits_for_more_than_before_has_one_ticket_for_each_key(
        self, store: Store, kept: ScopedKey
    ) -> None:
        def wait_for(session: int, *keys: ScopedKey) -> Ticket:
            new = ticket(session)
            wait = timedelta(minutes=1)
            after = store.change_tickets(
                keys[0], lambda found: tickets.joined(found, keys, new.holder, new.taken, wait)
            )
            (own,) = (each for each in after if each.keys == keys and each.holder == new.holder)
            return own

        wait_for(1, kept)
        other = wait_for(2, kept)
        began = time.monotonic()
        both = wait_for(1, KEY, OTHER_KEY)
        assert time.monotonic() - began < 2, "not by trying until the call ends"
        assert both.number > other.number and wait_for(1, KEY, OTHER_KEY) == both
        assert store.tickets(None) == (other, both)
        store.change_tickets(OTHER_KEY, partial(without, both))
        assert store.tickets(None) == (other,)

    def test_of_many_who_change_the_tickets_at_once_nobody_overwrites_another(self, store: Store) -> None:
        def come_and_go(session: int) -> list[Ticket]:
            own = claim(session=session).holder
            for _ in range(10):
                join(store, ticket(session))
                store.change_tickets(KEY, lambda found: tuple(each for each in found if each.holder != own))
            return [join(store, ticket(session))]

        with ThreadPoolExecutor(6) as pool:
            stayed = [each for taken in pool.map(come_and_go, range(1, 7)) for each in taken]
        assert store.tickets(KEY) == tuple(sorted(stayed)) and len({each.number for each in stayed}) == 6

    def test_a_swap_that_gives_way_is_lost_while_somebody_with_a_ticket_for_the_key_goes_before_it(
        self, store: Store
    ) -> None:
        def gives_way(tickets: tuple[Ticket, ...]) -> bool:
            return any(KEY in each.keys for each in tickets)

        waiting = join(store, ticket(1))
        lost = store.swap(KEY, None, claim(session=2), gives_way=gives_way)
        assert lost == Swap(False, None, queued=True)
        assert store.read(KEY) is None and store.tickets(KEY) == (waiting,)
        assert store.swap(OTHER_KEY, None, claim(OTHER_KEY, session=2), gives_way=lambda _: False).won
        granted = grant(store, claim(session=2))
        assert store.swap(KEY, granted, renewed(granted), gives_way=gives_way) == Swap(False, granted, queued=True)
        store.change_tickets(KEY, lambda _: ())
        assert store.swap(KEY, None, claim(session=3), gives_way=gives_way) == Swap(False, granted)
        assert store.swap(KEY, granted, renewed(granted), gives_way=gives_way).won

    @pytest.mark.rule("V9")
    def test_a_release_wakes_one_waiter_and_its_grant_the_next(self, store: Store) -> None:
        held = grant(store, claim(session=1))
        first, second = (join(store, ticket(session)) for session in (2, 3))
        with listening(store, first, held) as first_rings, listening(store, second, first) as second_rings:
            release(store, held)
            wake(store, first)
            assert first_rings(WATCHED_WITHIN)
            assert not second_rings(0.2)
            grant(store, claim(session=2))
            if not store.serves_queue:
                store.change_tickets(KEY, partial(without, first))
            assert store.tickets(KEY) == (second,), "a grant ends the wait of its session"
            wake(store, second)
            assert second_rings(WATCHED_WITHIN)


def ticket(session: int, scoped: ScopedKey = KEY) -> Ticket:
    """Return the ticket that *session* would like to have; no store has numbered it yet."""
    wanted = claim(scoped, session=session)
    return Ticket(0, (scoped,), wanted.holder, wanted.claimed, expiry.later(wanted.claimed, timedelta(minutes=5)))


def join(store: Store, new: Ticket) -> Ticket:
    """Store *new* behind all others, and return what the store made of it."""
    after = store.change_tickets(new.keys[0], lambda found: (*found, new))
    (stored,) = (each for each in after if each._replace(number=0) == new)
    return stored


def without(gone: Ticket, found: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
    return tuple(each for each in found if each != gone)


def wake(store: Store, waiting: Ticket) -> None:
    """Wake the waiter that has the ticket *waiting*, unless the store has done so."""
    assert store.serves_queue or store.wake(waiting)


@contextmanager
def listening(store: Store, waiting: Ticket, blocking: Claim | Ticket) -> Iterator[Callable[[float], bool]]:
    """Yield whether the alarm of *waiting*, which waits for a change of *blocking*, rings within some seconds."""
    notified = Notified()
    with store.alarm(waiting, notified) as alarm:
        if alarm is not None:
            alarm.aim(blocking)
        descriptor = None if alarm is None else alarm.fileno()

        def rings(seconds: float) -> bool:
            if descriptor is None:
                return notified.wait(seconds)
            return bool(select.select([descriptor], [], [], seconds)[0])

        yield rings


class Notified(Event):
    """Something to be called when a change is seen."""

    def __call__(self) -> None:
        self.set()
