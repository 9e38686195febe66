"""What `mcp-claims verify` says of every history that a test has left: many processes, deaths and faults later, it is clean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcp_claims.cli.verify import check_histories
from mcp_claims.model.promises import Findings
from mcp_claims.render.history import findings_text, violation_text
from mcp_claims.stores.history.files import parse_name
from mcp_claims.stores.history.reader import HistoryReader


def findings_in(directory: Path) -> tuple[Findings, int]:
    """Return what the history in *directory* shows, and how many lines cannot be read."""
    reader = HistoryReader(str(directory), gaps=True)
    return check_histories([list(reader.events())]), reader.damaged


@pytest.fixture(autouse=True)
def _histories_are_clean(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # Where the histories of clusters are.
    yield
    if "fault" in getattr(getattr(request.node, "callspec", None), "params", {}):
        return  # It breaks a promise on purpose.
    for directory in sorted({path.parent for path in tmp_path.rglob("*.jsonl") if parse_name(path.name)}):
        findings, damaged = findings_in(directory)
        print(f"{directory.relative_to(tmp_path)}: {findings_text(findings, damaged)}", file=sys.stderr)
        now = datetime.now(UTC)
        assert not findings.violations, "\n".join(violation_text(each, now) for each in findings.violations[:5])
