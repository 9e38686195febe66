"""Take away each guard in turn and see whether the tests notice: `python -m tests.faults [--jobs N] [NAME...]`.

A fault is a patch in this folder.  Before the difference it says which guard it takes away and which tests have to fail:

    Guard: a change holds the kernel lock of its namespace (S1)
    Fails: tests/stores/files/test_lock.py::test_threads_of_one_process_exclude_each_other

Each is applied to a copy of the tree, in which only its tests run.  Exit code 1 if one survives or cannot be applied.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
_TIMEOUT = 60  # s for a test; a fault can make one wait for ever


@dataclass(frozen=True)
class Fault:
    """A patch that takes *guard* away, so that *tests* have to fail."""

    name: str
    guard: str
    tests: tuple[str, ...]
    patch: Path


def read(patch: Path) -> Fault:
    header = patch.read_text().partition("\n--- ")[0]
    (guard,) = re.findall(r"^Guard: (.+)$", header, re.MULTILINE)
    return Fault(patch.stem, guard, tuple(re.findall(r"^Fails: (\S+)$", header, re.MULTILINE)), patch)


def copy_tree(target: Path) -> None:
    """Copy what git knows of the tree, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def failing(tree: Path, tests: tuple[str, ...], workers: int = 0) -> set[str]:
    """Run *tests* in *tree*, with so many *workers*; return those that fail, without their parameters.

    Raises `RuntimeError` if they cannot be run.
    """
    # A process group and a directory for temporary files of its own: a fault can make tests leave processes behind, and
    # parallel runs of pytest would remove each other's directories.
    with (
        tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as directory,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", f"-n{workers}", "-p", "no:cacheprovider"),
                *(f"--basetemp={directory}/tests", f"--timeout={_TIMEOUT}", *tests),
            ],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as run,
    ):
        output = run.communicate()[0]
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    failed = {without_parameters(name) for name in re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)}
    if run.returncode not in (0, 1) or (run.returncode == 1) != bool(failed):
        raise RuntimeError(output[-2_000:])
    return failed


def without_parameters(test: str) -> str:
    return test.partition("[")[0]


def outcome(fault: Fault) -> str:
    """Return `caught`, or what is wrong."""
    with tempfile.TemporaryDirectory(prefix="fault-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        applied = subprocess.run(
            ["patch", "-p1", "-i", str(fault.patch)], cwd=tree, capture_output=True, text=True, check=False
        )
        if applied.returncode:
            return f"CANNOT BE APPLIED: {applied.stdout.strip()}"
        try:
            survived = set(map(without_parameters, fault.tests)) - failing(tree, fault.tests)
        except RuntimeError as error:
            return f"CANNOT BE TESTED: {error}"
    return f"SURVIVED {', '.join(sorted(survived))}" if survived else "caught"


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    chosen = [read(FOLDER / f"{name}.patch") for name in options.names] or [*map(read, sorted(FOLDER.glob("*.patch")))]
    if not chosen:
        parser.error("there are no patches")
    broken = failing(ROOT, tuple(sorted({test for fault in chosen for test in fault.tests})), options.jobs)
    if broken:
        print("Without any fault these fail:", *sorted(broken), sep="\n  ")
        return 1
    caught = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, result in zip(chosen, pool.map(outcome, chosen), strict=True):
            print(f"{fault.name} ({fault.guard}): {result}", flush=True)
            caught += result == "caught"
    print(f"caught {caught} of {len(chosen)}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
