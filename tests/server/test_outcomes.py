"""Over real servers: A claims, does it and says so; B, later, is told and stops.  What an agent reads of outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client

from tests.support.servers import facts, raw_server, stdio, words

pytestmark = pytest.mark.anyio


@pytest.mark.rule("C10")
def test_what_one_server_finished_before_it_ended_another_one_does_not_do_again(claims_dir: Path) -> None:
    with raw_server(claims_dir) as ada:
        holder = ada.call("try_claim", key="red", note="fixing the build")["holder"]
        assert ada.call("release", key="red", outcome="done", note="fixed in #4530")["released"]
        ada.stdin.close()
        assert ada.process.wait(timeout=20) == 0
    with raw_server(claims_dir) as ben:
        told = ben.call("try_claim", key="red")
        assert (told["claimed"], told["status"], told["outcome"]) == (False, "done", "done")
        assert (told["holder"], told["note"]) == (holder, "fixed in #4530")
        assert "redo=true" in told["advice"]
        again = ben.call("try_claim", key="red", redo=True)
        assert (again["status"], again["generation"]) == ("acquired", told["generation"] + 1)


async def test_the_text_alone_tells_what_became_of_it(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as ada, Client(stdio(claims_dir)) as ben:
        await ada.call_tool("try_claim", {"key": "red"})
        released = await ada.call_tool("release", {"key": "red", "outcome": "failed", "note": "no disk\nleft"})
        assert words(released).startswith('RELEASED: "red" (namespace "default") was tried, and failed by ')
        looked = await ben.call_tool("is_claimed_by_other", {"key": "red"})
        assert words(looked).startswith("FREE: nobody holds")
        assert "tried, and failed" in words(looked) and 'quoted: "no disk left"' in words(looked)
        assert "call try_claim before you act" in words(looked)
        taken = await ben.call_tool("try_claim", {"key": "red"})
        assert words(taken).startswith("CLAIMED") and "Before that, it was tried, and failed by" in words(taken)
        await ben.call_tool("release", {"key": "red", "outcome": "done"})
        done = await ada.call_tool("try_claim", {"key": "red"})
        assert words(done).startswith("DONE:") and "Do not act; report that it has been handled." in words(done)
        assert facts(done)["advice"] in words(done)
        late = await ada.call_tool("release", {"key": "red"})
        assert words(late).startswith("NOTHING TO RELEASE: nobody holds") and "was done by" in words(late)
        pruned = await ada.call_tool("prune", {})
        assert (facts(pruned)["live"], facts(pruned)["outcomes"]) == (0, 1)


@pytest.mark.rule("C11")
async def test_before_a_push_a_holder_can_ask_whether_its_grant_is_still_in_force(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as ada, Client(stdio(claims_dir)) as ben:
        mine = facts(await ada.call_tool("try_claim", {"key": "red"}))["generation"]
        asked = {"key": "red", "generation": mine}
        assert facts(await ada.call_tool("is_claimed_by_other", asked))["in_force"] is True
        (claims_dir / "default" / "red.json").unlink()
        await ben.call_tool("try_claim", {"key": "red"})
        answer = await ada.call_tool("is_claimed_by_other", asked)
        assert facts(answer)["in_force"] is False
        assert "is NOT in force" in words(answer) and "do not push, merge or send" in words(answer)
        assert "in_force" not in facts(await ada.call_tool("is_claimed_by_other", {"key": "red"}))


def test_how_long_an_outcome_is_known_can_be_set_for_the_server_and_for_a_call(claims_dir: Path) -> None:
    with raw_server(claims_dir, "--retention-hours", "2") as server:
        for key, arguments, hours in (("a", {}, 2), ("b", {"retention_hours": 700}, 700)):
            server.call("try_claim", key=key)
            server.call("release", key=key, outcome="done", **arguments)
            left = server.call("is_claimed_by_other", key=key)["expires_in_seconds"]
            assert hours * 3600 - 60 < left <= hours * 3600
