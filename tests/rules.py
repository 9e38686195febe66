"""Which tests hold which rule of docs/design: `python -m tests.rules [RULE...]` prints them."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def stated() -> list[str]:
    """Return the number of each rule in docs/design, in the order of the pages.

    A rule is a paragraph or heading that begins with its number: `**S1. A change ...**` or `### S1. A change ...`.
    """
    pages = sorted((ROOT / "docs" / "design").glob("*.md"))
    return [
        rule for page in pages for rule in re.findall(r"^(?:\*\*|#+ )([A-Z]\d+)\. ", page.read_text(), re.MULTILINE)
    ]


def marked() -> dict[str, list[str]]:
    """Collect all tests; return those that are marked with each rule."""
    index = _Index()
    with redirect_stdout(StringIO()) as output:
        code = pytest.main(["--collect-only", "-q", "--numprocesses=0", "-m", "", str(ROOT / "tests")], plugins=[index])
    if code != pytest.ExitCode.OK:
        sys.exit(output.getvalue())
    return {rule: list(dict.fromkeys(tests)) for rule, tests in index.tests.items()}


class _Index:
    """A plugin that notes the tests of each rule."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("rule"):
                for rule in marker.args:
                    self.tests.setdefault(rule, []).append(item.nodeid.partition("[")[0])


if __name__ == "__main__":
    for rule, tests in sorted(marked().items(), key=lambda item: (item[0][0], int(item[0][1:]))):
        if not sys.argv[1:] or rule in sys.argv[1:]:
            print(rule, *tests, sep="\n    ")
