"""Over real servers: A claims, does the work and records it; B comes later, learns it and stops."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client

from tests.support.servers import raw_server, stdio, structured_of, text_of

pytestmark = pytest.mark.anyio


@pytest.mark.rule("C10")
def test_what_one_server_finished_before_it_ended_another_one_does_not_do_again(claims_dir: Path) -> None:
    with raw_server(claims_dir) as ada:
        holder = ada.call("try_claim", key="red", note="fixing the build")["holder"]
        assert ada.call("release", key="red", outcome="done", note="fixed in #4530")["released"]
        ada.stdin.close()
        assert ada.process.wait(timeout=20) == 0
    with raw_server(claims_dir) as ben:
        reply = ben.call("try_claim", key="red")
        assert (reply["claimed"], reply["status"], reply["outcome"]) == (False, "done", "done")
        assert (reply["holder"], reply["note"]) == (holder, "fixed in #4530")
        assert "redo=true" in reply["advice"]
        again = ben.call("try_claim", key="red", redo=True)
        assert (again["status"], again["generation"]) == ("acquired", reply["generation"] + 1)


async def test_the_text_alone_has_the_outcome(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as ada, Client(stdio(claims_dir)) as ben:
        await ada.call_tool("try_claim", {"key": "red"})
        released = await ada.call_tool("release", {"key": "red", "outcome": "failed", "note": "no disk\nleft"})
        assert text_of(released).startswith('RELEASED: "red" (namespace "default") was tried, and failed by ')
        inspected = await ben.call_tool("is_claimed_by_other", {"key": "red"})
        assert text_of(inspected).startswith("FREE: nobody holds")
        assert "tried, and failed" in text_of(inspected) and 'quoted: "no disk left"' in text_of(inspected)
        assert "call try_claim before you act" in text_of(inspected)
        taken = await ben.call_tool("try_claim", {"key": "red"})
        assert text_of(taken).startswith("CLAIMED") and "Before that, it was tried, and failed by" in text_of(taken)
        await ben.call_tool("release", {"key": "red", "outcome": "done"})
        done = await ada.call_tool("try_claim", {"key": "red"})
        assert text_of(done).startswith("DONE:") and "Do not act; report that it has been handled." in text_of(done)
        assert structured_of(done)["advice"] in text_of(done)
        late = await ada.call_tool("release", {"key": "red"})
        assert text_of(late).startswith("NOTHING TO RELEASE: nobody holds") and "was done by" in text_of(late)
        pruned = await ada.call_tool("prune", {})
        assert (structured_of(pruned)["live"], structured_of(pruned)["outcomes"]) == (0, 1)


@pytest.mark.rule("C11")
async def test_before_a_push_a_holder_can_ask_whether_its_grant_is_still_in_force(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as ada, Client(stdio(claims_dir)) as ben:
        mine = structured_of(await ada.call_tool("try_claim", {"key": "red"}))["generation"]
        asked = {"key": "red", "generation": mine}
        assert structured_of(await ada.call_tool("is_claimed_by_other", asked))["in_force"] is True
        (claims_dir / "default" / "red.json").unlink()
        await ben.call_tool("try_claim", {"key": "red"})
        answer = await ada.call_tool("is_claimed_by_other", asked)
        assert structured_of(answer)["in_force"] is False
        assert "is NOT in force" in text_of(answer) and "do not push, merge or send" in text_of(answer)
        assert "in_force" not in structured_of(await ada.call_tool("is_claimed_by_other", {"key": "red"}))


def test_how_long_an_outcome_is_known_can_be_set_for_the_server(claims_dir: Path) -> None:
    with raw_server(claims_dir, "--retention-hours", "2") as server:
        server.call("try_claim", key="red")
        server.call("release", key="red", outcome="done")
        left = server.call("is_claimed_by_other", key="red")["expires_in_seconds"]
        assert 2 * 3600 - 60 < left <= 2 * 3600
