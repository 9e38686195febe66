"""The command: which subjects are measured, how long, and where the figures go."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence

from benchmarks.measure import Effort, Figure
from benchmarks.report import as_json, as_table, write

SUBJECTS = (
    "start",
    "imports",
    "memory",
    "call",
    "cycle",
    "contention",
    "scale",
    "waiting",
    "crowd",
    "watching",
    "http",
)
_QUICK = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; return 1 if a bar is not met, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds and claims")
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="any other share of them (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md as well")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    effort = Effort(_QUICK if options.quick else options.share)
    figures: list[Figure] = []
    for name in options.names or SUBJECTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        measure: Callable[[Effort], Iterable[Figure]] = importlib.import_module(f"benchmarks.{name}").measure
        figures += measure(effort)
    print(as_json(figures) if options.json else as_table(figures))
    if options.write:
        write(figures)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
