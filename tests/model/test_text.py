"""What people cannot see in a text, and which texts look alike."""

from __future__ import annotations

import unicodedata

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.model.text import misleading_positions, one_line, skeleton

ALIKE = [
    ("deploy", "Deploy"),
    ("#12:red", "#12:Red"),
    ("red check", "redcheck"),
    ("red check", "Red  Check"),
    ("deploy", "\uff44\uff45\uff50\uff4c\uff4f\uff59"),
    ("café", "cafe\u0301"),
    ("❤", "❤\ufe0f"),
    ("straße", "STRASSE"),
    ("deploy", "d\u0435\u0440l\u043ey"),
    ("№ 7", "no7"),
    ("TBKMH", "\u0422\u0412\u041a\u041c\u041d"),
    ("TBEKZHXY", "\u03a4\u0392\u0395\u039a\u0396\u0397\u03a7\u03a5"),
    *(("a-b", f"a{hyphen}b") for hyphen in "\u2010\u2011\u2012\u2013\u2014\u2212"),
    *(("a/b", f"a{slash}b") for slash in "\u2044\u2215\uff0f"),
    *(("a:b", f"a{colon}b") for colon in "\u2236\ua789\uff1a"),
    ("a#1", "a\uff031"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_texts_that_look_alike(one: str, other: str) -> None:
    assert one != other
    assert skeleton(one) == skeleton(other) == skeleton(skeleton(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [("#12:red", "#13:red"), ("a-b", "a_b"), ("a/b", "ab"), ("5\u00b5m", "5mm"), ("1", "l"), ("é", "e")],
)
def test_texts_that_do_not(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


@pytest.mark.rule("C13")
def test_no_character_that_programs_may_ignore_makes_a_second_key() -> None:
    """A format character, a blank but the plain space, or one that no font shows is refused beside and between letters."""
    ignored = [chr(code) for code in range(0x80, 0x110000) if unicodedata.category(chr(code)) in ("Cf", "Zs")]
    ignored += [chr(code) for first, last in DEFAULT_IGNORABLE for code in range(first, last + 1)]
    for character in ignored:
        for key in (f"deploy{character}", f"{character}deploy", f"de{character}ploy"):
            with pytest.raises(InvalidInputError):
                validation.scoped_key(key)


# DerivedCoreProperties.txt of Unicode 15.1.
DEFAULT_IGNORABLE = [
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
]


def test_a_long_text_that_nobody_can_see_takes_no_time() -> None:
    assert len(misleading_positions("\ufe0f" * 100_000)) == 100_000
    assert one_line("note" + "\ufe0f" * 100_000) == "note"
