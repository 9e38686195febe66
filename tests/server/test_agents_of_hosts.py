"""Sub-agents of a host that share a server: a hook puts a handle into their calls, and claims for their edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model.records import Claim, Maker
from mcp_claims.session.handles import Handles
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.guard.agents import Agent
from tests.support.servers import BOTH_STAGES, raw_server

AGENTS = [f"agent{number}" for number in range(4)]


def handles(directory: Path) -> dict[str, str]:
    """Return the handle of each sub-agent, as its host's hook makes it."""
    made = Handles(FileStore(directory).secret())
    return {agent: made.issue_for_agent("the session", agent)[0] for agent in AGENTS}


@pytest.mark.rule("U3")
@BOTH_STAGES
def test_of_four_sub_agents_of_one_connection_one_gets_the_key_and_no_handle_is_shown(
    claims_dir: Path, options: list[str]
) -> None:
    own = handles(claims_dir)
    with raw_server(claims_dir, *options) as server:
        answers = {agent: server.call("try_claim", key="red", session=own[agent]) for agent in AGENTS}
        assert [answer["claimed"] for answer in answers.values()] == [True, False, False, False]
        assert answers["agent3"]["holder"] == answers["agent0"]["holder"]
        listed = server.call("list_claims", session=own["agent0"], mine=True)
        assert len(listed["claims"]) == 1
        assert server.call("release", key="red", session=own["agent1"])["released"] is False
        shown = json.dumps([answers, listed, server.call("list_claims")])
        records = "".join(path.read_text() for path in claims_dir.rglob("*.json"))
        assert not any(handle in shown + records for handle in own.values())
        (found,) = FileStore(claims_dir).scan()
        assert isinstance(found, Claim)
        assert (found.holder.host_session, found.holder.agent) == ("the session", "agent0")
        assert found.holder.pid == server.process.pid, "the server binds it to its own process"


@pytest.mark.rule("U3")
def test_what_a_sub_agent_holds_ends_with_the_server_that_got_its_handle(claims_dir: Path) -> None:
    handle = handles(claims_dir)["agent0"]
    with raw_server(claims_dir) as server:
        server.call("try_claim", key="red", session=handle)
        server.process.kill()
        server.process.wait()
    assert process_session(FileStore(claims_dir)).try_claim("red").claimed


@pytest.mark.rule("U2")
@BOTH_STAGES
def test_a_real_server_takes_over_what_the_guard_has_claimed_for_its_session(
    claims_dir: Path, tmp_path: Path, options: list[str]
) -> None:
    ada = Agent(FileStore(claims_dir), tmp_path, "ada")
    ben = Agent(FileStore(claims_dir), tmp_path, "ben")
    ada.edits("a.py")
    before = ada.claim("a.py")
    assert before is not None
    with raw_server(claims_dir, *options, env={"CLAUDE_CODE_SESSION_ID": "ben"}) as other:
        assert other.call("try_claim", key=f"file:{tmp_path}/a.py")["claimed"] is False
    with raw_server(claims_dir, *options, env={"CLAUDE_CODE_SESSION_ID": "ada"}) as server:
        answer = server.call("try_claim", key=f"file:{tmp_path}/a.py", note="parser")
        assert (answer["claimed"], answer["status"], answer["generation"]) == (True, "renewed", before.generation)
        ada.event("Stop")
        after = ada.claim("a.py")
        assert after is not None and (after.maker, after.note) == (Maker.TOOL, "parser")
        assert ben.edits("a.py") is not None
        assert ada.edits("a.py") is None
        assert server.call("release", key=f"file:{tmp_path}/a.py")["released"]
    assert ben.edits("a.py") is None


@pytest.mark.rule("U4")
@BOTH_STAGES
def test_the_session_that_codex_names_in_each_request_is_stored_with_the_claim(
    claims_dir: Path, options: list[str]
) -> None:
    with raw_server(claims_dir, *options) as server:
        for thread, agent in (("root", None), ("thread 2", "thread 2")):
            meta: dict[str, Any] = {"x-codex-turn-metadata": {"session_id": "root", "thread_id": thread}}
            server.send("try_claim", {"key": thread}, more=meta)
            assert server.receive()["result"]["structuredContent"]["claimed"]
            found = process_session(FileStore(claims_dir)).read(thread).claims[0].found
            assert isinstance(found, Claim)
            assert (found.holder.host_session, found.holder.agent) == ("root", agent)
