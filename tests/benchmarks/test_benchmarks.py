"""The benchmarks measure something; how much is for a quiet machine."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.__main__ import SUBJECTS
from benchmarks.imports import by_package
from benchmarks.measure import Bar, Figure, p99
from tests.support.etcd import program

ROOT = Path(__file__).parents[2]
TINY = "0.001"


def measured(*arguments: str) -> dict[str, Any]:
    """Run the command; return what it printed as JSON."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--share", TINY, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # 1 says that a bar is not met, which a tiny run need not.
    assert done.returncode in (0, 1), done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="the bare system calls are those of POSIX")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_subject_has_figures_beside_their_floors(subject: str) -> None:
    printed = measured(subject)
    assert {"date", "system", "processor", "file system", "load", "python", "versions"} == printed["machine"].keys()
    assert printed["figures"]
    for figure in printed["figures"]:
        assert figure["subject"] == subject
        assert figure["what"]
        assert math.isfinite(figure["ours"]) and figure["ours"] >= 0
        if figure["floor"] is not None:
            assert figure["floor"] > 0 and figure["floor_is"]
            assert figure["ratio"] == pytest.approx(figure["ours"] / figure["floor"])
        assert (figure["met"] is None) == (figure["bar"] is None)


def test_the_time_of_an_import_goes_to_the_package_of_each_module_itself() -> None:
    lines = [
        "import time: self [us] | cumulative | imported package",
        "import time:       100 |        100 |     mcp_types._v1",
        "import time:        50 |        150 |   mcp_types",
        "import time:         7 |        157 | mcp.server",
        "import time:         3 |          3 | zlib",
        "import time: words that a module prints",
    ]
    assert by_package(lines) == pytest.approx(
        {"mcp_types": 150e-6, "mcp": 7e-6, "the standard library and others": 3e-6}
    )


def test_a_bar_is_met_on_its_side_of_the_limit() -> None:
    def met(bar: Bar) -> bool | None:
        return Figure("s", "w", "ms", ours=12, floor=10, floor_is="f", bar=bar).met

    assert met(Bar(1.2)) and not met(Bar(1.1))
    assert met(Bar(1.2, at_least=True)) and not met(Bar(1.3, at_least=True))
    assert met(Bar(12, "value")) and not met(Bar(11, "value"))
    assert Figure("s", "w", "ms", ours=12, bar=Bar(1.2)).met is False, "a ratio to nothing meets no bar"


def test_one_of_a_hundred_may_take_longer_than_the_99th_percentile() -> None:
    assert p99([1.0] * 99 + [9.0]) == 1.0
    assert p99([1.0] * 98 + [9.0] * 2) == 9.0


def test_writing_replaces_the_figures_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text(report.RESULTS.read_text())
    monkeypatch.setattr(report, "RESULTS", results)
    report.write([Figure("start", "a figure", "ms", 1.5, 3, "a floor", Bar(0.95))])
    once = results.read_text()
    assert "a figure" in once and "| 1.5 ms | 3 ms (a floor) | 0.50" in once.replace("  ", "")
    before, after = report.RESULTS.read_text().split("<!-- figures")[0], once.split("<!-- end of figures -->")[1]
    assert once.startswith(before) and report.RESULTS.read_text().endswith(after)


@pytest.mark.nightly
def test_the_one_of_etcd_has_figures_beside_the_bare_client_and_the_file_store() -> None:
    program()
    command = [sys.executable, "-m", "benchmarks.etcd", "--share", "0.01", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert [figure["what"] for figure in figures] == ["claim + release", "16 processes, own keys: cycles"]
    assert all(figure["ours"] > 0 and figure["floor"] > 0 for figure in figures)
