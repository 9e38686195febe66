"""DESIGN.md names real tests: each rule has some, and each exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "DESIGN.md").read_text()
RULES = re.findall(r"^\*\*([A-Z]\d+)\. (.*?)(?=^\*\*[A-Z]\d+\. |^## |\Z)", DESIGN, re.DOTALL | re.MULTILINE)
NAMED = re.findall(r"`(\S+\.py)::(\w+)`", DESIGN)
HAZARDS = re.findall(r"^\| (\d+) \| .* \| `\S+\.py::test_\w+` \|$", DESIGN, re.MULTILINE)
# What a fencing token can stop is a statement about other programs.
NOT_TESTED = {"G3"}


def test_there_are_rules_and_each_has_its_own_number() -> None:
    numbers = [number for number, _ in RULES]
    assert len(numbers) > 30
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("number", "rule"), [pytest.param(*rule, id=rule[0]) for rule in RULES])
def test_each_rule_names_a_test(number: str, rule: str) -> None:
    assert ("::test_" in rule) is (number not in NOT_TESTED)


def test_each_of_the_sixteen_hazards_has_a_guard_and_a_test() -> None:
    assert [str(number) for number in range(1, 17)] == HAZARDS


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_named_test_exists(file: str, test: str) -> None:
    assert re.search(rf"^ *(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


def test_the_layers_name_each_module_and_nothing_else() -> None:
    layers = DESIGN.partition("## Layers")[2].split("```")[1]
    # Names stand left of what is said of them.
    named = re.findall(r"[a-z_]+", " ".join(line[:21] for line in layers.splitlines()))
    there = {path.stem for path in (ROOT / "mcp_claims").iterdir() if not path.name.startswith(("_", ".", "py.typed"))}
    assert sorted(named) == sorted(there)
