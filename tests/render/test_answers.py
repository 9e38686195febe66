"""Each answer fits its output schema, has what applies and nothing else, and says the same in its text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.render.answers import (
    ClaimAnswer,
    InspectAnswer,
    ReleaseAnswer,
    Rendered,
    claim_answer,
    inspect_answer,
    release_answer,
)
from mcp_claims.render.lists import (
    ListAnswer,
    OpenSessionAnswer,
    PruneAnswer,
    list_answer,
    open_session_answer,
    prune_answer,
)
from mcp_claims.server.schemas import answer_model
from tests.session.bench import Bench, MemoryBench, reserved_for

RED = ScopedKey("default", "red")
HELD = {"holder", "generation", "claimed_at", "expires_at", "expires_in_seconds"}
ENDED = HELD | {"note", "outcome", "ended_at"}
ALWAYS = {"key", "namespace", "advice"}


@pytest.fixture
def bench() -> Bench:
    return MemoryBench()


def assert_fits(answer_type: type, answer: Rendered, fields: set[str]) -> None:
    """Assert that *answer* has exactly *fields*, of the types of *answer_type*, and says them in its text too."""
    structured, text = answer.structured, answer.text
    answer_model(answer_type).model_validate(structured, strict=True)
    assert set(structured) == fields
    assert None not in structured.values()
    assert text.endswith(structured["advice"])
    for field in ("holder", "client", "note", "outcome", "generation"):
        if field in structured:
            said = {"failed": "tried, and failed"}.get(structured[field], structured[field])
            assert str(said) in text, field


def test_an_answer_of_try_claim_has_the_facts_of_the_claim_in_force(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    fields = ALWAYS | HELD | {"claimed", "status"}
    for session in (ada, ben, ada):
        assert_fits(ClaimAnswer, claim_answer(RED, session.try_claim("red")), fields)
    ada.describe_client("codex 1")
    ada.try_claim("red", note="bisecting")
    assert_fits(ClaimAnswer, claim_answer(RED, ben.try_claim("red")), fields | {"client", "note"})


def test_an_answer_of_try_claim_says_whose_claim_it_replaced_and_what_was_left(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red", note="bisecting")
    bench.world.kill(ada)
    answer = claim_answer(RED, ben.try_claim("red"), kept_alive=True)
    assert_fits(ClaimAnswer, answer, ALWAYS | HELD | {"claimed", "status", "previous"})
    assert answer.structured["previous"] == {
        "state": "orphaned",
        "holder": ada.holder.name,
        "generation": 1,
        "note": "bisecting",
        "ended_at": "2026-11-23T12:00:00.000Z",
    }
    assert (
        f"Before that, it was orphaned by {ada.holder.name}, whose process is dead (noticed at 2026-11-23T12:00:00Z), "
        'generation 1. Its note, quoted: "bisecting".'
    ) in answer.text


def test_an_answer_of_try_claim_says_what_the_last_holder_left(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    ada.release("red", outcome=Outcome.FAILED, note="needs a token")
    previous = claim_answer(RED, ben.try_claim("red")).structured["previous"]
    assert (previous["state"], previous["holder"], previous["note"]) == ("failed", ada.holder.name, "needs a token")


def test_an_answer_of_try_claim_says_that_the_work_is_done(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    ada.release("red", outcome=Outcome.DONE, note="fixed")
    answer = claim_answer(RED, ben.try_claim("red"))
    assert_fits(ClaimAnswer, answer, ALWAYS | ENDED | {"claimed", "status"})
    assert (answer.structured["status"], answer.structured["outcome"]) == ("done", "done")


def test_only_the_expiry_of_what_cannot_be_read_is_known(bench: Bench) -> None:
    bench.damage("red")
    ada = bench.session()
    fields = ALWAYS | {"expires_at"}
    assert_fits(ClaimAnswer, claim_answer(RED, ada.try_claim("red")), fields | {"claimed", "status"})
    inspected = inspect_answer(RED, ada.inspect("red"))
    assert_fits(InspectAnswer, inspected, fields | {"claimed_by_other", "held_by_you"})
    assert_fits(ReleaseAnswer, release_answer(RED, ada.release("red")), fields | {"released"})


def test_an_answer_of_is_claimed_by_other_speaks_of_a_generation_only_if_asked(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    fields = ALWAYS | {"claimed_by_other", "held_by_you"}
    assert_fits(InspectAnswer, inspect_answer(RED, ben.inspect("red")), fields)
    ada.try_claim("red")
    assert_fits(InspectAnswer, inspect_answer(RED, ben.inspect("red")), fields | HELD)
    asked = inspect_answer(RED, ben.inspect("red", generation=7))
    assert_fits(InspectAnswer, asked, fields | HELD | {"in_force"})
    assert asked.structured["in_force"] is False


@pytest.mark.rule("V4")
def test_whoever_asks_about_an_old_generation_is_told_that_it_is_its_turn(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    old = ben.try_claim("red").found
    assert isinstance(old, Claim)
    bench.world.pass_time(2_000)
    ada.try_claim("red")
    reserved_for(ben, ada, "red")
    advice = inspect_answer(RED, ben.inspect("red", generation=old.generation)).structured["advice"]
    assert "Stop what you did under that generation" in advice
    assert "call try_claim again" in advice


def test_an_answer_of_release_has_the_marker_that_it_left_or_the_claim_that_it_met(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    fields = ALWAYS | {"released"}
    assert_fits(ReleaseAnswer, release_answer(RED, ben.release("red")), fields)
    ada.try_claim("red")
    assert_fits(ReleaseAnswer, release_answer(RED, ben.release("red")), fields | HELD)
    failed = release_answer(RED, ada.release("red", outcome="failed", note="flaky"))
    assert_fits(ReleaseAnswer, failed, fields | ENDED)
    ada.try_claim("red")
    assert_fits(ReleaseAnswer, release_answer(RED, ada.release("red")), fields)


ENDS = {"expires_at", "expires_in_seconds"}
NAMED = '"red" (namespace "default")'


def test_the_answers_about_a_turn_name_no_holder_to_the_one_whose_turn_it_is(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    told = claim_answer(RED, reserved_for(ben, ada, "red"))
    assert_fits(ClaimAnswer, told, ALWAYS | ENDS | {"claimed", "status"})
    seen = inspect_answer(RED, ben.inspect("red"))
    assert_fits(InspectAnswer, seen, ALWAYS | ENDS | {"claimed_by_other", "held_by_you"})
    assert (seen.structured["claimed_by_other"], seen.structured["held_by_you"]) == (False, False)
    for answer in (told, seen):
        assert "kept for you until 2026-11-23T12:01:00Z" in answer.structured["advice"]
        assert "call try_claim again" in answer.structured["advice"]
    declined = release_answer(RED, ben.release("red"))
    assert_fits(ReleaseAnswer, declined, ALWAYS | {"released"})
    assert declined.lead.startswith("DECLINED") and declined.structured["released"] is True


def test_others_are_told_for_whom_a_key_is_kept_and_until_when(bench: Bench) -> None:
    ada, ben, cem = bench.session(), bench.session(), bench.session()
    ada.try_claim("red")
    reserved_for(ben, ada, "red")
    fields = ALWAYS | ENDS | {"holder"}
    refused = claim_answer(RED, cem.try_claim("red"))
    assert_fits(ClaimAnswer, refused, fields | {"claimed", "status"})
    seen = inspect_answer(RED, cem.inspect("red"))
    assert_fits(InspectAnswer, seen, fields | {"claimed_by_other", "held_by_you"})
    kept = release_answer(RED, cem.release("red"))
    assert_fits(ReleaseAnswer, kept, fields | {"released"})
    for answer in (refused, seen, kept):
        assert "kept until 2026-11-23T12:01:00Z" in answer.structured["advice"]
    listed = list_answer(cem.list_claims(), None)
    assert listed.structured["claims"][0]["state"] == "reserved"
    assert f"is free, but kept for {ben.holder.name}" in listed.text
    bench.world.pass_time(61)
    assert f"EXPIRED, free: {NAMED}, last kept for {ben.holder.name}." in list_answer(cem.list_claims(), None).text


def test_a_wait_that_would_never_end_names_each_session_of_the_cycle(bench: Bench) -> None:
    sessions = [bench.session() for _ in range(7)]
    claims = []
    for number, session in enumerate(sessions):
        found = session.try_claim("red" if number == 0 else f"k{number}").found
        assert isinstance(found, Claim)
        claims.append(found)
    refused = sessions[6].try_claim("red")
    answer = claim_answer(RED, refused._replace(cycle=tuple(claims[:2])))
    assert (
        f'Waiting would never end: you hold "k1", for which {sessions[0].holder.name} waits, who holds "red". '
        'Do not act, and do not wait: release "k1" first'
    ) in answer.structured["advice"]
    long = claim_answer(RED, refused._replace(cycle=tuple(claims))).structured["advice"]
    assert 'you hold "k6", for which' in long and ", and so on, for which" in long and 'who holds "red".' in long


def test_a_place_that_is_kept_is_told(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    refused = ben.try_claim("red")
    assert "keep your place" not in claim_answer(RED, refused).text
    kept = claim_answer(RED, refused._replace(keeps_place=True))
    assert (
        "call try_claim again now, with the same arguments: you keep your place for 30 s" in kept.structured["advice"]
    )


def test_no_refusal_contains_the_text_of_a_grant(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    assert "CLAIMED" not in claim_answer(RED, ben.try_claim("red")).text
    assert "RELEASED" not in release_answer(RED, ben.release("red")).text


def test_an_answer_of_list_claims_has_a_cursor_only_if_there_is_more(bench: Bench) -> None:
    ada = bench.session()
    ada.try_claim("red", note="bisecting")
    bench.damage("green")
    page = ada.list_claims()
    answer = list_answer(page, None)
    answer_model(ListAnswer).model_validate(answer.structured, strict=True)
    assert set(answer.structured) == {"claims", "advice"}
    assert set(list_answer(page, "more").structured) == {"claims", "advice", "cursor"}
    shapes = {frozenset(claim) for claim in answer.structured["claims"]}
    assert shapes == {
        frozenset({"key", "namespace", "state", "note"} | HELD),
        frozenset({"state", "problem", "expires_at"}),
    }


@pytest.mark.rule("S5")
def test_an_unreadable_claim_is_listed_as_held_or_expired_with_its_problem(bench: Bench) -> None:
    bench.damage("green")
    ada = bench.session()
    for state, line, days in (("held", "HELD, cannot be read: ", 0), ("expired", "EXPIRED, free, cannot be read: ", 2)):
        bench.world.pass_time(days * 86_400)
        answer = list_answer(ada.list_claims(), None)
        (claim,) = answer.structured["claims"]
        assert (claim["state"], claim["problem"]) == (state, "default/green: damaged")
        assert line in answer.text


@pytest.mark.rule("S5")
def test_an_unreadable_claim_of_the_far_future_has_no_expiry(bench: Bench) -> None:
    bench.world.wall = datetime.max.replace(tzinfo=UTC)
    bench.damage("red")
    ada = bench.session()
    answer = claim_answer(RED, ada.try_claim("red"))
    assert_fits(ClaimAnswer, answer, ALWAYS | {"claimed", "status"})
    assert "counts as held until somebody removes it" in answer.text
    (claim,) = list_answer(ada.list_claims(), None).structured["claims"]
    assert set(claim) == {"state", "problem"}


def test_an_answer_of_prune_and_one_of_open_session_have_all_fields(bench: Bench) -> None:
    bench.damage("red")
    ada = bench.session()
    for answer_type, answer in (
        (PruneAnswer, prune_answer(ada.prune())),
        (OpenSessionAnswer, open_session_answer("secret", ada.holder.name)),
    ):
        answer_model(answer_type).model_validate(answer.structured, strict=True)
        assert answer.text.endswith(answer.structured["advice"])
