"""What the tools answer where the directory is shared with sessions of the original."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client

from mcp_claims.server.app import build_server
from tests.stores.agent_awareness.samples import store_in
from tests.support.servers import one_client, structured_of, text_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client(directory: Path) -> AsyncIterator[Client]:
    async with Client(build_server(lambda: one_client(store_in(directory)))) as connected:
        yield connected


def leave_a_claim(directory: Path, *, expires: str = "2126-11-23T12:30:00.000Z") -> None:
    path = directory / "default" / "a_b.json"
    path.parent.mkdir(parents=True)
    claimed = "2026-11-23T12:00:00.000Z"
    path.write_text(json.dumps({"holder": "rig:4242", "pid": 4242, "claimedAt": claimed, "expiresAt": expires}))


@pytest.mark.rule("A4")
@pytest.mark.parametrize("tool", ["try_claim", "is_claimed_by_other", "release"])
async def test_a_claim_of_the_original_is_named_as_such_in_text_and_structure(claims_dir: Path, tool: str) -> None:
    leave_a_claim(claims_dir)
    async with client(claims_dir) as ada:
        answer = await ada.call_tool(tool, {"key": "a/b"})
    output = structured_of(answer)
    assert output["holder"] == "rig:4242"
    assert "generation" not in output
    assert tool == "release" or output["client"] == "agent-awareness"
    assert "agent-awareness wrote it without a proof of death" in output["advice"]
    assert 'held by rig:4242 ("agent-awareness")' in text_of(answer)
    assert "generation" not in text_of(answer)


async def test_a_takeover_from_the_original_says_so(claims_dir: Path) -> None:
    leave_a_claim(claims_dir, expires="2026-01-01T00:00:00.000Z")
    async with client(claims_dir) as ada:
        answer = structured_of(await ada.call_tool("try_claim", {"key": "a/b"}))
    assert answer["status"] == "acquired"
    assert answer["previous"] == {
        "state": "expired",
        "holder": "rig:4242",
        "client": "agent-awareness",
        "ended_at": "2026-01-01T00:00:00.000Z",
    }


@pytest.mark.rule("A3")
@pytest.mark.parametrize("tool", ["try_claim", "is_claimed_by_other", "release"])
async def test_a_refusal_for_a_key_with_the_same_file_name_says_which_key_is_claimed(
    claims_dir: Path, tool: str
) -> None:
    async with client(claims_dir) as ada, client(claims_dir) as ben:
        await ada.call_tool("try_claim", {"key": "a/b"})
        answers = [await who.call_tool(tool, {"key": "a:b"}) for who in (ada, ben)]
    for answer in answers:
        assert (
            'This is the claim on "a/b", whose file has the same name in this layout' in structured_of(answer)["advice"]
        )
        assert 'This is the claim on "a/b"' in text_of(answer)
        assert not structured_of(answer).get("claimed") and not structured_of(answer).get("released")
