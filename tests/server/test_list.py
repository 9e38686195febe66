"""`list_claims` over a real server: text and structure at 3 claims and at 3,000, and never a handle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import stdio, structured_of, text_of

pytestmark = pytest.mark.anyio


async def test_three_claims_are_three_lines_with_who_until_when_and_why(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as ada, Client(stdio(claims_dir)) as ben:
        handle = structured_of(await ada.call_tool("open_session", {"label": "tests"}))["session"]
        await ada.call_tool("try_claim", {"key": "a/b#1", "note": "on\nit", "session": handle})
        await ben.call_tool("try_claim", {"key": "red", "namespace": "ci"})
        await ben.call_tool("release", {"key": "red", "namespace": "ci", "outcome": "done"})
        await ben.call_tool("try_claim", {"key": "mine"})
        answer = await ben.call_tool("list_claims", {})
        lines = text_of(answer).splitlines()
        assert lines[0] == "LISTED: 3 claims." and lines[-1] == "That is all."
        assert lines[1].startswith('- "red" (namespace "ci") was done by ')
        assert lines[2].startswith('- "a/b#1" (namespace "default") is held by ') and 'quoted: "on it"' in lines[2]
        listed = structured_of(answer)["claims"]
        assert [(each["key"], each["namespace"], each["state"]) for each in listed] == [
            ("red", "ci", "done"),
            ("a/b#1", "default", "held"),
            ("mine", "default", "held"),
        ]
        assert handle not in text_of(answer) + json.dumps(listed)
        mine = structured_of(await ben.call_tool("list_claims", {"mine": True}))["claims"]
        assert [each["key"] for each in mine] == ["red", "mine"]
        sub_agent = structured_of(await ada.call_tool("list_claims", {"mine": True, "session": handle}))["claims"]
        assert [each["key"] for each in sub_agent] == ["a/b#1"]


@pytest.mark.rule("C12")
async def test_three_thousand_are_pages_of_fifty_that_lead_from_one_to_the_next(claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    for number in range(3_000):
        session.try_claim(f"event {number:04}", f"namespace {number % 7}")
    seen: list[str] = []
    arguments: dict[str, Any] = {}
    async with Client(stdio(claims_dir)) as client:
        while True:
            answer = await client.call_tool("list_claims", arguments)
            page = structured_of(answer)
            seen += [each["key"] for each in page["claims"]]
            assert len(text_of(answer)) < 20_000
            if "cursor" not in page:
                break
            assert f"cursor={page['cursor']}" in text_of(answer)
            arguments = {"cursor": page["cursor"]}
            if len(seen) > 300:
                # The rest is like this.
                arguments |= {"namespace": "namespace 6"}
        assert len(seen) == len(set(seen))
        for cursor in ("not a cursor!", "zzz", "AAAA", page["cursor"][:-4] if "cursor" in page else "AAAAbm8"):
            bad = await client.call_tool("list_claims", {"cursor": cursor})
            assert bad.is_error and "exactly what list_claims returned" in text_of(bad)


async def test_an_empty_list_is_an_answer(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as client:
        answer = await client.call_tool("list_claims", {"namespace": "nothing here"})
    assert text_of(answer) == "LISTED: 0 claims. That is all."
    assert not claims_dir.exists()
