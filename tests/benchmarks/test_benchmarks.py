"""The benchmarks run and report figures; only a quiet machine can show how good those are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers, report
from benchmarks.__main__ import SUBJECTS
from benchmarks.measure import Bar, Figure, p99
from benchmarks.trace import trace_try_claim
from tests.support.etcd import program

ROOT = Path(__file__).parents[2]
TINY = "0.001"


def run(*arguments: str) -> dict[str, Any]:
    """Run the command; return the JSON that it prints."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--share", TINY, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # 1 means that a bar is not met, as a tiny run need not.
    assert done.returncode in (0, 1), done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="the bare system calls are those of POSIX")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_subject_reports_figures_with_floors_and_bars(subject: str) -> None:
    if subject == "etcd":
        program()
    printed = run(subject)
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


def test_an_unknown_subject_is_an_error_that_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown subject: speed; known are start, hook, sessions" in done.stderr


def test_the_trace_of_one_call_covers_the_way_from_the_server_to_the_file_system() -> None:
    trace = trace_try_claim()
    assert {
        "server/app.py",
        "session/operations.py",
        "stores/files/store.py",
        "stores/files/filesystem.py",
    } <= trace.files
    assert trace.calls >= len(trace.functions) >= len(trace.files)
    # Each file is entered at least once, and consecutive entries are different files.
    assert trace.changes >= len(trace.files) - 1
    assert all(first != second for first, second in zip(trace.path, trace.path[1:], strict=False))


def test_a_bar_is_met_up_to_its_limit() -> None:
    def met(bar: Bar) -> bool | None:
        return Figure("s", "w", "ms", ours=12, floor=10, floor_is="f", bar=bar).met

    assert met(Bar(1.2)) and not met(Bar(1.1))
    assert met(Bar(12, "value")) and not met(Bar(11, "value"))
    assert met(Bar(1.2, more=True)) and not met(Bar(1.3, more=True))
    assert Figure("s", "w", "ms", ours=12, bar=Bar(1.2)).met is False, "a ratio needs a floor"


def test_one_of_a_hundred_may_take_longer_than_the_99th_percentile() -> None:
    assert p99([1.0] * 99 + [9.0]) == 1.0
    assert p99([1.0] * 98 + [9.0] * 2) == 9.0


def test_write_replaces_only_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text(report.RESULTS.read_text())
    monkeypatch.setattr(report, "RESULTS", results)
    report.write([Figure("start", "a figure", "ms", 1.5, 3, "a floor", Bar(0.95))])
    once = results.read_text()
    assert "a figure" in once and "| 1.5 ms | 3 ms (a floor) | 0.50" in once.replace("  ", "")
    before, after = report.RESULTS.read_text().split("<!-- figures")[0], once.split("<!-- end of figures -->")[1]
    assert once.startswith(before) and report.RESULTS.read_text().endswith(after)


@pytest.mark.nightly
@pytest.mark.parametrize("trial", [each for each in peers.TRIALS.values() if each is not peers.abandoned_wait])
def test_the_trials_of_peers_run_on_our_server(trial: Callable[[peers.Peer, str, Path], str], tmp_path: Path) -> None:
    """The others are installed from the index, and may be gone one day."""
    ours = peers.PEERS[0]
    assert trial(ours, peers.install(ours, tmp_path), tmp_path) not in ("no", "", "when its lease ends")
