"""What people cannot see in a text, a text on one line, and when two texts look alike.  Pure.

Two keys that look equal are two claims: each of two agents that were told "deploy" would hold one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Patterns as text: compiled for the first key that is not ASCII, since that takes 3 ms.

# Characters that show nothing, or nothing but a blank: those that Unicode lets programs ignore (Default_Ignorable_Code_Point),
# fillers, and every space but the plain one.
_HIDDEN = (
    "[\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u202a-\u202f\u205f-\u206f\u2800"
    "\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
# Line and paragraph separators, control characters, lone surrogates: in a key or a note they could end a line of a log or
# of somebody's prompt early, or could not be written as UTF-8.  And format characters, such as direction overrides.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp", "Cf"})
_JOINER, _NON_JOINER = "\u200d", "\u200c"
_PRESENTATIONS = "\ufe0e\ufe0f"
_KEYCAP = "\u20e3"
_INFORMATION = "\u2139"  # An emoji, but a letter to Unicode.
_VIRAMA = 9
# Blocks of scripts whose letters join, where a joiner changes the letter before it: Arabic, Syriac, N'Ko, Mandaic, those of
# India, Tibetan, Myanmar, Khmer, Mongolian, and the supplements of these.
_JOINING = (
    "[\u0600-\u077f\u07c0-\u07ff\u0840-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u19e0-\u19ff\u1cd0-\u1cff\ua840-\ua87f"
    "\ua8e0-\ua8ff\ua9e0-\ua9ff\uaa60-\uaa7f\ufb50-\ufdff\ufe70-\ufefc\U00010ac0-\U00010aff\U00010d00-\U00010d3f\U00010f30-\U00010fdf"
    "\U0001e900-\U0001e95f]"
)
# England, Scotland and Wales: a black flag and hidden letters.  Others are refused, since such letters can hide any text.
_FLAG = "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
# Small letters of other scripts that look like Latin ones, or whose capitals do; hyphens, slashes and colons.
_ALIKE = str.maketrans(
    "\u0430\u0441\u0501\u0435\u04bb\u0456\u0458\u04cf\u043e\u0440\u051b\u0455\u051d\u0445\u0443\u0442\u0432\u043a\u043c\u043d"
    "\u03bf\u03b1\u03b9\u03bd\u03c1\u03f2\u03c4\u03b2\u03b5\u03ba\u03b6\u03b7\u03c7\u03c5"
    "\u2010\u2012\u2013\u2014\u2015\u2043\u2212\u02d7\u2044\u2215\u2571\u29f8\ua789\u2236\u02d0\u0589",
    "acdehijlopqswxytbkmhoaivpctbekzhxy--------////::::",
)


def one_line(text: str) -> str:
    """Return *text* on one line: whatever could disturb a terminal, a log or a prompt becomes a single space."""
    if misleading := misleading_positions(text):
        text = "".join(" " if position in misleading else character for position, character in enumerate(text))
    return " ".join(text.split())


def misleading_positions(text: str) -> set[int]:
    """Return where *text* has characters that could end a line early, or that nobody sees and that shape nothing."""
    positions: set[int] = set()
    if not text.isprintable():
        positions.update(position for position, character in enumerate(text) if _is_control(character))
    if not text.isascii():
        hidden = (found.start() for found in re.finditer(_HIDDEN, text))
        positions.update(position for position in hidden if not _shapes(text, position))
        for flag in re.finditer(_FLAG, text):
            positions.difference_update(range(*flag.span()))
    return positions


@lru_cache(maxsize=4_096)
def skeleton(text: str) -> str:
    """Return a text that is equal for texts that differ in case, width, blanks or what cannot be seen."""
    if text.isascii():
        return "".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", re.sub(_HIDDEN, "", text)).casefold())
    return "".join(folded.translate(_ALIKE).split())


def _shapes(text: str, position: int) -> bool:
    """Return whether the hidden character at *position* changes how its neighbours look."""
    if position == 0:
        return False
    character, before, after = text[position], text[position - 1], text[position + 1 : position + 2]
    if character in _PRESENTATIONS:
        return _is_symbol(before) or (before in "0123456789#*" and after == _KEYCAP)
    if character == _JOINER and (_is_symbol(before) or (before in _PRESENTATIONS and _shapes(text, position - 1))):
        return after != "" and _is_symbol(after)
    if character in (_JOINER, _NON_JOINER):
        joins = re.match(_JOINING, before) is not None and unicodedata.category(before)[0] in "LMN"
        return unicodedata.combining(before) == _VIRAMA or (joins and not re.match(_HIDDEN, before))
    return False


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES and character not in (_JOINER, _NON_JOINER)


def _is_symbol(character: str) -> bool:
    """Return whether *character* is or may be an emoji."""
    return character == _INFORMATION or (not character.isascii() and unicodedata.category(character)[:1] in ("S", "P"))
