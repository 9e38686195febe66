"""Each rule of docs/design has a test, and each test that names a rule names one that exists."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from tests.rules import ROOT, stated


def test_every_rule_has_a_test_and_every_marker_names_a_rule() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.rules"], cwd=ROOT, capture_output=True, text=True, check=True)
    marked = {line for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert marked == set(stated())


def test_no_two_rules_have_one_number() -> None:
    assert [rule for rule, count in Counter(stated()).items() if count > 1] == []
