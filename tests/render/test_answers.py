"""Each answer fits its output schema, has what applies and nothing else, and says the same in its text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.render.answers import (
    ClaimAnswer,
    InspectAnswer,
    ReleaseAnswer,
    Rendered,
    claim_answer,
    inspect_answer,
    release_answer,
    subject,
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
from mcp_claims.session.results import ClaimResult, ReleaseResult, Status
from mcp_claims.session.session import Session
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
        f"Before that, it was left by {ada.holder.name}, whose process is dead (noticed at 2026-11-23T12:00:00Z), "
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


GREEN, BLUE = ScopedKey("default", "green"), ScopedKey("default", "blue")
ALL = (RED, GREEN, BLUE)
HANGAR = ScopedKey(PLACES, "file:/w/src/")


def try_all(session: Session, *keys: ScopedKey, reserve: bool = False) -> ClaimResult:
    return session.try_request(ClaimRequest(keys[0], also=keys[1:]), reserve=reserve)


def own_group(session: Session, *keys: ScopedKey) -> Claim:
    found = try_all(session, *keys).found
    assert isinstance(found, Claim) and found.group == keys
    return found


@pytest.mark.rule("C15")
def test_a_refusal_of_a_group_names_the_key_that_is_held(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("green", note="bisecting")
    refused = try_all(ben, *ALL)
    for keys in (ALL, ()):
        answer = claim_answer(RED, refused, keys=keys)
        assert answer.lead.startswith(f'HELD: "green" (namespace "default") is held by {ada.holder.name}')
        assert_fits(ClaimAnswer, answer, ALWAYS | HELD | {"claimed", "status", "note"})
        assert answer.structured["advice"].startswith('Nothing was claimed, since "green" is not free. Do not act.')
    ada.try_claim("blue")
    several = claim_answer(RED, try_all(ben, *ALL), keys=ALL).structured["advice"]
    assert f'these are held: "green" by {ada.holder.name}; "blue" by {ada.holder.name}.' in several


def test_a_refusal_of_many_keys_names_some_of_them(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    keys = tuple(ScopedKey("default", f"k{number}") for number in range(12))
    for key in keys[1:]:
        ada.try_claim(key.key)
    advice = claim_answer(keys[0], try_all(ben, *keys), keys=keys).structured["advice"]
    assert '"k8" by' in advice and '"k9" by' not in advice and "; and 3 more." in advice


def test_what_cannot_be_read_is_one_of_the_keys_of_a_group(bench: Bench) -> None:
    bench.damage("green")
    ada, ben = bench.session(), bench.session()
    answer = claim_answer(RED, try_all(ben, RED, GREEN), keys=(RED, GREEN))
    assert answer.lead.startswith('HELD: one of "red", "green" counts as held until')
    assert "Nothing was claimed, since one of the keys is not free." in answer.structured["advice"]
    ada.try_claim("blue")
    both = claim_answer(RED, try_all(ben, *ALL), keys=ALL).structured["advice"]
    assert f'one that cannot be read (default/green: damaged); "blue" by {ada.holder.name}.' in both


def test_a_refusal_says_why_a_claim_on_another_key_is_in_the_way(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    found = ada.try_claim("a/b").found
    assert isinstance(found, Claim)
    refused = ClaimResult(Status.HELD, found, ben.now())
    shared = claim_answer(ScopedKey("default", "a:b"), refused)
    assert shared.lead.startswith('HELD: "a:b"')
    assert 'on "a/b", whose file has the same name in this layout as that of "a:b".' in shared.structured["advice"]
    earlier = claim_answer(RED, refused)
    assert earlier.lead.startswith('HELD: "a/b"')
    assert 'A session that came before you needs both "a/b" and "red".' in earlier.structured["advice"]
    group = claim_answer(RED, refused._replace(in_the_way=(found,)), keys=(RED, GREEN))
    assert 'A session that came before you needs both "a/b" and one of your keys.' in group.structured["advice"]
    for answer in (earlier, group):
        assert "layout" not in answer.text


@pytest.mark.rule("K1")
def test_a_refusal_says_which_file_of_a_group_a_claim_overlaps_with(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    held = ada.try_request(ClaimRequest(HANGAR)).found
    inside = ScopedKey(PLACES, "file:/w/src/a.py")
    assert isinstance(held, Claim)
    refused = try_all(ben, RED, inside)
    assert refused.found == held
    answer = claim_answer(RED, refused, keys=(RED, inside))
    assert answer.lead.startswith('HELD: "file:/w/src/"')
    assert 'on "file:/w/src/", which overlaps with "file:/w/src/a.py".' in answer.structured["advice"]
    assert "came before you" not in answer.text
    alone = claim_answer(inside, ben.try_request(ClaimRequest(inside)))
    assert alone.lead.startswith('HELD: "file:/w/src/a.py"') and "which overlaps with" in alone.structured["advice"]


@pytest.mark.rule("C15")
def test_what_each_key_of_a_group_replaced_is_told(bench: Bench) -> None:
    ada, ben, cem = bench.session(), bench.session(), bench.session()
    ada.try_claim("red", note="bisecting")
    ada.release("red", outcome=Outcome.FAILED, note="flaky")
    ada.try_claim("green", note="half done")
    bench.world.kill(ada)
    answer = claim_answer(BLUE, try_all(ben, BLUE, RED, GREEN), keys=(BLUE, RED, GREEN))
    assert_fits(ClaimAnswer, answer, ALWAYS | HELD | {"claimed", "status"})
    advice = answer.structured["advice"]
    assert f'Before that, "red" was tried, and failed by {ada.holder.name}' in advice and '"flaky"' in advice
    assert f'Before that, "green" was left by {ada.holder.name}' in advice and '"half done"' in advice
    ben.release("blue", outcome=Outcome.FAILED, note="no disk")
    first = claim_answer(BLUE, try_all(cem, BLUE, RED), keys=(BLUE, RED))
    assert first.structured["previous"]["note"] == "no disk" and 'Before that, "blue" was tried' in first.lead
    assert 'Before that, "blue"' not in first.structured["advice"], "once is enough"


def test_of_many_keys_that_replaced_something_some_are_told(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    keys = tuple(ScopedKey("default", f"k{number}") for number in range(12))
    own_group(ada, *keys)
    ada.release("k0", outcome=Outcome.FAILED, note="x" * 500)
    advice = claim_answer(keys[0], try_all(ben, *keys), keys=keys).structured["advice"]
    assert 'Before that, "k8" was' in advice and 'Before that, "k9"' not in advice
    assert "On 3 more of these keys something was left, too." in advice


def test_a_grant_of_a_group_says_the_generation_of_each_key(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("green")
    ada.release("green")
    lead = claim_answer(RED, try_all(ben, RED, GREEN), keys=(RED, GREEN)).lead
    assert 'CLAIMED: you hold all of "red", "green" until' in lead
    assert 'generation 2 of "red", 3 of "green", as' in lead


@pytest.mark.rule("C15")
def test_keys_of_a_group_that_were_lost_are_named_with_what_can_be_done(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    own_group(ada, *ALL)
    green = bench.store.read(GREEN)
    assert isinstance(green, Claim) and ben.revoke(green)
    result = try_all(ada, *ALL)
    assert result.missing == (GREEN,)
    nobody = claim_answer(RED, result, keys=ALL)
    assert nobody.lead == 'HELD: you no longer hold "green" of the keys that you claimed together.'
    assert "holder" not in nobody.structured, "the caller would take itself for another session"
    assert 'A release of "red" frees all that you still hold.' in nobody.structured["advice"]
    ben.try_claim("green")
    taken = claim_answer(BLUE, ada.try_request(ClaimRequest(BLUE)))
    assert_fits(ClaimAnswer, taken, ALWAYS | HELD | {"claimed", "status"})
    assert f'"green" (namespace "default") is held by {ben.holder.name}' in taken.lead
    for answer in (nobody, taken):
        assert "Release what you still hold, then claim all again." in answer.structured["advice"]
        assert 'Stop all that needs "green".' in answer.structured["advice"]
        assert "anew" not in answer.text


@pytest.mark.rule("C15", "W4")
def test_the_turn_of_a_group_names_what_is_reserved_and_not_what_is_held_already(bench: Bench) -> None:
    ada = bench.session()
    ada.try_claim("red")
    turn = try_all(ada, RED, GREEN, reserve=True)
    assert turn.status is Status.YOUR_TURN
    one = claim_answer(RED, turn, keys=(RED, GREEN))
    assert one.lead == 'YOUR TURN: you do not hold "green" (namespace "default") yet.'
    assert 'to take it, and then act; or release "green" to let the next one have it.' in one.structured["advice"]
    ben = bench.session()
    keys = tuple(ScopedKey("default", name) for name in ("x", "y"))
    two = claim_answer(keys[0], try_all(ben, *keys, reserve=True), keys=keys)
    assert two.lead == 'YOUR TURN: you do not hold "x", "y" yet.'
    assert "They are free now and kept for you until" in two.structured["advice"]
    assert 'to take them, and then act; or release "x" to let the next one have them.' in two.structured["advice"]


@pytest.mark.rule("C15")
def test_a_release_of_a_group_says_so_in_the_plural(bench: Bench) -> None:
    ada = bench.session()
    own_group(ada, RED, GREEN)
    plain = release_answer(RED, ada.release("red")._replace(keys=(RED, GREEN)))
    assert plain.text == (
        'RELEASED: all of "red", "green". They are free for others. Claim them again before you act on them again.'
    )
    own_group(ada, RED, GREEN)
    done = release_answer(GREEN, ada.release("green", outcome="done", note="fixed")._replace(keys=(GREEN, RED)))
    assert_fits(ReleaseAnswer, done, ALWAYS | ENDED | {"released"})
    assert done.lead.startswith(f'RELEASED: all of "green", "red". The work was done by {ada.holder.name}')
    assert done.structured["advice"] == 'Others are told not to repeat "red". The other keys are free.'
    declined = release_answer(RED, ReleaseResult(True, None, ada.now(), declined=True, keys=(RED, GREEN)))
    assert declined.lead == 'DECLINED: "red", "green" are no longer kept for you.'
    assert declined.structured["advice"].endswith("can have them.")
    assert release_answer(RED, ada.release("red")._replace(keys=(RED,))).lead.startswith("NOTHING TO RELEASE")


@pytest.mark.rule("C10")
def test_the_work_on_a_file_is_never_done_for_others(bench: Bench) -> None:
    ada = bench.session()
    ada.try_request(ClaimRequest(HANGAR))
    answer = release_answer(HANGAR, ada.release(HANGAR.key, outcome="done"))
    assert answer.structured["advice"] == "The next holder is told how it ended."


@pytest.mark.rule("C15")
def test_a_renewal_that_claimed_more_says_what_is_new_and_since_when_the_rest_is_held(bench: Bench) -> None:
    ada = bench.session()
    ada.try_claim("red")
    bench.world.pass_time(60)
    joined = try_all(ada, RED, GREEN)._replace(status=Status.RENEWED)
    since = "2026-11-23T12:00:00Z"
    answer = claim_answer(RED, joined, keys=(RED, GREEN))
    assert_fits(ClaimAnswer, answer, ALWAYS | HELD | {"claimed", "status"})
    assert answer.lead.startswith(f'RENEWED: you have held "red" since {since}, and claimed "green" now, all until')
    advice = answer.structured["advice"]
    assert advice.startswith(f'Only "green" is new. Your connection has held "red" since {since}.')
    assert "a sub-agent on your connection did: do not act on it, and release nothing" in advice
    again = claim_answer(RED, try_all(ada, RED, GREEN), keys=(RED, GREEN))
    assert again.lead.startswith(f'RENEWED: you have held all of "red", "green" since {since}')
    assert "new" not in again.structured["advice"]
    later = try_all(ada, BLUE, RED, GREEN)._replace(status=Status.RENEWED)
    mixed = claim_answer(BLUE, later, keys=(BLUE, RED, GREEN)).lead
    assert 'held "red", "green" since before this call, and claimed "blue" now' in mixed


def test_a_group_whose_first_key_is_done_is_refused_as_a_whole(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    ada.try_claim("red")
    ada.release("red", outcome="done")
    answer = claim_answer(RED, try_all(ben, RED, GREEN), keys=(RED, GREEN))
    assert answer.structured["status"] == "done"
    assert 'Nothing was claimed, since "red" is done.' in answer.structured["advice"]


@pytest.mark.rule("C16")
def test_the_answer_about_a_list_names_the_key_that_it_is_about(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    request = ClaimRequest(RED, or_else=(GREEN,))
    first, second = ada.try_request(request), ben.try_request(request)
    assert (subject(request, first), subject(request, second)) == (RED, GREEN)
    last = claim_answer(GREEN, second, keys=request.keys)
    assert last.structured["advice"].startswith("Nothing else in the list is free.")
    refused = bench.session().try_request(request)
    assert claim_answer(subject(request, refused), refused, keys=request.keys).lead.startswith('HELD: "red"')
    inside = ClaimRequest(RED, or_else=(ScopedKey(PLACES, "file:/w/src/a.py"),))
    held = ada.try_request(ClaimRequest(HANGAR))
    assert subject(inside, held._replace(status=Status.HELD)) == inside.or_else[0]


@pytest.mark.rule("K10")
def test_the_hint_about_files_names_the_keys_that_it_is_about(bench: Bench) -> None:
    granted = bench.session().try_claim("red")
    one = claim_answer(RED, granted, like_files=(RED,)).structured["advice"]
    assert one.startswith('"red" is a text like any other and claims no file: for files, claim file:PATH.')
    two = claim_answer(RED, granted, like_files=(RED, GREEN)).structured["advice"]
    assert two.startswith('"red", "green" are texts like any other and claim no file')
