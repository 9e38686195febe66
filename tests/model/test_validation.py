"""The rules: how a claim stands at a moment, and what may be asked for."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import ALONE, SHARED, Claim, Holder, Mode, Moment, ScopedKey, Unreadable, Use
from mcp_claims.model.text import one_line
from mcp_claims.model.validation import MAX_TTL, ClaimRequest
from tests.support.machines import World

DAY = 86_400.0


def claim_in(world: World, minutes: float = 30) -> Claim:
    machine = world.process()
    now = machine.now()
    holder = Holder("rig:101:01", machine.pid(), machine.proof())
    return Claim(ScopedKey("ci", "red-check"), holder, now, expiry.later(now, timedelta(minutes=minutes)), generation=1)


def state(claim: Claim, world: World) -> ClaimState:
    observer = world.process()
    return expiry.state_of(claim, observer.now(), observer.provably_dead)


@pytest.mark.rule("T4")
def test_a_claim_is_held_until_the_instant_of_its_expiry() -> None:
    world = World()
    claim = claim_in(world)
    world.pass_time(30 * 60 - 0.001)
    assert state(claim, world) is ClaimState.HELD
    world.pass_time(0.001)
    assert state(claim, world) is ClaimState.EXPIRED


@pytest.mark.rule("T1")
@pytest.mark.parametrize("step", [DAY, -DAY], ids=["forward", "back"])
def test_a_step_of_the_wall_clock_neither_ends_a_claim_nor_extends_it(step: float) -> None:
    world = World()
    claim = claim_in(world)
    world.set_wall_clock(step)
    world.pass_time(30 * 60 - 1)
    assert state(claim, world) is ClaimState.HELD
    world.pass_time(1)
    assert state(claim, world) is ClaimState.EXPIRED


@pytest.mark.rule("T2")
def test_after_a_reboot_the_wall_clock_decides() -> None:
    world = World()
    claim = claim_in(world)
    # The new boot's ticks are far below those of the expiry; compared with them the claim would live on.
    world.reboot()
    world.pass_time(30 * 60 - 1)
    assert state(claim, world) is ClaimState.HELD
    world.pass_time(1)
    assert state(claim, world) is ClaimState.EXPIRED


def test_where_no_boot_is_known_the_wall_clock_decides() -> None:
    now = Moment(datetime(2026, 11, 23, tzinfo=UTC), ticks=5.0, epoch=None)
    deadline = expiry.later(now, timedelta(minutes=1))._replace(ticks=0.0)
    assert expiry.remaining(deadline, now) == timedelta(minutes=1)


def test_a_claim_of_a_dead_process_is_orphaned() -> None:
    world = World()
    claim = claim_in(world)
    world.alive.clear()
    assert state(claim, world) is ClaimState.ORPHANED


def test_nobody_asks_whether_the_holder_of_an_expired_claim_is_dead() -> None:
    world = World()
    claim = claim_in(world)
    world.pass_time(30 * 60)
    asked: list[Holder] = []

    def provably_dead(holder: Holder) -> bool:
        asked.append(holder)
        return True

    assert expiry.state_of(claim, world.process().now(), provably_dead) is ClaimState.EXPIRED
    assert asked == []


def test_a_later_moment_is_later_on_both_clocks_of_the_same_boot() -> None:
    moment = Moment(datetime(2026, 11, 23, tzinfo=UTC), 10.0, "boot-1")
    expected = Moment(datetime(2026, 11, 23, 0, 0, 1, 500_000, tzinfo=UTC), 11.5, "boot-1")
    assert expiry.later(moment, timedelta(seconds=1.5)) == expected


@pytest.mark.rule("S5")
@pytest.mark.parametrize(
    ("age", "is_past_any_ttl"),
    [
        pytest.param(timedelta(0), False, id="new"),
        pytest.param(MAX_TTL, False, id="as-old-as-a-claim-can-be"),
        pytest.param(MAX_TTL + timedelta(milliseconds=1), True, id="older-than-any-claim"),
        pytest.param(-MAX_TTL, False, id="from-the-future"),
    ],
)
def test_an_unreadable_claim_expires_only_when_any_claim_would_have(age: timedelta, is_past_any_ttl: bool) -> None:
    now = World().process().now()
    assert expiry.is_past_any_ttl(Unreadable("somewhere", "half", now.wall - age, ()), now) is is_past_any_ttl


@pytest.mark.rule("T3")
@pytest.mark.parametrize(
    "minutes",
    [0, -1, 1 / 61, math.nan, math.inf, -math.inf, 10**400, -(10**400), 1_440.001, 365 * 1_440],
    ids=["0", "-1", "under-a-second", "nan", "inf", "-inf", "huge", "-huge", "over-a-day", "a-year"],
)
def test_a_time_to_live_out_of_range_is_refused_with_the_range(minutes: float) -> None:
    with pytest.raises(InvalidInputError, match=r"ttl_minutes must be a number from 1/60 .*to 1,440") as refusal:
        validation.parse_ttl(minutes)
    assert refusal.value.field == "ttl_minutes"


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(1 / 60, timedelta(seconds=1)), (30, timedelta(minutes=30)), (1_440, timedelta(days=1))],
    ids=["least", "default", "most"],
)
def test_a_time_to_live_in_range_is_taken(minutes: float, expected: timedelta) -> None:
    assert validation.parse_ttl(minutes) == expected


@given(st.floats(1 / 60, 1_440))
@settings(deadline=None)
def test_a_time_to_live_is_whole_milliseconds_so_that_the_expiry_fits_the_record(minutes: float) -> None:
    assert validation.parse_ttl(minutes) % timedelta(milliseconds=1) == timedelta(0)


JOINING = [
    ("arabic", "\u0645", "\u0647"),
    ("arabic-mark", "\u0645\u0651", "\u0647"),
    ("arabic-digit", "\u06f6", "\u0627"),
    ("syriac", "\u0712", "\u0713"),
    ("nko", "\u07ca", "\u07cb"),
    ("mongolian", "\u1820", "\u1821"),
    ("devanagari", "\u0915", "\u0937"),
    ("bengali", "\u09b0", "\u09af"),
    ("tamil", "\u0b95", "\u0bb7"),
    ("sinhala", "\u0d9a", "\u0dc2"),
    ("tibetan", "\u0f40", "\u0f41"),
    ("myanmar", "\u1000", "\u1001"),
    ("khmer", "\u1780", "\u1781"),
]


def flag(region: str) -> str:
    return "\U0001f3f4" + "".join(chr(0xE0000 + ord(each)) for each in f"{region}\x7f")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("k", id="one-character"),
        pytest.param("k" * 1_024, id="1024-bytes"),
        pytest.param("é" * 512, id="1024-bytes-of-two-each"),
        pytest.param("a b", id="spaces"),
        pytest.param("👩‍💻 is on it", id="emoji-joined-by-zwj"),
        pytest.param("vercel/next.js#4521:checks_failed", id="an-event"),
        pytest.param("..", id="dots"),
        pytest.param("e\u0301", id="decomposed-accent"),
        pytest.param("❤\ufe0f fix", id="emoji-presentation"),
        pytest.param("❤\ufe0e", id="text-presentation"),
        pytest.param("❤\ufe0f\u200d🔥", id="emoji-joined-after-its-presentation"),
        pytest.param("👍🏽", id="skin-tone"),
        pytest.param("step 1\ufe0f\u20e3", id="keycap"),
        pytest.param("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", id="persian-non-joiner"),
        pytest.param("क्\u200dष", id="indic-joiner"),
        *(
            pytest.param(
                f"fix {before}{joiner}{after}", id=f"{script}-U+{ord(joiner):04X}-{'inside' if after else 'at-the-end'}"
            )
            for joiner in "\u200c\u200d"
            for script, before, letter in JOINING
            for after in (letter, "")
        ),
        pytest.param("\u09b0\u200d\u09cd\u09af\u09be\u09ae", id="bengali-joiner-before-the-virama"),
        pytest.param("\u2139\ufe0f read", id="emoji-that-is-a-letter"),
        *(pytest.param(f"{flag(region)} release", id=f"flag-of-{region}") for region in ("gbeng", "gbsct", "gbwls")),
        pytest.param("деплой", id="cyrillic"),
        pytest.param("修复", id="han"),
    ],
)
def test_a_key_or_namespace_is_taken_exactly_as_it_is(text: str) -> None:
    assert validation.scoped_key(text, text) == ScopedKey(text, text)


BAD_NAMES = [
    pytest.param("", "must not be empty", id="empty"),
    pytest.param("k" * 1_025, "at most 1,024 bytes", id="1025-bytes"),
    pytest.param("é" * 512 + "k", "at most 1,024 bytes", id="1025-bytes-of-two-each"),
    pytest.param("a\0b", "control characters", id="nul"),
    pytest.param("a\nb", "line breaks", id="line-break"),
    pytest.param("a\x1b[31m", "control characters", id="escape"),
    pytest.param("a\x7f", "control characters", id="delete"),
    pytest.param("a\x9b31m", "control characters", id="c1"),
    pytest.param("a\u2028b", "line breaks", id="line-separator"),
    pytest.param("a\u2029b", "line breaks", id="paragraph-separator"),
    pytest.param("a\u202eb", "invisible", id="right-to-left-override"),
    pytest.param("a\u2066b", "invisible", id="isolate"),
    pytest.param("a\u200bb", "invisible", id="zero-width-space"),
    pytest.param("a\ufeffb", "invisible", id="byte-order-mark"),
    pytest.param("a\U000e0041", "invisible", id="tag"),
    pytest.param("a\ud83d", "must not contain", id="half-a-surrogate-pair"),
    pytest.param(" ", "blank", id="only-a-blank"),
    pytest.param("deploy ", "end with a blank", id="trailing-space"),
    pytest.param(" deploy", "begin or end", id="leading-space"),
    pytest.param("deploy\u00a0", "begin or end", id="trailing-no-break-space"),
    pytest.param("de\u00a0ploy", r"plain space \(here U\+00A0", id="no-break-space"),
    pytest.param("de\u3000ploy", "plain space", id="ideographic-space"),
    pytest.param("de\u2009ploy", "plain space", id="thin-space"),
    pytest.param("deploy\u034f", "here U\\+034F", id="grapheme-joiner"),
    pytest.param("deploy\u115f", "invisible", id="hangul-filler"),
    pytest.param("deploy\u1160", "invisible", id="hangul-vowel-filler"),
    pytest.param("deploy\u3164", "invisible", id="hangul-compatibility-filler"),
    pytest.param("deploy\uffa0", "invisible", id="half-width-filler"),
    pytest.param("deploy\u2800", "invisible", id="braille-blank"),
    pytest.param("deploy\u00ad", "invisible", id="soft-hyphen"),
    pytest.param("deploy\ufe0f", "invisible", id="variation-selector-after-a-letter"),
    pytest.param("❤\ufe0f\ufe0f", "invisible", id="second-variation-selector"),
    pytest.param("1\ufe0f", "invisible", id="variation-selector-after-a-digit"),
    pytest.param("\ufe0fdeploy", "invisible", id="variation-selector-first"),
    pytest.param("deploy\U000e0100", "invisible", id="variation-selector-17"),
    pytest.param("de\u200dploy", "invisible", id="joiner-between-letters"),
    pytest.param("de\u200cploy", "invisible", id="non-joiner-between-letters"),
    pytest.param("👩\u200d", "invisible", id="joiner-at-the-end"),
    *(
        pytest.param(key, "invisible", id=f"{script}-{place}-U+{ord(joiner):04X}")
        for joiner in "\u200c\u200d"
        for script, letter in [
            ("latin", "a"),
            ("greek", "\u03b1"),
            ("cyrillic", "\u0430"),
            ("han", "\u4fee"),
            ("digit", "1"),
        ]
        for place, key in [("inside", f"{letter}{joiner}{letter}"), ("at-the-end", f"{letter}{joiner}")]
    ),
    pytest.param("\u200c\u0645", "invisible", id="leading-joiner"),
    pytest.param("fix \u200d\u0645", "invisible", id="joiner-before-a-word"),
    pytest.param("\u0645\u200c\u200c\u0647", "invisible", id="second-joiner"),
    pytest.param("\u060c\u200c\u0645", "invisible", id="joiner-after-a-comma"),
    pytest.param("\u17b4\u200d", "invisible", id="joiner-after-an-invisible-vowel"),
    pytest.param("i\ufe0f", "invisible", id="presentation-of-a-letter"),
    pytest.param(flag("deploy"), "invisible", id="text-hidden-in-a-flag"),
    pytest.param(flag("gbeng")[1:], "invisible", id="flag-letters-without-a-flag"),
    pytest.param(flag("gbeng")[:-1], "invisible", id="flag-without-an-end"),
    pytest.param(flag("gbeng") + "\U000e0041", "invisible", id="tag-after-a-flag"),
    pytest.param("deploy\u17b4", "invisible", id="khmer-vowel"),
    pytest.param("deploy\u180e", "invisible", id="mongolian-separator"),
    pytest.param("deploy\U0001d159", "invisible", id="null-notehead"),
]


@pytest.mark.parametrize(("text", "rule"), BAD_NAMES)
def test_a_key_outside_the_rules_is_refused_by_name(text: str, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule) as refusal:
        validation.scoped_key(text)
    assert refusal.value.field == "key"
    # The message goes into a JSON-RPC answer.
    str(refusal.value).encode()


@pytest.mark.parametrize(("text", "rule"), BAD_NAMES)
def test_a_namespace_outside_the_rules_is_refused_by_name(text: str, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule) as refusal:
        validation.scoped_key("red-check", text)
    assert refusal.value.field == "namespace"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param(" \n\t ", None, id="blank"),
        pytest.param("\x00\x1b", None, id="control-characters-alone"),
        pytest.param("\x00 \x00", None, id="nothing-but-what-is-dropped"),
        pytest.param("  two\r\n lines\u2028more ", "two lines more", id="line-breaks"),
        pytest.param("a \x00 b", "a b", id="dropped-between-spaces"),
        pytest.param("\x1b[31mred\x07", "[31mred", id="terminal-codes"),
        pytest.param("a\u202eb\ud83d", "a b", id="override-and-half-a-pair"),
        pytest.param("x" * 500, "x" * 500, id="500-characters"),
        pytest.param("  " + "🦀" * 500 + "\n", "🦀" * 500, id="500-after-folding"),
    ],
)
def test_a_note_is_put_on_one_line(text: str | None, expected: str | None) -> None:
    assert validation.parse_note(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 501, id="501-characters"),
        pytest.param("x" * 10_000_000, id="ten-megabytes"),
        pytest.param("x" + "\n" * 10_000_000, id="ten-megabytes-to-fold"),
    ],
)
def test_a_note_that_is_too_long_is_refused_and_not_cut(text: str) -> None:
    with pytest.raises(InvalidInputError, match="note must be at most 500 characters"):
        validation.parse_note(text)


@given(st.text(st.characters(categories=("L", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "So")), max_size=200))
@settings(deadline=None)
def test_whatever_the_note_it_is_folded_printable_and_stays_so(text: str) -> None:
    line = one_line(text)
    assert line == " ".join(line.split())
    assert not any(ord(character) < 32 for character in line)
    line.encode()
    assert one_line(line) == line


@pytest.mark.parametrize(
    ("shared", "slots", "use"),
    [
        (False, None, ALONE),
        (True, None, SHARED),
        (False, 2, Use(Mode.SLOT, 2)),
        (False, 1_000, Use(Mode.SLOT, 1_000)),
    ],
)
def test_a_key_is_asked_for_alone_shared_or_by_slots(shared: bool, slots: int | None, use: Use) -> None:
    assert validation.parse_use(shared, slots) == use
    assert ClaimRequest.parse("red", shared=shared, slots=slots).use == use


@pytest.mark.parametrize("slots", [1, 0, -2, 1_001, True, 2.0, "2", math.nan])
def test_a_number_of_slots_out_of_range_is_refused_with_the_range(slots: int) -> None:
    with pytest.raises(InvalidInputError, match="slots must be a whole number from 2 to 1,000") as refusal:
        validation.parse_use(False, slots)
    assert refusal.value.field == "slots"


@pytest.mark.parametrize("shared", [1, 0, None, "true"])
def test_shared_is_true_or_false(shared: bool) -> None:
    with pytest.raises(InvalidInputError, match="shared must be true or false"):
        validation.parse_use(shared, None)


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({"shared": True, "slots": 2}, "slots", "does not go with shared"),
        ({"slots": 2, "also": ["green"]}, "slots", "does not go with also or or_else"),
        ({"slots": 2, "or_else": ["green"]}, "slots", "does not go with also or or_else"),
        ({"shared": True, "or_else": ["green"]}, "shared", "does not go with or_else"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule) as refusal:
        ClaimRequest.parse("red", **arguments)
    assert refusal.value.field == field


def test_shared_goes_with_also() -> None:
    assert ClaimRequest.parse("red", also=["green"], shared=True).use == SHARED


@pytest.mark.rule("M3")
def test_a_head_is_held_whatever_its_time_says() -> None:
    world = World()
    now = world.process().now()
    head = Claim(
        ScopedKey("ci", "red-check"), Holder("several", 1), now, expiry.later(now, 2 * MAX_TTL), members=("0",), slots=2
    )
    for stored in (None, now.wall.timestamp()):
        for seconds in (0.0, DAY, 2 * DAY, 100 * DAY):
            assert expiry.state_of(head._replace(stored=stored), Moment(now.wall, seconds), lambda _: True) is (
                ClaimState.HELD
            )
    world.set_wall_clock(100 * DAY)
    assert expiry.state_of(head._replace(stored=now.wall.timestamp()), world.process().now(), lambda _: True) is (
        ClaimState.HELD
    )
