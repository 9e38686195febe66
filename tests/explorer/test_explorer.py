"""No interleaving, death, stall, clock step or recycled PID makes two holders, and planted faults are found.

`MCP_CLAIMS_SCHEDULES` is the number of schedules for each scenario; CI asks for more than a working day needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import pytest

from tests.explorer import files, groups
from tests.explorer.scenarios import FAULTS, SCENARIOS
from tests.explorer.schedules import Scenario
from tests.explorer.search import explore
from tests.explorer.several import SEVERAL, SEVERAL_FAULTS
from tests.explorer.several import planted as planted_in_several
from tests.explorer.waiting import WAITING, WAITING_FAULTS, planted

SCHEDULES = int(os.environ.get("MCP_CLAIMS_SCHEDULES", "100"))
RANDOM_SHARE = 10
BOUND = 3

# These need many schedules, the last two thousands.
_SLOW = {
    "renewal does not look at what overlaps",
    "no cycle is found",
    "reservation of the dead is kept",
    "slots are counted without the lock",
    "reserved for one that has left",
    "those who share overtake",
}


def by_day_and_night(faults: Iterable[str]) -> list[Any]:
    """Return the cases of a test for *faults*, the slow ones for the night."""
    slow = (pytest.mark.nightly, pytest.mark.timeout(7_200))
    return [pytest.param(each, marks=slow if each in _SLOW else ()) for each in faults]


@pytest.mark.parametrize(
    "scenario", [*SCENARIOS, *WAITING, *files.FILES, *groups.GROUPS], ids=lambda scenario: scenario.name
)
def test_at_most_one_holds_and_the_key_stays_claimable_under_every_schedule_tried(scenario: Scenario) -> None:
    found = explore(scenario, bound=BOUND, at_most=SCHEDULES, random_runs=SCHEDULES // RANDOM_SHARE)
    assert found.violation is None, found.violation
    print(f"{found.schedules:,} distinct schedules")
    assert found.schedules >= SCHEDULES, "as many as were asked for, in each"


@pytest.mark.rule("M1", "M2", "M4", "M7", "M8")
@pytest.mark.parametrize("scenario", SEVERAL, ids=lambda scenario: scenario.name)
def test_several_hold_a_key_only_in_ways_that_go_together(scenario: Scenario) -> None:
    # There are as many of these as of all others; a fifth of the schedules for each keeps a working day's run short.
    at_most = SCHEDULES // 5
    found = explore(scenario, bound=BOUND, at_most=at_most, random_runs=at_most // RANDOM_SHARE)
    assert found.violation is None, found.violation
    print(f"{found.schedules:,} distinct schedules")
    assert found.schedules >= at_most, "as many as were asked for, in each"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_reported_as_a_short_trace(fault: str) -> None:
    trace = violation([FAULTS[fault](scenario) for scenario in SCENARIOS])
    assert re.search("both hold the key|was given twice|did not get the note|found no trace", trace)
    assert len(trace.splitlines()) < 100


@pytest.mark.rule("K11")
@pytest.mark.parametrize("fault", by_day_and_night(files.FILE_FAULTS))
def test_a_fault_of_files_is_found(fault: str) -> None:
    assert "both hold the key" in violation(list(files.planted(fault)))


@pytest.mark.rule("C15", "S10")
def test_a_set_that_is_written_one_by_one_is_found() -> None:
    assert re.search("both hold the key|was given twice", violation(list(groups.planted())))


@pytest.mark.rule("M1", "M2", "M4", "M7")
@pytest.mark.parametrize("fault", by_day_and_night(SEVERAL_FAULTS))
def test_a_fault_of_keys_that_several_hold_is_found(fault: str) -> None:
    assert violation([planted_in_several(fault)]).startswith(fault)


@pytest.mark.parametrize("fault", by_day_and_night(WAITING_FAULTS))
def test_a_fault_of_waiting_is_found(fault: str) -> None:
    assert violation(list(planted(fault))).startswith(fault)


def violation(scenarios: list[Scenario]) -> str:
    """Return the first violation that is found, shallow in all *scenarios* before deep in any."""
    for budget in (100, 1_000, 5_000):
        for scenario in scenarios:
            found = explore(scenario, bound=BOUND, at_most=budget)
            if found.violation is not None:
                assert str(found.violation).startswith(scenario.name)
                return str(found.violation)
    pytest.fail(f"it was not found in any of {len(scenarios)} scenarios")
