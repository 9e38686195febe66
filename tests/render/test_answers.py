"""Structured answers are dictionaries, which nothing checks when they are sent; here each is held to its schema's model."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from mcp_claims.model.records import Outcome, ScopedKey
from mcp_claims.server import result_models, results
from mcp_claims.server.results import Answer
from tests.session.bench import Bench, MemoryBench

RED = ScopedKey("default", "red")


@pytest.fixture
def bench() -> Bench:
    return MemoryBench()


def assert_is(model: type[BaseModel], answer: Answer, *fields: str) -> None:
    """Assert that *answer* has what *model* requires and *fields* besides, of the types and in the order that it says."""
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert list(answer) == [name for name in model.model_fields if name in required.union(fields)]
    assert model.model_validate(answer, strict=True).model_dump(exclude_unset=True) == answer
    assert None not in answer.values()


HELD = ("holder", "generation", "claimed_at", "expires_at", "expires_in_seconds")
ENDED = (*HELD, "note", "outcome", "ended_at")


def test_an_answer_of_try_claim_has_the_facts_of_the_claim_in_force(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    for session in (ada, ben, ada):
        assert_is(result_models.ClaimAnswer, results.attempt_result(RED, session.try_claim("red"), kept=False), *HELD)
    ada.describe_client("codex 1")
    ada.try_claim("red", note="bisecting")
    refused = results.attempt_result(RED, ben.try_claim("red"), kept=False)
    assert_is(result_models.ClaimAnswer, refused, *HELD, "client", "note")


def test_an_answer_of_try_claim_says_whose_claim_it_replaced(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    bench.world.kill(ada)
    answer = results.attempt_result(RED, ben.try_claim("red"), kept=True)
    assert_is(result_models.ClaimAnswer, answer, *HELD, "taken_over_from")


def test_an_answer_of_try_claim_says_what_became_of_work_that_is_done(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    ada.release("red", outcome=Outcome.DONE, note="fixed")
    answer = results.attempt_result(RED, ben.try_claim("red"), kept=False)
    assert_is(result_models.ClaimAnswer, answer, *ENDED)
    assert (answer["status"], answer["outcome"]) == ("done", "done")


def test_of_what_cannot_be_read_only_its_end_is_known(bench: Bench) -> None:
    bench.damage("red")
    ada = bench.session()
    tried = results.attempt_result(RED, ada.try_claim("red"), kept=False)
    assert_is(result_models.ClaimAnswer, tried, "expires_at")
    looked = results.look_result(RED, ada.inspect("red"))
    assert_is(result_models.InspectAnswer, looked, "expires_at")
    released = results.release_result(RED, ada.release("red"))
    assert_is(result_models.ReleaseAnswer, released, "expires_at")


def test_an_answer_of_is_claimed_by_other_speaks_of_a_grant_only_if_asked(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    assert_is(result_models.InspectAnswer, results.look_result(RED, ben.inspect("red")))
    ada.try_claim("red")
    assert_is(result_models.InspectAnswer, results.look_result(RED, ben.inspect("red")), *HELD)
    asked = results.look_result(RED, ben.inspect("red", generation=7))
    assert_is(result_models.InspectAnswer, asked, *HELD, "in_force")
    assert asked["in_force"] is False


def test_an_answer_of_release_says_who_has_the_claim_only_where_it_was_not_released(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    assert_is(result_models.ReleaseAnswer, results.release_result(RED, ben.release("red")))
    ada.try_claim("red")
    not_his = results.release_result(RED, ben.release("red"))
    assert_is(result_models.ReleaseAnswer, not_his, "holder", "generation", "expires_at")
    assert_is(result_models.ReleaseAnswer, results.release_result(RED, ada.release("red", outcome=Outcome.FAILED)))


def test_an_answer_of_list_claims_has_a_cursor_only_if_there_is_more(bench: Bench) -> None:
    ada = bench.session()
    ada.try_claim("red", note="bisecting")
    bench.damage("green")
    listing = ada.listing()
    assert_is(result_models.ListAnswer, results.list_result(listing, None))
    answer = results.list_result(listing, "more")
    assert_is(result_models.ListAnswer, answer, "cursor")
    shapes = {tuple(claim) for claim in answer["claims"]}
    assert shapes == {("key", "namespace", "status", *HELD, "note"), ("status", "problem", "expires_at")}


def test_an_answer_of_prune_and_one_of_open_session_have_all_fields(bench: Bench) -> None:
    bench.damage("red")
    ada = bench.session()
    assert_is(result_models.PruneAnswer, results.prune_result(ada.prune()))
    assert_is(result_models.OpenSessionAnswer, results.opened_result("secret", ada.holder.name))
