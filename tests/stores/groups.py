"""What a store does that can change several keys at once.  A store's test class inherits this beside the contract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from threading import Barrier

import pytest

from mcp_claims.model.records import Claim, Found, Mode, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import MAX_CHANGES, Change, Store
from tests.stores.contract import Notified, join, ticket
from tests.stores.overlaps import any_other, file
from tests.stores.samples import claim, grant, renewed

A, B, FAR = ScopedKey("ci", "red-check"), ScopedKey("ci", "review"), ScopedKey("deploy", "staging")
GROUP = (A, B, FAR)


def wanted(*, session: int = 1, keys: tuple[ScopedKey, ...] = GROUP) -> list[Change]:
    """Return the changes by which *session* claims *keys*, which are free."""
    return [Change(key, None, claim(key, session=session)) for key in keys]


def grant_all(store: Store, changes: list[Change]) -> list[Claim]:
    """Make *changes*, and return the claims that the store made of them."""
    swaps = store.swap_all(changes, lock_timeout=20)
    assert swaps.won, swaps
    return [found for found in swaps.found if isinstance(found, Claim)]


def state(store: Store, keys: tuple[ScopedKey, ...] = GROUP) -> list[Found]:
    return [store.read(key) for key in keys]


class GroupContract:
    """The contract of `Store.swap_all`."""

    group_rounds = 40
    most_keys = MAX_CHANGES

    def test_several_keys_in_two_namespaces_are_granted_renewed_and_released_at_once(self, store: Store) -> None:
        granted = grant_all(store, wanted())
        assert [each._replace(generation=0) for each in granted] == [claim(key) for key in GROUP]
        assert all(each.generation >= 1 for each in granted)
        assert state(store) == granted
        longer = grant_all(store, [Change(each.scoped, each, renewed(each)) for each in granted])
        assert longer == state(store) == [renewed(each) for each in granted]
        released = store.swap_all([Change(each.scoped, each, None) for each in longer])
        assert released.won and released.found == (None, None, None)
        assert state(store) == [None] * 3 and list(store.scan()) == []

    def test_one_call_grants_renews_takes_over_and_releases(self, store: Store) -> None:
        kept, taken, given = grant_all(store, wanted())
        fresh = ScopedKey("aardvark", "x")
        swaps = store.swap_all(
            [
                Change(fresh, None, claim(fresh)),
                Change(A, kept, renewed(kept)),
                Change(B, taken, claim(B, session=2)),
                Change(FAR, given, None),
            ]
        )
        assert swaps.won and swaps.found[1] == renewed(kept) and swaps.found[3] is None
        assert state(store, (fresh, A, B, FAR)) == list(swaps.found)
        new = swaps.found[2]
        assert isinstance(new, Claim) and new.generation > taken.generation

    @pytest.mark.rule("S10")
    @pytest.mark.parametrize("key", GROUP)
    @pytest.mark.parametrize("kind", ["grant", "renewal", "release"])
    def test_if_one_key_is_another_than_expected_nothing_is_changed_and_what_is_there_is_returned(
        self, store: Store, key: ScopedKey, kind: str
    ) -> None:
        granted = [] if kind == "grant" else grant_all(store, wanted())
        seen = next((each for each in granted if each.scoped == key), None)
        rival = grant(store, claim(key, session=2), over=seen)
        before = state(store)
        changes = wanted()
        if kind == "renewal":
            changes = [Change(each.scoped, each, renewed(each)) for each in granted]
        elif kind == "release":
            changes = [Change(each.scoped, each, None) for each in granted]
        lost = store.swap_all(changes)
        assert not lost.won and not lost.queued and lost.overlap is None
        assert list(lost.found) == before == state(store) and rival in before

    def test_what_cannot_be_read_loses_a_change_of_several_keys(self, store: Store) -> None:
        grant(store, claim(B))
        unreadable = self.spoil(store, B)
        lost = store.swap_all(wanted())
        assert not lost.won and list(lost.found) == [None, unreadable, None]
        assert state(store) == [None, unreadable, None]

    def test_generations_grow_by_groups_and_single_claims_alike(self, store: Store) -> None:
        last = dict.fromkeys(GROUP, 0)
        for round_ in range(6):
            alone = round_ % 2
            granted = [grant(store, claim(key)) for key in GROUP] if alone else grant_all(store, wanted())
            for each in granted:
                assert each.generation > last[each.scoped]
                last[each.scoped] = each.generation
                assert store.swap(each.scoped, each, None).won

    @pytest.mark.rule("M1")
    def test_each_place_of_a_key_and_the_key_itself_have_generations_that_no_other_has_had(self, store: Store) -> None:
        places = [A, A.place("0"), A.place("1"), A.place("0123456789abcdef")]
        seen: list[int] = []
        for _ in range(3):
            for place in places:
                granted = grant(store, claim(place))
                seen.append(granted.generation)
                assert store.read(place) == granted and list(store.scan()) == [granted]
                assert store.swap(place, granted, None).won
        assert seen == sorted(set(seen))

    @pytest.mark.rule("M5")
    def test_a_claim_that_moves_to_a_place_keeps_its_generation_and_the_next_has_a_higher_one(
        self, store: Store
    ) -> None:
        granted = grant(store, claim())
        place = A.place("0")
        moved = store.swap_all([Change(A, granted, None), Change(place, None, granted._replace(scoped=place))])
        assert moved.won and isinstance(moved.found[1], Claim) and moved.found[1].generation == granted.generation
        assert state(store, (A, place)) == list(moved.found)
        assert grant(store, claim(A.place("1"), session=2)).generation > granted.generation
        assert grant(store, claim(session=3)).generation > granted.generation

    @pytest.mark.rule("M1")
    def test_places_are_listed_with_their_key_and_their_position_is_that_of_a_scan(self, store: Store) -> None:
        granted = [grant(store, claim(key)) for key in (A, A.place("0"), A.place("1"), B)]
        found = list(store.scan("ci"))
        assert sorted(found, key=lambda each: each.scoped if isinstance(each, Claim) else A) == sorted(
            granted, key=lambda each: each.scoped
        )
        for index, each in enumerate(found):
            assert list(store.scan("ci", store.position(each))) == found[index + 1 :]
        assert set(store.names("ci", 9)) <= {A.key, B.key}, "no place has a name"

    def test_one_change_is_a_swap(self, store: Store) -> None:
        swaps = store.swap_all([Change(A, None, claim())])
        (granted,) = swaps.found
        assert swaps.won and swaps.only.won and store.read(A) == granted == swaps.only.found
        assert not store.swap_all([Change(A, None, claim(session=2))]).won

    def test_as_many_keys_as_a_call_can_name_are_granted_and_released_at_once(self, store: Store) -> None:
        keys = tuple(ScopedKey("ci", f"key-{number}") for number in range(self.most_keys))
        granted = grant_all(store, wanted(keys=keys))
        assert state(store, keys) == granted and len(granted) == self.most_keys
        assert store.swap_all([Change(each.scoped, each, None) for each in granted]).won
        assert list(store.scan()) == []

    def test_no_change_too_many_and_two_of_one_key_are_refused(self, store: Store) -> None:
        many = wanted(keys=tuple(ScopedKey("ci", str(number)) for number in range(MAX_CHANGES + 1)))
        for changes in ([], many, wanted(keys=(A, A))):
            with pytest.raises(ValueError, match="each of another key"):
                store.swap_all(changes)
        assert list(store.scan()) == []

    def test_a_watcher_of_each_key_is_notified(self, store: Store) -> None:
        grant(store, claim(FAR))
        notified = [Notified() for _ in GROUP]
        with store.watch(A, notified[0]), store.watch(B, notified[1]), store.watch(FAR, notified[2]):
            held = store.read(FAR)
            assert isinstance(held, Claim)
            grant_all(store, [*wanted(keys=(A, B)), Change(FAR, held, renewed(held))])
            assert all(each.wait(20.0) for each in notified)

    def test_a_group_gives_way_to_those_who_wait_for_any_of_its_keys(self, store: Store) -> None:
        far, near = join(store, ticket(2, FAR)), join(store, ticket(3, A))
        asked: list[tuple[Ticket, ...]] = []

        def gives_way(tickets: tuple[Ticket, ...]) -> bool:
            asked.append(tickets)
            return True

        lost = store.swap_all(wanted(), gives_way=gives_way)
        assert not lost.won and lost.queued and lost.found == (None, None, None)
        assert state(store) == [None] * 3
        assert store.serves_queue or asked == [(near, far)]
        store.change_tickets(A, lambda _: ())
        assert store.swap_all(wanted(), gives_way=lambda tickets: far in tickets).queued
        store.change_tickets(FAR, lambda _: ())
        assert store.swap_all(wanted(), gives_way=lambda _: False).won

    @pytest.mark.rule("S10")
    def test_of_two_groups_in_any_order_of_keys_one_is_granted_and_none_waits_for_the_other(self, store: Store) -> None:
        orders = list(permutations(GROUP))
        ready = Barrier(len(orders), timeout=60)

        def contend(session: int) -> list[list[Claim]]:
            granted = []
            for _ in range(self.group_rounds):
                ready.wait()
                swaps = store.swap_all(wanted(session=session, keys=orders[session]), lock_timeout=20)
                ready.wait()
                if swaps.won:
                    granted.append([found for found in swaps.found if isinstance(found, Claim)])
                    assert {each.holder for each in granted[-1]} == {claim(session=session).holder}
                    assert set(state(store)) == set(granted[-1])
                    assert store.swap_all([Change(each.scoped, each, None) for each in granted[-1]]).won
            return granted

        with ThreadPoolExecutor(len(orders)) as pool:
            won = [each for granted in pool.map(contend, range(len(orders))) for each in granted]
        assert len(won) == self.group_rounds

    def test_files_of_one_group_are_not_in_each_other_s_way(self, store: Store) -> None:
        keys = (A, file("/work/src/"), file("/work/src/a.py"), file("/work/**/*.py"))
        granted = grant_all(store, wanted(keys=keys))
        assert store.swap_all([Change(each.scoped, each, renewed(each)) for each in granted], blocks=any_other).won
        assert not store.swap(file("/work/b.py"), None, claim(file("/work/b.py"), session=2), blocks=any_other).won

    @pytest.mark.parametrize("held", ["/work/src/", "/work/*.md", "/work/src/a.py"])
    def test_a_file_that_overlaps_with_one_of_the_group_is_in_the_way_of_all(self, store: Store, held: str) -> None:
        in_the_way = grant(store, claim(file(held), session=2))
        asked: list[Claim | Unreadable] = []

        def blocks(found: Claim | Unreadable) -> bool:
            asked.append(found)
            return True

        keys = (A, file("/work/README.md"), file("/work/src/*.py"))
        lost = store.swap_all(wanted(keys=keys), blocks=blocks)
        assert not lost.won and lost.overlap == in_the_way and asked == [in_the_way]
        assert state(store, keys) == [None] * 3
        assert store.swap_all(wanted(keys=keys), blocks=lambda _: False).won

    def test_a_directory_is_given_up_for_some_of_its_files_at_once(self, store: Store) -> None:
        directory = grant(store, claim(file("/work/src/")))
        keys = (file("/work/src/a.py"), file("/work/src/*.md"))
        swaps = store.swap_all([Change(directory.scoped, directory, None), *wanted(keys=keys)], blocks=any_other)
        assert swaps.won
        assert state(store, (directory.scoped, *keys)) == list(swaps.found) and swaps.found[0] is None
        assert store.swap(file("/work/src/b.py"), None, claim(file("/work/src/b.py"), session=2), blocks=any_other).won
        assert not store.swap(
            file("/work/src/b.md"), None, claim(file("/work/src/b.md"), session=2), blocks=any_other
        ).won

    def test_only_claims_in_force_are_asked_about_what_overlaps(self, store: Store) -> None:
        held = grant(store, claim(file("/work/src/a.py")))
        grant(store, claim(file("/work/src/")))

        def refuse(_: Claim | Unreadable) -> bool:
            raise AssertionError

        assert store.swap_all([*wanted(keys=(A,)), Change(held.scoped, held, None)], blocks=refuse).won

    def test_of_groups_at_once_on_files_that_overlap_one_is_granted(self, store: Store) -> None:
        for round_ in range(10):
            groups = [
                (A._replace(key=f"{round_}-{index}"), file(f"/{round_}/{path}"))
                for index, path in enumerate(("src/", "src/a.py", "**/*.py"))
            ]
            with ThreadPoolExecutor(len(groups)) as pool:
                swaps = list(
                    pool.map(lambda keys: store.swap_all(wanted(keys=keys), lock_timeout=20, blocks=any_other), groups)
                )
            assert sum(each.won for each in swaps) == 1, swaps

    def test_a_reservation_of_several_keys_is_taken_at_once(self, store: Store) -> None:
        reserved = grant_all(store, [Change(key, None, claim(key)._replace(mode=Mode.RESERVED)) for key in GROUP])
        taken = [Change(each.scoped, each, each._replace(mode=Mode.ALONE)) for each in reserved]
        assert [each.generation for each in grant_all(store, taken)] == [each.generation for each in reserved]

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        """Make what is stored for *scoped* unreadable, and return what is found."""
        raise NotImplementedError
