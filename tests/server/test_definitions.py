"""What the server says of its tools: every session pays for each byte of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.server.schemas import definitions
from mcp_claims.server.tools import INSTRUCTIONS, TOOLS

SNAPSHOTS = Path(__file__).parent / "snapshots"


def listed(name: str) -> dict[str, Any]:
    return definitions()[name].model_dump(by_alias=True, exclude_none=True, mode="json")


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_listed_as_its_snapshot_says(name: str) -> None:
    snapshot = SNAPSHOTS / f"{name}.json"
    now = json.dumps(listed(name), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(now)
    assert snapshot.read_text() == now, "run the tests with UPDATE_SNAPSHOTS=1 and review the difference"


def test_every_snapshot_belongs_to_a_tool() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(TOOLS)


@pytest.mark.rule("V6")
def test_all_definitions_together_stay_under_8_kb() -> None:
    assert len(json.dumps([listed(name) for name in TOOLS], separators=(",", ":"))) <= 8_000


@pytest.mark.rule("V6")
def test_the_instructions_teach_the_protocol_in_under_600_characters() -> None:
    assert len(INSTRUCTIONS) < 600
    for word in ("try_claim", "release", "claimed=true", "claimed=false", "before it expires"):
        assert word in INSTRUCTIONS


@pytest.mark.parametrize("name", TOOLS)
def test_all_hints_are_set_and_nothing_is_destructive(name: str) -> None:
    hints = listed(name)["annotations"]
    assert set(hints) == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
    assert hints["destructiveHint"] is False
    assert hints["readOnlyHint"] is (name in ("is_claimed_by_other", "list_claims"))


@pytest.mark.parametrize("name", TOOLS)
def test_every_answer_has_an_output_schema_with_advice(name: str) -> None:
    assert "advice" in listed(name)["outputSchema"]["required"]
    assert listed(name)["inputSchema"]["additionalProperties"] is False
