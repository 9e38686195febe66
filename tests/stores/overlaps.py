"""What a store that can hold files has to do where their keys overlap.  A store's test class inherits this beside the contract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.stores.base import Store
from tests.stores.samples import claim, renewed


def file(path: str) -> ScopedKey:
    return ScopedKey(PLACES, f"file:{path}")


LONG = f"/work/{'deep/' * 40}"  # Its names are cut in a directory of records.


def any_other(_: Claim | Unreadable) -> bool:
    return True


def grant_file(store: Store, path: str) -> Claim:
    """Store a claim on *path*, with which nothing overlaps."""
    swap = store.swap(file(path), None, claim(file(path)), blocks=any_other)
    assert swap.won and isinstance(swap.found, Claim)
    return swap.found


class OverlapsContract:
    """The contract of `Store.overlapping` and of the argument `blocks` of `Store.swap`."""

    @pytest.mark.rule("K11")
    @pytest.mark.parametrize(
        ("held", "wanted"),
        [
            pytest.param("/work/src/", "/work/src/a.py", id="a directory above"),
            pytest.param("/work/src/a.py", "/work/src/", id="a file below"),
            pytest.param("/work/src", "/work/src/", id="a directory, claimed before it was made"),
            pytest.param("/work/src/", "/work/src", id="a directory that was removed"),
            pytest.param("/work/src", "/work/src/a.py", id="a file below what did not exist"),
            pytest.param("/work/src/lib/a.py", "/work/src", id="what does not exist above a file"),
            pytest.param("/work/src/a.py", "/", id="the root"),
            pytest.param("/", "/work/src/a.py", id="a file below the root"),
            pytest.param("/work/src/*.py", "/work/src/a.py", id="a pattern that matches"),
            pytest.param("/work/src/a.py", "/work/**/*.py", id="a file that matches"),
            pytest.param("/work/**/test_?.py", "/work/src/test_*", id="two patterns"),
            pytest.param("/work/", "/work/*/a.py", id="a directory above a pattern"),
            pytest.param("/work/*/a.py", "/work/", id="a pattern below"),
            pytest.param("/work/*/a.py", "/work", id="a pattern below what does not exist"),
            pytest.param("/work", "/work/*/a.py", id="what does not exist above a pattern"),
            pytest.param(f"{LONG}a.py", "/work/deep/", id="a file below whose name is cut"),
            pytest.param(f"{LONG}a.py", f"{LONG}*.py", id="a long pattern that matches"),
            pytest.param(f"{LONG}*.py", f"{LONG}a.py", id="a file that a long pattern matches"),
        ],
    )
    def test_a_swap_is_lost_to_a_claim_on_a_file_that_overlaps_and_is_in_the_way(
        self, store: Store, held: str, wanted: str
    ) -> None:
        in_the_way = grant_file(store, held)
        asked: list[Claim | Unreadable] = []

        def blocks(found: Claim | Unreadable) -> bool:
            asked.append(found)
            return True

        lost = store.swap(file(wanted), None, claim(file(wanted), session=2), blocks=blocks)
        assert not lost.won and lost.overlap == in_the_way and asked == [in_the_way]
        assert store.read(file(wanted)) is None
        assert list(store.overlapping(file(wanted))) == [in_the_way]
        assert store.swap(file(wanted), None, claim(file(wanted), session=2), blocks=lambda _: False).won

    @pytest.mark.rule("K11")
    @pytest.mark.parametrize(
        ("held", "wanted"),
        [
            ("/work/src/", "/work/srcs"),
            ("/work/src", "/work/srcs/"),
            ("/work/src/*", "/work/src/lib/a.py"),
            ("/work/src/a.py", "/work/src/b.py"),
            ("/work/src/*.py", "/work/src/a.md"),
            ("/work/src/*.py", "/work/lib/*.py"),
            (f"{LONG}a.py", f"{LONG}b"),
            (f"{LONG}a.py", "/work/deep2/"),
        ],
    )
    def test_files_that_do_not_overlap_are_not_in_the_way(self, store: Store, held: str, wanted: str) -> None:
        grant_file(store, held)
        assert store.swap(file(wanted), None, claim(file(wanted), session=2), blocks=any_other).won
        assert list(store.overlapping(file(wanted))) == []

    @pytest.mark.rule("K11")
    def test_a_claim_is_not_in_its_own_way(self, store: Store) -> None:
        for path in ("/work/src/", "/work/*.py"):
            held = grant_file(store, path)
            assert list(store.overlapping(file(path))) == []
            assert store.swap(file(path), held, held._replace(note="more"), blocks=any_other).won

    @pytest.mark.rule("K11")
    def test_a_claim_that_is_gone_is_in_nobodys_way(self, store: Store) -> None:
        for path in ("/work/src/", "/work/*.py"):
            held = grant_file(store, path)
            assert store.swap(file(path), held, None).won
        assert store.swap(file("/work/src/a.py"), None, claim(file("/work/src/a.py")), blocks=any_other).won

    @pytest.mark.rule("K11")
    def test_a_claim_is_not_renewed_beside_one_that_was_granted_since_it_was_dead(self, store: Store) -> None:
        for path, below in (("/work/src/", "/work/src/a.py"), ("/work/*.md", "/work/README.md")):
            dead = grant_file(store, path)
            new = store.swap(file(below), None, claim(file(below), session=2), blocks=lambda _: False)
            assert new.won
            lost = store.swap(dead.scoped, dead, renewed(dead), blocks=any_other)
            assert not lost.won and lost.overlap == new.found and store.read(dead.scoped) == dead
            assert store.swap(dead.scoped, dead, None, blocks=any_other).won, "a release excludes nobody"

    @pytest.mark.rule("K11")
    def test_of_two_at_once_on_files_that_overlap_one_is_granted(self, store: Store) -> None:
        for round_ in range(20):
            wanted = [file(f"/{round_}/src/"), file(f"/{round_}/src/a.py"), file(f"/{round_}/**/*.py")]
            with ThreadPoolExecutor(len(wanted)) as pool:
                swaps = list(
                    pool.map(
                        lambda each: store.swap(each, None, claim(each), lock_timeout=20, blocks=any_other), wanted
                    )
                )
            assert sum(swap.won for swap in swaps) == 1, swaps
