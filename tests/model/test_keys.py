"""Which claims conflict: an own list of pairs, and an oracle that tries every short path."""

from __future__ import annotations

import os
import random
import re
import sys
from functools import cache
from itertools import product
from types import FrameType
from typing import Any, Self

import pytest

from mcp_claims.model import keys
from mcp_claims.model.keys import (
    PLACES,
    above,
    canonical_components,
    conflict,
    is_file_key,
    is_pattern,
    literal_beginning,
    overlap,
)
from mcp_claims.model.records import ScopedKey
from mcp_claims.model.validation import MAX_KEY_BYTES

OVERLAPPING = [
    ("/a", "/a", "the same path"),
    ("/a", "/a/", "a directory is below nothing but its own name"),
    ("/", "/a/b", "the root is above everything"),
    ("/a/", "/a/b/c", "a directory is above what it contains"),
    ("/a", "/a/b", "what does not exist yet may become a directory"),
    ("/a", "/a/*/c", "the same, with a pattern below"),
    ("/a/", "/a/*.py", "a pattern below a directory"),
    ("/a/*/", "/a/b/c", "all below what a pattern matches"),
    ("/a/*.py", "/a/x.py", "a file that matches"),
    ("/a/*.py", "/a/test_*", "test_.py"),
    ("/a/x*", "/a/*x", "x itself, which both stars match with nothing"),
    ("/a/x*y", "/a/*xy*", "xy"),
    ("/a/?b", "/a/a?", "ab"),
    ("/a/?", "/a/é", "one character is one, however many bytes it has"),
    ("/a/[b]", "/a/[b]", "a bracket is a bracket"),
    ("/a/*/c", "/a/b/c", "a wildcard in the middle"),
    ("/a/**/c", "/a/c", "`**` matches no component"),
    ("/a/**/c", "/a/b/b/c", "`**` matches two components"),
    ("/**/c", "/a/", "/a/c"),
    ("/a/**/x", "/a/x", "/a/x itself"),
    ("/a/**/x*", "/a/**/*y", "/a/xy"),
    ("/**/a/b", "/**/b", "/a/b"),
    ("C:/a/", "C:/a/b", "on a drive of Windows"),
    ("C:/", "C:/a", "a drive"),
    ("//h/a/", "//h/a/b", "on one machine of several"),
    ("//h/", "//h/a", "the root of a machine"),
]
SEPARATE = [
    ("/a/b", "/a/c", "siblings"),
    ("/a/b/", "/a/bc", "a name that begins alike is not below"),
    ("/ab", "/a/b", "a slash counts"),
    ("/a/*.py", "/a/x.js", "another suffix"),
    ("/a/*.py", "/a/.px", "the characters of the suffix in another order"),
    ("/a/*.py", "/b/*.py", "in another directory"),
    ("/a/x*", "/a/y*", "no name begins with both"),
    ("/a/*x", "/a/*y", "no name ends with both"),
    ("/a/?", "/a/bc", "one character is not two"),
    ("/a/b?", "/a/b", "one character is not none"),
    ("/a/*", "/a/b/c", "a star does not go deeper"),
    ("/a/*", "/a/*/*/c", "the same, against a pattern"),
    ("/a/*/c", "/a/c", "a star is one component"),
    ("/a/*/c", "/a/b/d", "another name below the wildcard"),
    ("/a/?b", "/a/*c", "the last characters differ"),
    ("/a/[bc]", "/a/b", "a bracket is no wildcard"),
    ("/b/**/c", "/a/c", "before `**`, names count"),
    ("/**/*.py", "/**/*.md", "no name has both suffixes"),
    ("/**/*.py", "/a/x.md", "nor has this file"),
    ("/A", "/a", "case counts here; a file system that ignores it has only one of the two keys"),
    ("//h/a", "//g/a", "on another machine"),
    ("//h/a", "/h/a", "a machine is no directory"),
    ("/", "//h/a", "nor is it below the root"),
    ("C:/a", "D:/a", "on another drive"),
]
KEYS = sorted({path for pair in OVERLAPPING + SEPARATE for path in pair[:2]})


@pytest.mark.rule("K2")
@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(one, other, expected, id=f"{one} {other}: {why}")
        for pairs, expected in ((OVERLAPPING, True), (SEPARATE, False))
        for one, other, why in pairs
    ],
)
def test_two_keys_overlap_if_some_path_is_in_both(one: str, other: str, expected: bool) -> None:
    assert overlap(f"file:{one}", f"file:{other}") is expected
    assert overlap(f"file:{other}", f"file:{one}") is expected


@pytest.mark.rule("K1")
def test_only_keys_of_files_that_were_resolved_conflict_without_being_equal() -> None:
    above, below = ScopedKey(PLACES, "file:/a"), ScopedKey(PLACES, "file:/a/b")
    assert conflict(above, below) and is_file_key(above)
    for namespace, one, other in [
        ("ci", "file:/a", "file:/a/b"),
        (PLACES, "branch:/a:main", "branch:/a/b:main"),
        ("ci", "red", "red/x"),
    ]:
        first, second = ScopedKey(namespace, one), ScopedKey(namespace, other)
        assert not conflict(first, second) and conflict(first, first) and not is_file_key(first)
    assert not conflict(above, ScopedKey("ci", above.key)), "a namespace is part of a key"


@pytest.mark.rule("K2")
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("file:/", []),
        ("file:/a", ["file:/", "file:/a/"]),
        ("file:/a/", ["file:/", "file:/a"]),
        ("file:/a/b/c", ["file:/", "file:/a/", "file:/a", "file:/a/b/", "file:/a/b", "file:/a/b/c/"]),
        ("file:/a/b/*.py", ["file:/", "file:/a/", "file:/a", "file:/a/b/", "file:/a/b"]),
        ("file:/a/*/c/d", ["file:/", "file:/a/", "file:/a"]),
        ("file:/**/c", ["file:/"]),
        ("file:C:/a", ["file:C:/", "file:C:", "file:C:/a/"]),
        ("file://h/a", ["file://h/", "file://h", "file://h/a/"]),
    ],
)
def test_the_keys_without_wildcards_above_a_key(key: str, expected: list[str]) -> None:
    assert list(above(key)) == expected


@pytest.mark.rule("K2")
def test_a_key_without_wildcards_overlaps_another_exactly_if_one_of_them_is_above_the_other() -> None:
    plain = [f"file:{path}" for path in KEYS if not is_pattern(path)]
    for one, other in product(plain, plain):
        assert overlap(one, other) == (one == other or one in above(other) or other in above(one)), (one, other)
    for one, other in product(plain, [f"file:{path}" for path in KEYS]):
        assert one not in above(other) or overlap(one, other)
        if overlap(one, other) and one != other:
            # So a store finds it by its name, or among the names that begin like this.
            assert one in above(other) or one.startswith(f"{literal_beginning(other)}/")


@pytest.mark.rule("K1")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a//./b", "a/b"),
        ("a//./b/", "a/b/"),
        ("a/**", "a/"),
        ("a/**/**/", "a/"),
        ("a/**/./**/b", "a/**/b"),
        ("a**b/***c", "a*b/*c"),
        ("a/***", "a/*"),
        ("**", ""),
        ("**/a", "**/a"),
        ("...", "..."),
    ],
)
def test_a_set_of_paths_has_one_text(path: str, expected: str) -> None:
    once = canonical(path)
    assert once == expected
    assert canonical(once) == once


def canonical(path: str) -> str:
    return "/".join(canonical_components(path.split("/"), is_directory=path.endswith("/")))


# The oracle

EXAMPLES = int(os.environ.get("MCP_CLAIMS_EXAMPLES", "100"))
PAIRS = 2_000 if EXAMPLES <= 100 else 100_000
MAX_TOKENS = 4 if EXAMPLES <= 100 else 5
# Two keys of n tokens that overlap have a path of 2n characters or less in common: each token adds at most one, and so does the
# slash between what the one has before its `**` and what the other has behind its own.
MAX_PATH = 2 * MAX_TOKENS


def short_paths() -> list[str]:
    """Return every path of at most `MAX_PATH` characters whose names are made of two letters."""
    paths, grown = list[str](), [""]
    for _ in range(MAX_PATH):
        grown = [path + more for path in grown for more in "ab/" if path[-1:] + more not in ("/", "//")]
        paths += [path for path in grown if not path.endswith("/")]
    return paths


PATHS = "\n".join(short_paths())


@cache
def paths_in(path: str) -> frozenset[int]:
    """Return where in `PATHS` those are that are in the key of *path*, by a translation of the words of the design notes."""
    expression = "".join(
        {"**/": "(?:[^/\n]+/)*", "*": "[^/\n]*", "?": "[^/\n]"}.get(token, token)
        for token in re.findall(r"\*\*/|.", path)
    )
    if path == "":
        expression = ".*"
    elif path.endswith("/"):
        expression = f"{expression[:-1]}(?:/.*)?"
    return frozenset(found.start() for found in re.finditer(f"^{expression}$", PATHS, re.MULTILINE))


def lies_below(path: str, above_it: str) -> bool:
    """Return whether all paths in the key of *path* are below that of *above_it*, which is written as that of a file."""
    inside = paths_in(path)
    is_file = above_it != "" and not above_it.endswith("/") and not is_pattern(above_it)
    return is_file and bool(inside) and inside <= paths_in(f"{above_it}/") - paths_in(above_it)


def random_paths(rng: random.Random) -> list[str]:
    """Return as many paths as there are pairs, twice over, in the form that keys have."""
    paths = list[str]()
    while len(paths) < 2 * PAIRS:
        tokens = [
            rng.choice(["a", "b", "a", "b", "*", "?", "/", "/", "**"])
            for _ in range(rng.randint(MAX_TOKENS - 2, MAX_TOKENS))
        ]
        path = canonical("".join(tokens))
        if len(path.replace("**", "*")) <= MAX_TOKENS:
            paths.append(path)
    return paths


@pytest.mark.rule("K2")
def test_random_pairs_agree_with_an_oracle_that_tries_every_short_path() -> None:
    paths = random_paths(random.Random(22))
    answers = [0, 0]
    for one, other in zip(paths[::2], paths[1::2], strict=True):
        expected = not paths_in(one).isdisjoint(paths_in(other)) or lies_below(one, other) or lies_below(other, one)
        assert overlap(f"file:/{one}", f"file:/{other}") is expected, (one, other)
        assert overlap(f"file:/{other}", f"file:/{one}") is expected, (other, one)
        answers[expected] += 1
    assert min(answers) > PAIRS // 10, "both answers are common"


# Bounds


class LineCounter:
    """Counts the lines of `keys` that run."""

    def __enter__(self) -> Self:
        self.lines, self._before = 0, sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != keys.__file__:
            return None
        self.lines += event == "line"
        return self._trace


LONGEST = MAX_KEY_BYTES - len("file:/")


@pytest.mark.rule("K2")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("*a" * (LONGEST // 2), "a*" * (LONGEST // 2 - 1) + "b", id="stars-against-stars"),
        pytest.param("*a" * (LONGEST // 2), "a" * (LONGEST - 1) + "b", id="stars-against-letters"),
        pytest.param("*" + "a" * (LONGEST - 2) + "b", "a" * LONGEST, id="a-long-beginning"),
        pytest.param("*a?" * (LONGEST // 3), "?" * LONGEST, id="marks"),
        pytest.param("**/a/" * (LONGEST // 5) + "b", "a/" * (LONGEST // 2), id="any-depth"),
        pytest.param("*/" * (LONGEST // 2), "a/" * (LONGEST // 2 - 1) + "b", id="many-components"),
    ],
)
def test_hostile_patterns_take_a_bounded_number_of_steps(one: str, other: str) -> None:
    with LineCounter() as counter:
        overlap(f"file:/{one.rstrip('/')}", f"file:/{other.rstrip('/')}")
    assert 0 < counter.lines < 100 * MAX_KEY_BYTES
