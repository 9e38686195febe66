"""The plants do not rot: each can be planted, and each rule and hazard of DESIGN.md has one."""

from __future__ import annotations

import pytest

from tests.docs.test_design import HAZARDS, NOT_TESTED, RULES
from tests.plants.listed import PLANTS
from tests.plants.plant import Plant


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_it_can_be_planted_in_one_place_and_there_are_tests_to_catch_it(plant: Plant) -> None:
    assert plant.occurrences() == 1
    assert plant.old != plant.new
    assert plant.tests()


def test_each_rule_and_each_hazard_has_a_plant() -> None:
    planted = {guard for plant in PLANTS for guard in plant.guards.split()}
    assert planted == {number for number, _ in RULES if number not in NOT_TESTED} | set(HAZARDS)


def test_no_two_plants_have_one_name() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)
