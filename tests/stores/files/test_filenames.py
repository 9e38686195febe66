"""File names: no two keys share one, on no file system, and none leads anywhere."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.filenames import MAX_NAME, file_name
from mcp_claims.stores.files.store import FileStore
from tests.stores.samples import claim, grant, place

SUFFIX = ".json"
# Distinct by one character: each pair of these has been one file in some program.
LOOK_ALIKES = [
    *("a/b", "a#b", "a:b", "a\\b", "a_b", "a%b", "a%2fb", "a%252fb", "a~b", "a-b", "a b", "ab"),
    *("A/B", "A_B", "Ab", "aB", "AB"),
    *("é", "e\u0301", "É", "ﬁ", "fi", "ß", "ss", "ẞ", "\u017f", "s", "İ", "i̇", "i", "I", "\u0131", "K", "k"),
    *(".", "..", "...", "%2e", "%2e%2e", ".hidden", "hidden", ".lock", ".new", ".lock.json"),
    *("a.", "a..", "a", "a ", "a  ", " a", "\u00a0a", "a.json", "a.JSON", "/", "//", "/etc/passwd", "../../etc/passwd"),
    *("c:", "c:\\x", "~", "~root", "$HOME", "*", "?", "a*", "-rf", "a\u200db", "👩‍💻", "👩💻", "🦀"),
    *("k" * 180, "k" * 181, "k" * 300, "k" * 301, "K" * 300, "🦀" * 200, "🦀" * 201, "é" * 300),
]
DEVICES = [
    *("con", "CON", "Con", "con.txt", "con.", "con ", "conin$", "CONOUT$", "prn", "aux", "AUX.h", "nul", "nul.txt"),
    *(
        "nul.tar.gz",
        "com1",
        "COM9.log",
        "com0",
        "com¹",
        "lpt1",
        "lpt9.x",
        "con:",
        "nul\\x",
        "con.json",
        "con" + "." * 300,
    ),
]
HARMLESS = ["console", "confirm.txt", "null", "auxiliary", "com10", "company", "lpt", "a.con", "xcon"]
KEYS = list(dict.fromkeys(LOOK_ALIKES + DEVICES + HARMLESS))

# What Windows reserves: the name up to the first dot, spaces at its end not counted.
RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    device + digit for device in ("com", "lpt") for digit in string.digits + "¹²³"
}

names = st.text(min_size=1)
# Texts that resemble each other and the names made from them are likelier to collide.
awkward = st.text(st.sampled_from("aAbB%2fF5eE~._-/ \\:éÉ\u0301\u00df"), min_size=1, max_size=8)


def unescaped(name: str) -> str:
    """Read back the key from a name that is not cut: the rules, the other way round."""
    data, rest = bytearray(), name.encode("ascii")
    while rest:
        if rest[:1] == b"%":
            data += bytes.fromhex(rest[1:3].decode())
            rest = rest[3:]
        else:
            data += rest[:1]
            rest = rest[1:]
    return data.decode()


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(str, id="as-it-is"),
        pytest.param(str.lower, id="lower-case"),
        pytest.param(str.casefold, id="case-folded"),
        *(pytest.param(lambda name, form=form: unicodedata.normalize(form, name), id=form) for form in ("NFD", "NFKC")),
        pytest.param(lambda name: name.rstrip(". "), id="as-windows-strips-it"),
    ],
)
def test_keys_that_look_alike_have_names_of_their_own(seen: Callable[[str], str]) -> None:
    assert len({seen(file_name(key)) for key in KEYS}) == len(KEYS)


@pytest.mark.rule("N2")
@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:30])
def test_a_name_is_one_harmless_component_of_a_path(key: str, tmp_path: Path) -> None:
    name = file_name(key)
    assert name
    assert set(name) <= set(string.ascii_lowercase + string.digits + "-_.%~")
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert len((name + SUFFIX).encode()) < 200
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


@pytest.mark.rule("N2")
@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:30])
def test_no_name_is_a_device_on_windows(key: str) -> None:
    assert file_name(key).lower().partition(".")[0].rstrip(" ") not in RESERVED


@pytest.mark.parametrize("key", ["ci", "red-check", "vercel_next.js", "a.b", "2026-11-23", *HARMLESS])
def test_a_plain_key_is_its_own_name(key: str) -> None:
    assert file_name(key) == key


def test_an_awkward_key_can_still_be_read_by_people() -> None:
    assert file_name("vercel/next.js#4521:Failed") == "vercel%2fnext.js%234521%3a%46ailed"
    assert file_name("k" * 300).startswith("k" * 50 + "~")


@given(names, names)
@example("a/b", "a%2fb")
@example("A", "%41")
@settings(deadline=None)
def test_no_two_texts_share_a_name(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.rule("N1")
@given(awkward, awkward)
@settings(deadline=None)
def test_no_two_texts_share_a_name_where_case_and_form_do_not_count(one: str, other: str) -> None:
    def seen(text: str) -> str:
        return unicodedata.normalize("NFKC", file_name(text).casefold())

    assert (seen(one) == seen(other)) == (one == other)


@pytest.mark.rule("N1")
@given(awkward | st.text(min_size=1, max_size=MAX_NAME // len("%f0%9f%a6%80")))
@settings(deadline=None)
def test_a_key_that_is_not_too_long_can_be_read_back_from_its_name(text: str) -> None:
    assert unescaped(file_name(text)) == text


@pytest.mark.rule("N3")
@given(st.text(st.sampled_from("a%.A🦀"), min_size=60, max_size=300))
@settings(deadline=None)
def test_a_name_is_short_enough_wherever_it_is_cut(text: str) -> None:
    name = file_name(text)
    assert len(name + SUFFIX) < 200
    # No escape is cut in half, or the readable part would say something else.
    assert re.fullmatch(r"([^%]|%[0-9a-f]{2})+", name)


@pytest.mark.rule("N3")
def test_long_keys_that_begin_alike_have_names_of_their_own() -> None:
    stem = "x" * 1_000
    keys = [stem, *(stem + end for end in ("y", "z", "Y", ".", " ", "yy"))]
    for one, other in combinations(keys, 2):
        assert file_name(one).lower() != file_name(other).lower()


@pytest.mark.rule("N3")
def test_a_long_key_s_name_is_no_other_key_s_name() -> None:
    long = "k" * 300
    assert file_name(file_name(long)) != file_name(long)


@pytest.mark.rule("N1")
def test_every_key_in_every_namespace_is_a_claim_of_its_own(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    granted = [grant(store, claim(ScopedKey("ci", key))) for key in KEYS]
    granted += [grant(store, claim(ScopedKey(key, "red-check"))) for key in KEYS if key != "ci"]
    assert [store.read(each.scoped) for each in granted] == granted
    assert set(store.scan()) == set(granted)
    assert [path.name for path in tmp_path.iterdir()] == ["claims"]
    assert all(place(store, each.scoped).is_file() for each in granted)
