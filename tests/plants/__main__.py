"""Plant each fault in turn and tell which the tests catch: `python -m tests.plants [--jobs N] [GUARD...]`.

Without guards, all; a guard is a rule of DESIGN.md (`S3`) or the number of a hazard.  Exit code 1 if one survives that is
not known to, or if it cannot be planted.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.plants.listed import PLANTS
from tests.plants.plant import Outcome, Plant, run


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.plants", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("guards", nargs="*", metavar="GUARD")
    options = parser.parse_args()
    chosen = [plant for plant in PLANTS if not options.guards or set(plant.guards.split()) & set(options.guards)]
    sound = run(None, sorted({test for plant in chosen for test in plant.tests()}))
    if sound.caught or sound.broken:
        print(f"without any fault: {sound.by}")
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(_try, chosen))
    caught = sum(outcome.caught for outcome in outcomes)
    known = sum(bool(outcome.plant and outcome.plant.survives) and not outcome.caught for outcome in outcomes)
    print(f"caught {caught} of {len(chosen)} planted; {known} survive with a reason")
    return 0 if caught + known == len(chosen) else 1


def _try(plant: Plant) -> Outcome:
    outcome = (
        run(plant, plant.tests()) if plant.occurrences() == 1 else Outcome(plant, False, True, "cannot be planted")
    )
    word = "caught" if outcome.caught else "BROKEN" if outcome.broken else "survives" if plant.survives else "SURVIVED"
    print(f"{word:8}  {plant.guards:8}  {plant.name}: {outcome.by or plant.survives or 'no test noticed'}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
