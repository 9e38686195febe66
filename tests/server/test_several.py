"""Shared keys and slots over real servers: what a model passes, and what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import BOTH_STAGES, RawServer, raw_server


def said(server: RawServer, tool: str, **arguments: Any) -> str:
    """Call *tool* and return its answer in words."""
    server.send(tool, arguments)
    (content,) = server.receive()["result"]["content"]
    return str(content["text"])


@BOTH_STAGES
@pytest.mark.rule("M1", "M5")
def test_as_many_sessions_as_there_are_slots_have_one_each(claims_dir: Path, options: list[str]) -> None:
    with (
        raw_server(claims_dir, *options) as ada,
        raw_server(claims_dir, *options) as ben,
        raw_server(claims_dir, *options) as cy,
    ):
        first, second = (each.call("try_claim", key="port", slots=2) for each in (ada, ben))
        assert [first["slot"], second["slot"]] == [0, 1] and first["generation"] != second["generation"]
        assert "The slot is yours alone" in first["advice"]
        assert "in slot 0 (of 0 to 1)" in said(ada, "try_claim", key="port", slots=2)
        refused = cy.call("try_claim", key="port", slots=2)
        assert (refused["status"], refused["slot"]) == ("held", 1)
        assert "HELD: all 2 slots" in said(cy, "try_claim", key="port", slots=2)
        plain = cy.call("try_claim", key="port")
        assert plain["status"] == "held" and "slots=2" in plain["advice"]
        assert "must be 2" in said(cy, "try_claim", key="port", slots=3)
        assert cy.call("is_claimed_by_other", key="port")["claimed_by_other"]
        again = ben.call("try_claim", key="port", slots="2")
        assert (again["status"], again["slot"], again["generation"]) == ("renewed", 1, second["generation"])
        assert [each["slot"] for each in cy.call("list_claims")["claims"]] == [0, 1]
        gone = ada.call("release", key="port", outcome="failed", note="flaky")
        assert gone["released"] and gone["outcome"] == "failed"
        seen = cy.call("is_claimed_by_other", key="port", generation=second["generation"])
        assert (seen["claimed_by_other"], seen["in_force"]) == (False, True)
        assert "OPEN:" in said(cy, "is_claimed_by_other", key="port")
        assert not cy.call("is_claimed_by_other", key="port", generation=first["generation"])["in_force"]
        taken = cy.call("try_claim", key="port", slots=2)
        assert (taken["status"], taken["slot"]) == ("acquired", 0) and taken["previous"]["note"] == "flaky"


@BOTH_STAGES
@pytest.mark.rule("M5", "M6")
def test_a_key_is_shared_until_one_has_it_alone(claims_dir: Path, options: list[str]) -> None:
    with raw_server(claims_dir, *options) as ada, raw_server(claims_dir, *options) as ben:
        for each in (ada, ben):
            answer = each.call("try_claim", key="schema", also=["docs"], shared=True)
            assert answer["claimed"] and answer["shared"] and "change nothing" in answer["advice"]
        for each in (ada, ben):
            each.call("release", key="docs", outcome="done")
            assert each.call("try_claim", key="schema", shared=True)["claimed"], "nothing that is shared is ever done"
        refused = ada.call("try_claim", key="schema", wait_seconds=200)
        assert refused["status"] == "held" and "You share it with others yourself" in refused["advice"]
        outside = ben.call("try_claim", key="schema", slots=2)
        assert outside["status"] == "held" and "shared=true" in outside["advice"]
        assert ben.call("release", key="schema")["released"]
        seen = ben.call("is_claimed_by_other", key="schema")
        assert not seen["claimed_by_other"]
        assert "is shared by" in said(ben, "is_claimed_by_other", key="schema")
        alone = ada.call("try_claim", key="schema")
        assert alone["status"] == "renewed" and "shared" not in alone
        assert ben.call("try_claim", key="schema", shared=True)["status"] == "held"
        assert ada.call("try_claim", key="schema", shared=True)["status"] == "renewed"
        assert ben.call("try_claim", key="schema", shared=True)["status"] == "acquired"


@BOTH_STAGES
@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"shared": True, "slots": 2}, "slots does not go with shared"),
        ({"slots": 1}, "slots must be a whole number from 2 to 1,000"),
        ({"slots": 1_001}, "slots must be a whole number from 2 to 1,000"),
        ({"slots": 2, "also": ["b"]}, "slots does not go with also or or_else"),
        ({"slots": 2, "or_else": ["b"]}, "slots does not go with also or or_else"),
        ({"shared": True, "or_else": ["b"]}, "shared does not go with or_else"),
    ],
)
def test_what_does_not_go_together_is_an_error(
    claims_dir: Path, options: list[str], wrong: dict[str, object], rule: str
) -> None:
    with raw_server(claims_dir, *options) as server:
        assert rule in said(server, "try_claim", key="a", **wrong)
        assert server.call("list_claims")["claims"] == []
