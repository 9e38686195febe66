"""The JSON form of a claim: complete, readable by the original, and never half read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_claims.model import expiry, validation
from mcp_claims.model.codec import (
    RecordError,
    from_json,
    tickets_from_json,
    tickets_to_json,
    timestamp,
    to_json,
    whole_milliseconds,
)
from mcp_claims.model.records import (
    ALONE,
    MAX_GENERATION,
    SHARED,
    Claim,
    Ended,
    Holder,
    Leased,
    Mode,
    Moment,
    Outcome,
    Proof,
    ScopedKey,
    Ticket,
    Use,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CLAIM = Claim(
    ScopedKey("ci", "vercel/next.js#4521:checks_failed"),
    Holder("rig:101:00f1", 101, Proof("boot-1", "pid:[1]", "time:[1]", 7), "codex 1.0"),
    claimed=Moment(NOON, 1_000.0, "boot-1"),
    expires=Moment(NOON + timedelta(minutes=30), 2_800.0, "boot-1"),
    note="“looking” 👀",
    generation=3,
)
RECORD: dict[str, Any] = json.loads(to_json(CLAIM))

TEXTS = ["holder", "key", "namespace", "claimedAt", "expiresAt"]
OPTIONAL_TEXTS = [
    "note",
    "client",
    "label",
    "directory",
    "hostSession",
    "boot",
    "pidNamespace",
    "timeNamespace",
    "clockEpoch",
    "maker",
]
COUNTS = ["pid", "generation"]
SECONDS = ["claimedTicks", "expiresTicks"]
REQUIRED = TEXTS + COUNTS + SECONDS

names = st.text(min_size=1)
# No key that a caller passes has what separates it from a member.
keys = st.text(st.characters(exclude_characters="\1", codec="utf-8"), min_size=1)
optional = st.none() | st.text()
counts = st.integers(1, MAX_GENERATION)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-12))])
walls = st.builds(
    lambda milliseconds, zone: (NOON + timedelta(milliseconds=milliseconds)).astimezone(zone),
    st.integers(-(10**13), 10**14),
    zones,
)
ticks = st.floats(0, 1e10, exclude_max=True)


@st.composite
def claims(draw: st.DrawFn, *, nested: bool = False) -> Claim:
    epoch = draw(optional)
    ended = st.builds(Ended, st.sampled_from(Outcome), st.builds(Moment, walls, ticks, st.just(epoch)))
    member = draw(st.none() | keys)
    scoped = st.builds(ScopedKey, names, keys).map(lambda key: key if member is None else key.place(member))
    return Claim(
        draw(scoped),
        Holder(
            draw(names),
            draw(counts),
            Proof(draw(optional), draw(optional), draw(optional), draw(st.none() | st.integers(0, MAX_GENERATION))),
            draw(optional),
            draw(optional),
            draw(optional),
            draw(optional),
        ),
        claimed=Moment(draw(walls), draw(ticks), epoch),
        expires=Moment(draw(walls), draw(ticks), epoch),
        note=draw(optional),
        generation=draw(counts),
        ended=draw(st.none() | ended),
        mode=draw(st.sampled_from(Mode)),
        slot=draw(st.none() | st.integers(0, MAX_GENERATION)),
        slots=draw(st.none() | counts),
        group=draw(st.lists(scoped, max_size=3).map(tuple)),
        maker=draw(optional),
        replaced=None if nested else draw(st.none() | claims(nested=True)),
        members=draw(st.lists(names, max_size=3).map(tuple)),
    )


# Python's `json` writes and reads NaN and the infinities, which JSON does not have; a broken writer may as well.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**53, 10**400, -(10**400)]) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def changed(**fields: object) -> bytes:
    return json.dumps(RECORD | fields).encode()


@given(claims())
@settings(deadline=None)
def test_a_claim_reads_back_equal_to_what_was_written(claim: Claim) -> None:
    assert from_json(to_json(claim)) == claim


@given(walls, st.integers(0, 999))
@settings(deadline=None)
def test_a_time_cut_to_whole_milliseconds_is_what_the_record_holds(wall: datetime, microseconds: int) -> None:
    moment = wall + timedelta(microseconds=microseconds)
    assert whole_milliseconds(moment) == wall == datetime.fromisoformat(timestamp(moment))


def test_the_fields_of_the_original_come_first_and_in_its_form() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    claim = CLAIM._replace(claimed=Moment(datetime(2026, 11, 23, 17, 30, 0, 7_000, india), 1.0, "boot-1"))
    record = json.loads(to_json(claim))
    assert list(record.items())[:4] == [
        ("holder", "rig:101:00f1"),
        ("pid", 101),
        ("claimedAt", "2026-11-23T12:00:00.007Z"),
        ("expiresAt", "2026-11-23T12:30:00.000Z"),
    ]


@given(walls)
@settings(deadline=None)
def test_times_are_written_in_utc_with_milliseconds_as_javascript_writes_them(wall: datetime) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp(wall))


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert from_json(changed(mood="done", watchers=[1, {"deep": None}])) == CLAIM


@pytest.mark.parametrize("field", [*OPTIONAL_TEXTS, "processStart"])
@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_what_only_helps_may_be_missing(field: str, absent: bool) -> None:
    record = {name: value for name, value in RECORD.items() if name != field}
    assert isinstance(from_json(json.dumps(record if absent else RECORD | {field: None}).encode()), Claim)


def test_the_largest_claim_that_the_rules_allow_stays_under_16_kb() -> None:
    # Both take the most bytes in JSON: a backslash is escaped, and a note counts characters, not bytes.
    key = "\\" * validation.MAX_KEY_BYTES
    note = validation.parse_note("🦀" * validation.MAX_NOTE_CHARACTERS)
    holder = CLAIM.holder._replace(client=note)
    largest = CLAIM._replace(
        scoped=validation.scoped_key(key, key), holder=holder, note=note, generation=MAX_GENERATION
    )
    assert len(to_json(largest)) < 16_000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(to_json(CLAIM)[:100], id="half"),
        pytest.param(to_json(CLAIM)[:-3], id="all-but-the-last-bracket"),
        pytest.param(to_json(CLAIM) * 2, id="twice"),
        pytest.param(b"\0" * 512, id="zeros"),
        pytest.param(bytes(range(256)), id="binary"),
        pytest.param(b"\xff\xfe\x00", id="half-of-utf-16"),
        pytest.param(to_json(CLAIM).decode().encode("utf-16"), id="utf-16"),
        pytest.param(b"[" * 100_000, id="nested-without-end"),
        pytest.param(b'{"a":' * 100_000, id="objects-without-end"),
        pytest.param(json.dumps([RECORD]).encode(), id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"claim"', id="text"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"9" * 5_000, id="a-number-of-5000-digits"),
    ],
)
def test_bytes_that_are_not_one_json_object_are_no_claim(data: bytes) -> None:
    with pytest.raises(RecordError, match=r"not JSON|not a JSON object"):
        from_json(data)


def test_a_mark_before_the_first_byte_as_some_editors_write_it_changes_nothing() -> None:
    assert from_json(b"\xef\xbb\xbf" + to_json(CLAIM)) == CLAIM


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=repr)
def test_what_json_does_not_have_makes_a_record_unreadable_even_in_a_field_that_is_ignored(value: float) -> None:
    with pytest.raises(RecordError, match="not JSON"):
        from_json(changed(watchers=value))


@pytest.mark.parametrize("field", REQUIRED)
def test_a_claim_without_a_required_field_is_unreadable(field: str) -> None:
    record = {name: value for name, value in RECORD.items() if name != field}
    with pytest.raises(RecordError, match=field):
        from_json(json.dumps(record).encode())


@pytest.mark.parametrize("field", REQUIRED)
def test_null_is_no_value_for_a_required_field(field: str) -> None:
    with pytest.raises(RecordError, match=field):
        from_json(changed(**{field: None}))


@pytest.mark.parametrize("field", TEXTS + OPTIONAL_TEXTS)
def test_text_of_another_type_is_unreadable(field: str) -> None:
    others: list[object] = [1, 0, True, [], ["a"], {}]
    for value in others:
        with pytest.raises(RecordError, match=f"{field} is not text"):
            from_json(changed(**{field: value}))


@pytest.mark.parametrize("field", TEXTS)
def test_required_text_that_is_empty_is_unreadable(field: str) -> None:
    with pytest.raises(RecordError, match=f"{field} is empty"):
        from_json(changed(**{field: ""}))


@pytest.mark.parametrize("field", COUNTS)
def test_a_count_that_is_no_whole_number_from_one_up_is_unreadable(field: str) -> None:
    no_counts: list[object] = [True, 0, -1, 1.0, 1.5, "1", [], 2**53, 10**400, float("nan")]
    for value in no_counts:
        with pytest.raises(RecordError):
            from_json(changed(**{field: value}))


@pytest.mark.parametrize("field", ["pid", "processStart"])
@pytest.mark.parametrize("value", [True, 1.0])
def test_what_equals_a_count_that_was_read_before_and_is_none_is_unreadable_all_the_same(
    field: str, value: object
) -> None:
    from_json(changed(**{field: 1}))
    with pytest.raises(RecordError, match=f"{field} is not a whole number"):
        from_json(changed(**{field: value}))


@pytest.mark.parametrize("value", [True, -1, 1.5, "7"], ids=repr)
def test_a_start_time_that_is_no_count_is_unreadable(value: object) -> None:
    with pytest.raises(RecordError, match="processStart"):
        from_json(changed(processStart=value))


@pytest.mark.parametrize("field", ["mode", "outcome"])
def test_a_word_that_a_newer_version_wrote_is_unreadable_and_so_held(field: str) -> None:
    others: list[object] = ["shelved", "", "DONE", 1, True, ["done"], {}]
    for value in others:
        with pytest.raises(RecordError, match=f"{field} is none that this version knows"):
            from_json(changed(endedAt="2026-11-23T12:00:00Z", endedTicks=1, **{field: value}))


def test_what_a_reservation_replaced_is_a_record_or_unreadable() -> None:
    others: list[object] = [1, True, "red", [], [RECORD]]
    for value in others:
        with pytest.raises(RecordError, match="replaced is not a JSON object"):
            from_json(changed(replaced=value))
    for field in REQUIRED:
        with pytest.raises(RecordError, match=field):
            from_json(changed(replaced={name: value for name, value in RECORD.items() if name != field}))
    with pytest.raises(RecordError, match="mode"):
        from_json(changed(replaced=RECORD | {"mode": "shelved"}))
    assert from_json(changed(replaced=RECORD)).replaced == CLAIM


@pytest.mark.rule("M1")
def test_a_claim_in_a_place_and_its_head_are_written_with_the_key_that_callers_pass() -> None:
    place = CLAIM.scoped.place("0")
    member = CLAIM._replace(scoped=place, mode=Mode.SLOT, slot=0, slots=2, group=(place, place._replace(namespace="x")))
    record = json.loads(to_json(member))
    assert (record["key"], record["member"]) == (CLAIM.scoped.key, "0")
    assert record["group"] == [["ci", CLAIM.scoped.key], ["x", CLAIM.scoped.key]]
    assert from_json(to_json(member)) == member
    head = CLAIM._replace(mode=Mode.SLOT, slots=2, members=("0", "1"), replaced=CLAIM)
    assert from_json(to_json(head)) == head and head.places == (place, CLAIM.scoped.place("1"))
    assert (json.loads(to_json(head))["members"], "member" in json.loads(to_json(head))) == (["0", "1"], False)


@pytest.mark.rule("M1")
def test_members_that_are_no_list_of_texts_are_unreadable() -> None:
    assert from_json(changed(members=None)).members == ()
    others: list[object] = [[], 1, "0", {}, [1], [None], ["0", ["1"]], [""]]
    for value in others:
        with pytest.raises(RecordError, match="members"):
            from_json(changed(members=value))
    no_members: list[object] = [1, [], {}, True]
    for value in no_members:
        with pytest.raises(RecordError, match="member"):
            from_json(changed(member=value))


@pytest.mark.parametrize("use", [ALONE, SHARED, Use(Mode.SLOT, 3)])
def test_a_ticket_keeps_in_which_way_it_asks_for_its_keys(use: Use) -> None:
    ticket = Ticket(3, (CLAIM.scoped,), CLAIM.holder, CLAIM.claimed, CLAIM.expires, use=use)
    assert tickets_from_json(tickets_to_json([ticket])) == (ticket,)


@pytest.mark.parametrize(("field", "lowest"), [("slot", 0), ("slots", 1)])
def test_a_slot_that_is_no_count_is_unreadable(field: str, lowest: int) -> None:
    assert isinstance(from_json(changed(**{field: lowest})), Claim)
    no_counts: list[object] = [True, lowest - 1, 1.0, "1", [], 2**53]
    for value in no_counts:
        with pytest.raises(RecordError, match=f"{field} is not a whole number from {lowest} up"):
            from_json(changed(**{field: value}))


@pytest.mark.parametrize("field", SECONDS)
def test_seconds_that_no_clock_can_show_are_unreadable(field: str) -> None:
    no_seconds: list[object] = [
        True,
        "7",
        [],
        float("nan"),
        float("inf"),
        float("-inf"),
        -0.5,
        1e300,
        10**400,
        -(10**400),
    ]
    for value in no_seconds:
        with pytest.raises(RecordError):
            from_json(changed(**{field: value}))


@pytest.mark.parametrize("field", ["claimedAt", "expiresAt"])
def test_a_time_without_a_zone_is_unreadable(field: str) -> None:
    with pytest.raises(RecordError, match=f"{field} has no time zone"):
        from_json(changed(**{field: "2026-11-23T12:00:00.000"}))


@pytest.mark.parametrize("field", ["claimedAt", "expiresAt"])
def test_a_time_that_no_calendar_has_is_unreadable(field: str) -> None:
    for text in ("soon", "2026-13-01T00:00:00Z", "2026-11-23", "1763899200", "+12026-11-23T12:00:00Z", "T"):
        with pytest.raises(RecordError, match=field):
            from_json(changed(**{field: text}))


@pytest.mark.parametrize("field", ["holder", "key", "namespace", *OPTIONAL_TEXTS])
def test_half_a_surrogate_pair_is_unreadable_text(field: str) -> None:
    data = changed(**{field: "\ud83d"})
    assert b"\\ud83d" in data
    with pytest.raises(RecordError, match=f"{field} is not valid Unicode"):
        from_json(data)


@given(st.binary())
@example(b"\xef\xbb\xbf{}")
@settings(deadline=None)
def test_no_bytes_raise_anything_but_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        from_json(data)


@given(json_values)
@settings(deadline=None)
def test_no_json_raises_anything_but_a_record_error(value: object) -> None:
    with pytest.raises(RecordError):
        from_json(json.dumps(value).encode())


@given(st.sampled_from(sorted(RECORD)), json_values)
@example("expiresTicks", 10**400)
@example("expiresTicks", 1e300)
@example("claimedTicks", -1e300)
@example("claimedAt", "0001-01-01T00:00:00+14:00")
@example("expiresAt", "9999-12-31T23:59:59-14:00")
@settings(deadline=None)
def test_a_claim_with_one_field_changed_is_unreadable_or_can_be_judged_and_written_again(
    field: str, value: object
) -> None:
    try:
        claim = from_json(changed(**{field: value}))
    except RecordError:
        return
    for now in (CLAIM.claimed, CLAIM.claimed._replace(epoch="boot-2")):
        expiry.remaining(claim.expires, now)
        expiry.remaining(claim.claimed, now)
    from_json(to_json(claim))


def test_claims_compare_by_their_content_and_not_by_what_their_store_knows() -> None:
    stored = CLAIM._replace(stored=1.5e9, leased=Leased(1, 2))
    assert stored == CLAIM and not stored.__ne__(CLAIM) and hash(stored) == hash(CLAIM)
    for changed in ({"generation": 9}, {"note": "another"}, {"holder": CLAIM.holder._replace(pid=1)}):
        another = CLAIM._replace(**changed)
        assert another != CLAIM and not another.__eq__(CLAIM)


def test_a_claim_equals_nothing_that_is_no_claim() -> None:
    assert tuple(CLAIM) != CLAIM and tuple(CLAIM) != CLAIM
