"""The figures as a table, as JSON and in RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Figure
from mcp_claims.doctor.filesystem import kind_of

RESULTS = Path(__file__).with_name("RESULTS.md")
_BEGIN, _END = "<!-- figures: written by python -m benchmarks --write -->", "<!-- end of figures -->"
_PACKAGES = ("mcp", "mcp-claims", "pydantic", "anyio", "uvicorn", "filelock")
_HEADINGS = ("", "what", "ours", "floor", "ratio", "bar", "met")
_MET = {True: "yes", False: "**no**", None: ""}


def machine() -> dict[str, object]:
    """Return the date, the machine, its load and the versions, on which all figures depend."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "system": f"{platform.system()} {platform.release()}",
        "processor": f"{os.cpu_count()} of {_processor()}",
        "file system": kind_of(Path(tempfile.gettempdir()), Path("/proc/self/mountinfo")),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def as_json(figures: Sequence[Figure]) -> str:
    """Return the machine and the figures, with their ratios and whether their bars are met, as JSON."""
    listed = [asdict(figure) | {"ratio": figure.ratio, "met": figure.met} for figure in figures]
    return json.dumps({"machine": machine(), "figures": listed}, indent=2, ensure_ascii=False)


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table, aligned so that its source is readable."""
    rows = [_HEADINGS, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write(figures: Sequence[Figure]) -> None:
    """Replace the machine and the table in RESULTS.md."""
    before, _, rest = RESULTS.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    facts = machine()
    versions = facts.pop("versions")
    assert isinstance(versions, dict)
    facts_listed = [f"- {name}: {value}" for name, value in facts.items()]
    facts_listed.append("- versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()))
    RESULTS.write_text(f"{before}{_BEGIN}\n" + "\n".join(facts_listed) + f"\n\n{as_table(figures)}\n{_END}{after}")


def _row(figure: Figure) -> tuple[str, ...]:
    floor = "" if figure.floor is None else f"{_number(figure.floor)} {figure.unit} ({figure.floor_is})"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    bar = "" if figure.bar is None else str(figure.bar)
    return (
        figure.subject,
        figure.what,
        f"{_number(figure.ours)} {figure.unit}".strip(),
        floor,
        ratio,
        bar if not bar or figure.bar is None or figure.bar.of == "ratio" else f"{bar} {figure.unit}".strip(),
        _MET[figure.met],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()
