"""The command: which subjects to measure, for how long, and where to print the figures."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

from benchmarks.measure import Effort, Figure
from benchmarks.report import as_json, as_table, write

SUBJECTS = {
    "start": "time until `mcp-claims check` ends",
    "hook": "from the start of a hook of a host to its answer",
    "sessions": "what an agent's session costs: start, CPU, memory, many at once, eight that race",
    "call": "one call of try_claim over stdio",
    "core": "claim, release and refusal in the library",
    "history": "claim and release, and a session, with the history and without it",
    "contention": "many processes that claim in one namespace",
    "scale": "one namespace with more and more claims",
    "files": "grants of files among thousands of others",
    "waiting": "from a release to the grant for a client that waits",
    "subscriptions": "a client that is notified of changes",
    "http": "calls over HTTP",
    "board": "the board in Chromium, with 10,000 claims; left out of a full run if chromium is not installed",
    "trace": "files and functions that one try_claim runs through",
    "agents": "ten thousand agents on a cluster of etcd, simulated on a virtual clock",
    "etcd": "claims on etcd; left out of a full run if etcd is not installed",
}
_QUICK = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen subjects; return 1 if a bar is not met, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure what mcp-claims costs.  All subjects without any:\n\n"
        + "\n".join(f"  {name:14} {about}" for name, about in SUBJECTS.items()),
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds and claims")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="another share of them (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="also put the table into benchmarks/RESULTS.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.subjects) - set(SUBJECTS):
        parser.error(f"unknown subject: {', '.join(sorted(unknown))}; known are {', '.join(SUBJECTS)}")
    effort = Effort(_QUICK if options.quick else options.share)
    figures: list[Figure] = []
    for subject in options.subjects or _installed():
        print(f"{subject} …", file=sys.stderr, flush=True)
        measure: Callable[[Effort], Iterable[Figure]] = importlib.import_module(f"benchmarks.{subject}").measure
        figures += measure(effort)
    print(as_json(figures) if options.json else as_table(figures))
    if options.write:
        write(figures)
    return int(any(figure.met is False for figure in figures))


def _installed() -> list[str]:
    needed = {"etcd": "etcd", "board": "chromium"}
    return [subject for subject in SUBJECTS if subject not in needed or shutil.which(needed[subject])]


if __name__ == "__main__":
    sys.exit(main())
