"""Durations on the command line, and what a wait reports."""

from __future__ import annotations

import argparse

import pytest

from mcp_claims.cli.options import HOUR, MINUTE, SECOND, duration
from tests.cli.commands import Commands


@pytest.mark.rule("L9")
@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("30s", SECOND, 30),
        ("5m", SECOND, 300),
        ("2h", SECOND, 7_200),
        ("7d", HOUR, 168),
        ("1h30m", MINUTE, 90),
        ("0.5h", MINUTE, 30),
        ("90s", MINUTE, 1.5),
        ("30", MINUTE, 30),
        ("0.05", MINUTE, 0.05),
        ("0", SECOND, 0),
    ],
)
def test_a_duration_has_units_or_is_a_number_of_the_options_unit(text: str, unit: int, value: float) -> None:
    assert duration(unit)(text) == value


@pytest.mark.rule("L9")
@pytest.mark.parametrize("text", ["", "m", "5 m", "5mm", "5M", "1h-30m", "5m!", "soon", "5w", "m5"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 30s"):
        duration(MINUTE)(text)


@pytest.mark.rule("L9")
@pytest.mark.parametrize(
    "words",
    [
        ["try", "red@1", "--session", "ci", "--ttl", "90m", "--wait", "2h"],
        ["run", "red@2", "--ttl", "2h", "--wait", "1d", "--once", "90m", "--", "true"],
        ["release", "red@3", "--session", "ci", "--outcome", "done", "--retention", "7d"],
        ["install", "codex", "--keep-alive-hours", "90m", "--retention-hours", "2d", "--print"],
    ],
    ids=lambda words: words[0],
)
def test_every_option_that_takes_a_duration_takes_it_with_units(commands: Commands, words: list[str]) -> None:
    done = commands(*words)
    assert done.stderr == "" and done.returncode == (1 if words[0] == "release" else 0)
