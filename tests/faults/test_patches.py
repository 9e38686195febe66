"""The patches of the planted faults: they fit the code, and the tests that have to fail are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.faults.__main__ import FOLDER, ROOT, read, without_parameters
from tests.support.programs import installed


@pytest.fixture(scope="module")
def names() -> set[str]:
    """The names of all tests; some are inherited from a contract in another file."""
    text = "".join(each.read_text() for each in (ROOT / "tests").rglob("*.py"))
    return set(re.findall(r"^ *(?:async )?def (test_\w+|runTest)\(", text, re.MULTILINE))


@pytest.mark.parametrize("patch", [pytest.param(each, id=each.stem) for each in sorted(FOLDER.glob("*.patch"))])
def test_a_fault_fits_the_code_and_names_tests_that_there_are(patch: Path, names: set[str]) -> None:
    # Else the nightly run would stop, or take a guard away that nobody looks at.
    checked = subprocess.run(
        [installed("git"), "apply", "--check", patch], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    fault = read(patch)
    assert fault.tests
    for test in fault.tests:
        file, *_, name = without_parameters(test).split("::")
        assert name in names and (ROOT / file).is_file(), test
