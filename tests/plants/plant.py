"""What a planted fault is, and how it is planted in a copy of the tree and run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DESIGN = (ROOT / "DESIGN.md").read_text()
_RULES = dict(re.findall(r"^\*\*([A-Z]\d+)\. (.*?)(?=^\*\*[A-Z]\d+\. |^## |\Z)", _DESIGN, re.DOTALL | re.MULTILINE))
_HAZARDS = dict(re.findall(r"^\| (\d+) \| .* \| (`\S+\.py::test_\w+`) \|$", _DESIGN, re.MULTILINE))
_COPIED = ("mcp_claims", "tests", "examples", "pyproject.toml", "README.md", "DESIGN.md", "claude_config.json")
_TIMEOUT = 150  # s


@dataclass(frozen=True)
class Plant:
    """One fault: in *file*, *old* becomes *new*, which takes away what *guards* (rules or hazards of DESIGN.md) say.

    `survives` is the reason why no test can notice, where that is so.
    """

    name: str
    guards: str
    file: str
    old: str
    new: str
    survives: str | None = None

    def tests(self) -> list[str]:
        """Return the tests that DESIGN.md names for the guards, as pytest takes them."""
        named = [
            f"tests/{file}::{test}"
            for guard in self.guards.split()
            for file, test in re.findall(r"`(\S+\.py)::(\w+)`", _RULES.get(guard) or _HAZARDS[guard])
        ]
        # Those of the contract are run by the classes that inherit it.
        return [re.sub(r"^tests/stores/contract\.py::(\w+)$", r"-k \1", test) for test in dict.fromkeys(named)]

    def occurrences(self) -> int:
        """Count the places at which the fault can be planted; it has to be one."""
        return (ROOT / self.file).read_text().count(self.old)


@dataclass(frozen=True)
class Outcome:
    """What became of a plant: `caught` by the first test that failed, or not; `broken` if the tests could not run."""

    plant: Plant | None
    caught: bool
    broken: bool
    by: str


def run(plant: Plant | None, tests: list[str]) -> Outcome:
    """Run *tests* on a copy of the tree with *plant* in it, or with none."""
    with tempfile.TemporaryDirectory(prefix="plant-") as name:
        copy = Path(name)
        for part in _COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, copy / part)
        if plant is not None:
            path = copy / plant.file
            path.write_text(path.read_text().replace(plant.old, plant.new))
        return _tested(plant, tests, copy)


def _tested(plant: Plant | None, tests: list[str], copy: Path) -> Outcome:
    files = [test for test in tests if not test.startswith("-k ")]
    inherited = [test.removeprefix("-k ") for test in tests if test.startswith("-k ")]
    runs = [files] if files else []
    if inherited:
        keepers = ("test_file_store.py", "test_memory_store.py", "etcd/test_contract.py")
        runs.append([*(f"tests/stores/{keeper}" for keeper in keepers), "-k", " or ".join(inherited)])
    # Only a fault can make tests wait for ever; all tests together take minutes without one.
    timeout = None if plant is None else _TIMEOUT
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in runs:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *arguments]
        # A group of their own, all of which ends with them: a fault can make tests leave processes behind.
        with subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as done:
            try:
                said, complained = done.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                return Outcome(plant, True, False, "a test that never ended")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(done.pid, signal.SIGKILL)
        if done.returncode == 1:
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
            return Outcome(plant, True, False, failed[1] if failed else "a test")
        if done.returncode != 0:
            return Outcome(plant, False, True, said[-500:] + complained[-500:])
    return Outcome(plant, False, False, "")
