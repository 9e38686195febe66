"""How hosts describe events, as they were recorded in real runs, and how they want to be answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.guard.dialects import DIALECTS, Answer, HookEvent, Kind, read_event
from mcp_claims.guard.guard import TAKE_SESSION
from mcp_claims.hosts.hook_catalog import HOOKS
from mcp_claims.hosts.hooks import JsonHooks
from mcp_claims.server.tools import TOOLS

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl"))
NAMES_NO_AGENT = ("gemini-cli",)
EDITS = ("n.py", "a.py", "s.py", "h.py")


def recorded(path: Path) -> list[tuple[HookEvent, dict[str, Any]]]:
    """Return the events that a host described, as they are read, each with what the host sent."""
    found = []
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        event = read_event(path.stem, sample["stdin"])
        if (path.stem, sample["event"]) == ("copilot-cli", "SubagentStart"):  # The one event that it does not name.
            continue
        assert event is not None and event.name == sample["event"], sample["event"]
        found.append((event, sample["stdin"]))
    return found


@pytest.mark.rule("U6")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_event_of_a_real_host_is_read_with_its_session_and_agent(path: Path) -> None:
    events = [event for event, _ in recorded(path)]
    own = [event for event in events if event.agent is None]
    sub = [event for event in events if event.agent is not None]
    assert all(event.session for event in events)
    assert {event.session for event in sub} <= {event.session for event in own}, "a sub-agent is in its session"
    assert bool(sub) == (path.stem not in NAMES_NO_AGENT)
    assert {Kind.BEFORE_TOOL, Kind.AFTER_TOOL, Kind.ACTIVITY} <= {event.kind for event in own}
    if sub:
        assert {event.kind for event in sub} >= {Kind.BEFORE_TOOL, Kind.AGENT_END}
        assert not {Kind.TURN_END, Kind.SESSION_END} & {event.kind for event in sub}


@pytest.mark.rule("U6")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_edits_shell_commands_and_our_own_tools_are_told_apart(path: Path) -> None:
    dialect = DIALECTS[path.stem]
    before = [event for event, _ in recorded(path) if event.kind is Kind.BEFORE_TOOL]
    ours = [event for event in before if dialect.tool_of_ours(event, "claims") is not None]
    assert {dialect.tool_of_ours(event, "claims") for event in ours} == {"try_claim"}
    assert all(event.arguments["key"] for event in ours)
    assert not any(dialect.tool_of_ours(event, "others") for event in before) or path.stem == "cursor"
    edits = [event for event in before if event.tool in dialect.edit_tools | dialect.patch_tools]
    assert edits and all(any(name in json.dumps(event.arguments) for name in (*EDITS, "ipynb")) for event in edits)
    shells = [event for event in before if event.tool in dialect.shell_tools]
    assert shells and all(isinstance(event.arguments["command"], str) for event in shells)


@pytest.mark.rule("U6")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_call_has_one_id_before_and_after_where_its_host_gives_it_one(path: Path) -> None:
    events = [event for event, _ in recorded(path)]
    before = {event.call for event in events if event.kind is Kind.BEFORE_TOOL}
    # Of calls that failed, the event before them is not in the record.
    after = {event.call for event in events if event.kind is Kind.AFTER_TOOL and "Failure" not in event.name}
    assert after <= before
    if path.stem in ("gemini-cli", "copilot-cli"):
        assert before == {None}
    else:
        assert None not in before


@pytest.mark.parametrize(
    ("host", "event", "answer", "expected"),
    [
        (
            "claude-code",
            "PreToolUse",
            Answer("held"),
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "permissionDecision": "deny",
                    "permissionDecisionReason": "held",
                }
            },
        ),
        (
            "claude-code",
            "PreToolUse",
            Answer(arguments={"key": "k"}, warning="look"),
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "updatedInput": {"key": "k"},
                    "additionalContext": "look",
                }
            },
        ),
        (
            "codex",
            "PreToolUse",
            Answer(arguments={"key": "k"}),
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "updatedInput": {"key": "k"},
                    "permissionDecision": "allow",
                }
            },
        ),
        ("gemini-cli", "BeforeTool", Answer("held"), {"decision": "deny", "reason": "held"}),
        (
            "gemini-cli",
            "BeforeTool",
            Answer(arguments={"key": "k"}),
            {"hookSpecificOutput": {"hookEventName": "BeforeTool", "tool_input": {"key": "k"}}},
        ),
        (
            "qwen-code",
            "PreToolUse",
            Answer("held"),
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "permissionDecision": "deny",
                    "permissionDecisionReason": "held",
                }
            },
        ),
        ("qwen-code", "PreToolUse", Answer(warning="look"), None),
        ("opencode", "tool.execute.before", Answer("held"), {"deny": "held"}),
        ("opencode", "tool.execute.before", Answer(arguments={"key": "k"}), {"args": {"key": "k"}}),
        (
            "cursor",
            "preToolUse",
            Answer("held"),
            {"permission": "deny", "user_message": "held", "agent_message": "held"},
        ),
        (
            "cursor",
            "preToolUse",
            Answer(arguments={"key": "k"}),
            None,
        ),
    ],
)
def test_an_answer_has_the_form_that_its_host_takes(
    host: str, event: str, answer: Answer, expected: dict[str, Any] | None
) -> None:
    assert DIALECTS[host].answer(HookEvent(Kind.BEFORE_TOOL, event), answer) == expected


@pytest.mark.parametrize("host", DIALECTS)
def test_no_host_is_ever_told_to_ask(host: str) -> None:
    """Gemini CLI would hang, and Codex would run the tool."""
    for answer in (Answer("held"), Answer(warning="look"), Answer(arguments={"key": "k"})):
        output = DIALECTS[host].answer(HookEvent(Kind.BEFORE_TOOL, next(iter(DIALECTS[host].events))), answer)
        assert '"ask"' not in json.dumps(output)


@pytest.mark.parametrize("data", [{}, {"hook_event_name": 5}, {"hook_event_name": "Unheard"}, {"session_id": []}])
def test_what_is_no_known_event_is_of_no_interest(data: dict[str, Any]) -> None:
    for host in DIALECTS:
        assert read_event(host, data) is None


def test_copilot_is_never_told_to_allow() -> None:
    """It would run the tool without the person's permission."""
    answered = DIALECTS["copilot-cli"].answer(HookEvent(Kind.BEFORE_TOOL, "PreToolUse"), Answer(arguments={"key": "k"}))
    assert answered == {"hookSpecificOutput": {"hookEventName": "PreToolUse", "updatedInput": {"key": "k"}}}


def test_the_guard_and_the_catalog_of_hooks_know_the_tools_that_the_server_has() -> None:
    assert {name for name, tool in TOOLS.items() if "session" in tool.arguments} == TAKE_SESSION
    of_cursor = HOOKS["cursor"]
    assert isinstance(of_cursor, JsonHooks)
    assert all(re.fullmatch(of_cursor.own, f"MCP:{name}") for name in TOOLS)
