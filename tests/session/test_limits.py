"""Arguments that no type checker has seen, records that say too much, and rivals that never let anybody finish."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.errors import ContendedError, ForkedError, InvalidInputError
from mcp_claims.model.codec import to_json
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim
from mcp_claims.model.validation import MAX_TTL
from mcp_claims.session.results import Status, TakenOver
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.session.bench import DAY, KEY, Bench, FileBench, granted
from tests.session.faulty import Changing

Call = Callable[[Session], object]


def trying(field: str, value: Any) -> tuple[str, Call]:
    return field, lambda session: session.try_claim(**{"key": KEY, field: value})


WRONG: dict[str, tuple[str, Call]] = {
    "key 5": trying("key", 5),
    "key bytes": trying("key", b"key"),
    "namespace none": trying("namespace", None),
    "note 5": trying("note", 5),
    "ttl none": trying("ttl_minutes", None),
    "ttl text": trying("ttl_minutes", "5"),
    "ttl true": trying("ttl_minutes", True),
    "ttl decimal NaN": trying("ttl_minutes", Decimal("NaN")),
    "wait none": trying("lock_timeout", None),
    "wait NaN": trying("lock_timeout", float("nan")),
    "wait for ever": trying("lock_timeout", float("inf")),
    "wait negative": trying("lock_timeout", -1),
    "release, wait NaN": ("lock_timeout", lambda session: session.release(KEY, lock_timeout=float("nan"))),
    "prune, wait text": ("lock_timeout", lambda session: session.prune(lock_timeout="5")),  # type: ignore[arg-type]
    "prune, namespace 5": ("namespace", lambda session: session.prune(5)),  # type: ignore[arg-type]
}


def test_an_argument_of_a_wrong_type_is_refused_by_name_and_changes_nothing(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    before = bench.contents()
    for name, (field, call) in WRONG.items():
        with pytest.raises(InvalidInputError) as refusal:
            call(session)
        assert (refusal.value.field, bench.contents()) == (field, before), name


def test_a_directory_that_no_path_can_name_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="NUL"):
        FileStore("/claims\0/here")


@pytest.mark.rule("C1")
@pytest.mark.parametrize(
    "call",
    [lambda session: session.try_claim(KEY), lambda session: session.inspect(KEY)],
    ids=["try_claim", "inspect"],
)
def test_a_key_that_others_change_without_end_is_not_claimed_and_the_call_ends(bench: Bench, call: Call) -> None:
    dead = bench.session()
    granted(dead)
    bench.world.kill(dead)
    changing = Changing(bench.store)
    with pytest.raises(ContendedError, match="Nothing is claimed") as refusal:
        call(bench.session(changing))
    assert refusal.value.rounds == changing.rounds


@pytest.mark.rule("S5")
def test_a_claim_that_expires_later_than_any_ttl_allows_is_held_for_the_longest_ttl(
    tmp_path: Path,
) -> None:
    bench = FileBench(tmp_path / "claims")
    holder = bench.session()
    claim = granted(holder)
    far = claim.expires._replace(wall=claim.expires.wall + 400 * MAX_TTL, ticks=claim.expires.ticks + 400 * DAY)
    bench.damage(content=to_json(claim._replace(expires=far)))
    other = bench.session()
    bench.world.pass_time(DAY - 1)
    attempt = other.try_claim(KEY)
    assert (attempt.status, isinstance(attempt.found, Claim)) == (Status.HELD, True)
    bench.world.pass_time(2)
    attempt = other.try_claim(KEY)
    assert attempt.status is Status.ACQUIRED
    assert isinstance(attempt.taken_over, TakenOver)
    assert attempt.taken_over.state is ClaimState.EXPIRED


def test_no_step_of_the_wall_clock_makes_a_live_claim_look_as_if_it_lived_too_long(tmp_path: Path) -> None:
    bench = FileBench(tmp_path / "claims")
    holder = bench.session()
    claim = granted(holder, ttl_minutes=24 * 60)
    bench.damage(content=to_json(claim))  # Written now, by the world's clock.
    for step in (-400 * MAX_TTL, 800 * MAX_TTL):
        bench.world.set_wall_clock(step / timedelta(seconds=1))
        assert bench.session().try_claim(KEY).status is Status.HELD


@pytest.mark.rule("P5")
def test_a_forked_child_with_its_parents_pid_cannot_use_its_session(bench: Bench) -> None:
    # In a PID namespace of its own a child may have any PID, its parent's too; the fake machine has it anyway.
    session = bench.session()
    granted(session)
    if not (child := os.fork()):
        code = 1
        try:
            session.inspect(KEY)
        except ForkedError:
            code = 0 if session.close() == 0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.close() == 1, "the claim is the parent's, and stayed"
