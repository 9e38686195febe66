"""The dialects of hosts: how each describes an event to its hooks, and how it wants to be answered.

Formats that differ only in names are data here.  Seen in real runs of the hosts in November 2026; Cursor's is documented
at https://cursor.com/docs/hooks.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

Json = dict[str, Any]


class Kind(Enum):
    """What has happened in a host."""

    BEFORE_TOOL = "before a tool"
    AFTER_TOOL = "after a tool"
    ACTIVITY = "activity"
    TURN_END = "end of a turn"
    AGENT_END = "end of a sub-agent"
    SESSION_END = "end of a session"


class HookEvent(NamedTuple):
    """An event of a host.

    `session` is the id of the host's session, `agent` that of the sub-agent in it, `None` for the session's own agent.
    `call` is the id of the tool call, if the host has one.
    """

    kind: Kind
    name: str
    session: str | None = None
    agent: str | None = None
    cwd: str | None = None
    tool: str = ""
    arguments: Mapping[str, Any] = {}
    call: str | None = None
    reason: str | None = None


class Answer(NamedTuple):
    """What a hook answers: why the tool call is denied, what its model has to know, or other arguments for the call."""

    denial: str | None = None
    warning: str | None = None
    arguments: Json | None = None


_Answering = Callable[[HookEvent, Answer], Json | None]


class Dialect(NamedTuple):
    """The dialect of one host.

    `claims_tool` is the name of a tool of our server, as a pattern in which {server} and {tool} are replaced.  `answer`
    returns the JSON object for an answer, `None` for what the host has no place for.
    """

    events: Mapping[str, Kind]
    edit_tools: frozenset[str]
    shell_tools: frozenset[str]
    claims_tool: str
    answer: _Answering
    patch_tools: frozenset[str] = frozenset()
    changes_arguments: bool = True
    hands_to_all: bool = False
    """Whether the own agent of a session gets a handle, too: one server serves sessions that it cannot tell apart."""

    def tool_of_ours(self, event: HookEvent, server: str) -> str | None:
        """Return which tool of our server, which the host calls *server*, *event* is about; `None` if it is none."""
        pattern = self.claims_tool.replace("{server}", re.escape(server)).replace("{tool}", "(?P<tool>[a-z_]+)")
        found = re.fullmatch(pattern, event.tool)
        return found["tool"] if found else None


_CLAUDE_EVENTS = {
    "PreToolUse": Kind.BEFORE_TOOL,
    "PostToolUse": Kind.AFTER_TOOL,
    "PostToolUseFailure": Kind.AFTER_TOOL,
    "UserPromptSubmit": Kind.ACTIVITY,
    "SessionStart": Kind.ACTIVITY,
    "SubagentStart": Kind.ACTIVITY,
    "Stop": Kind.TURN_END,
    "StopFailure": Kind.TURN_END,
    "SubagentStop": Kind.AGENT_END,
    "SessionEnd": Kind.SESSION_END,
}


def _as_claude(event: HookEvent, answer: Answer) -> Json | None:
    output: Json = {"hookEventName": event.name}
    if answer.denial is not None:
        output |= {"permissionDecision": "deny", "permissionDecisionReason": answer.denial}
    if answer.arguments is not None:
        output["updatedInput"] = answer.arguments
    if answer.warning is not None:
        output["additionalContext"] = answer.warning
    return {"hookSpecificOutput": output}


def _as_codex(event: HookEvent, answer: Answer) -> Json | None:
    answered = _as_claude(event, answer)
    if answered is not None and answer.arguments is not None:
        # Without it Codex ignores the arguments.  Only our own tools get others.
        answered["hookSpecificOutput"]["permissionDecision"] = "allow"
    return answered


def _as_qwen(event: HookEvent, answer: Answer) -> Json | None:
    # It ignores other arguments, and what it is told before a tool does not reach the model.
    return None if answer.denial is None else _as_claude(event, Answer(denial=answer.denial))


def _as_gemini(event: HookEvent, answer: Answer) -> Json | None:
    if answer.denial is not None:
        return {"decision": "deny", "reason": answer.denial}
    answered: Json = {}
    if answer.arguments is not None:
        answered["hookSpecificOutput"] = {"hookEventName": event.name, "tool_input": answer.arguments}
    if answer.warning is not None:  # Its model sees none of it, its user does.
        answered["systemMessage"] = answer.warning
    return answered or None


def _as_opencode(event: HookEvent, answer: Answer) -> Json | None:
    # To our own plugin in the host.
    answered = {"deny": answer.denial, "args": answer.arguments, "warn": answer.warning}
    return {name: value for name, value in answered.items() if value is not None}


def _as_cursor(event: HookEvent, answer: Answer) -> Json | None:
    if answer.denial is not None:
        return {"permission": "deny", "user_message": answer.denial, "agent_message": answer.denial}
    return None


_MCP = "mcp__(plugin_claims_)?{server}__{tool}"

DIALECTS: Mapping[str, Dialect] = {
    "claude-code": Dialect(
        _CLAUDE_EVENTS,
        frozenset({"Edit", "MultiEdit", "Write", "NotebookEdit"}),
        frozenset({"Bash"}),
        _MCP,
        _as_claude,
    ),
    "codex": Dialect(
        _CLAUDE_EVENTS,
        frozenset(),
        frozenset({"Bash"}),
        _MCP,
        _as_codex,
        patch_tools=frozenset({"apply_patch"}),
    ),
    "gemini-cli": Dialect(
        {
            "BeforeTool": Kind.BEFORE_TOOL,
            "AfterTool": Kind.AFTER_TOOL,
            "BeforeAgent": Kind.ACTIVITY,
            "AfterAgent": Kind.TURN_END,
            "SessionStart": Kind.ACTIVITY,
            "SessionEnd": Kind.SESSION_END,
        },
        frozenset({"write_file", "replace"}),
        frozenset({"run_shell_command"}),
        "mcp_{server}_{tool}",
        _as_gemini,
    ),
    "qwen-code": Dialect(
        _CLAUDE_EVENTS,
        frozenset({"write_file", "edit", "notebook_edit"}),
        frozenset({"run_shell_command"}),
        _MCP,
        _as_qwen,
        changes_arguments=False,
    ),
    # Its events are those of Claude Code if they are spelt so; in any other spelling it names none of them in its input.
    "copilot-cli": Dialect(
        _CLAUDE_EVENTS,
        frozenset({"Write", "Edit"}),
        frozenset({"Bash"}),
        "{server}-{tool}",
        _as_claude,
    ),
    "opencode": Dialect(
        {
            "tool.execute.before": Kind.BEFORE_TOOL,
            "tool.execute.after": Kind.AFTER_TOOL,
            "chat.message": Kind.ACTIVITY,
            "session.created": Kind.ACTIVITY,
            "session.idle": Kind.TURN_END,
            "dispose": Kind.SESSION_END,
        },
        frozenset({"write", "edit", "multiedit"}),
        frozenset({"bash"}),
        "{server}_{tool}",
        _as_opencode,
        patch_tools=frozenset({"apply_patch", "patch"}),
        hands_to_all=True,
    ),
    "cursor": Dialect(
        {
            "preToolUse": Kind.BEFORE_TOOL,
            "postToolUse": Kind.AFTER_TOOL,
            "postToolUseFailure": Kind.AFTER_TOOL,
            "beforeSubmitPrompt": Kind.ACTIVITY,
            "sessionStart": Kind.ACTIVITY,
            "subagentStart": Kind.ACTIVITY,
            "stop": Kind.TURN_END,
            "subagentStop": Kind.AGENT_END,
            "sessionEnd": Kind.SESSION_END,
        },
        frozenset({"Write", "Edit", "Delete"}),
        frozenset({"Shell"}),
        "MCP:{tool}",  # Of any server: so no call gets other arguments, with which it would be permitted as well.
        _as_cursor,
        changes_arguments=False,
    ),
}
"""The hosts that have hooks, by the name that `install` takes."""

_SESSION_FIELDS = ("session_id", "conversation_id")
_AGENT_FIELDS = ("agent_id", "subagent_id")
_PARENT_FIELDS = ("parent_agent_id", "parent_session_id")


def read_event(host: str, data: Mapping[str, Any], default: str | None = None) -> HookEvent | None:
    """Return the event that *host* describes by *data*; without a name there it is the one that is called *default*.

    `None` for an event of no interest, such as one of a newer version.
    """
    name = _text(data, "hook_event_name") or default
    kind = DIALECTS[host].events.get(name or "")
    if name is None or kind is None:
        return None
    session, agent, parent = (_text(data, *fields) for fields in (_SESSION_FIELDS, _AGENT_FIELDS, _PARENT_FIELDS))
    if parent is not None:
        # Copilot and opencode give a sub-agent a session of its own, and name the one that started it.
        agent, session = agent or session, parent
    if kind in (Kind.TURN_END, Kind.SESSION_END) and agent is not None:
        kind = Kind.AGENT_END
    arguments = data.get("tool_input")
    roots = data.get("workspace_roots")
    return HookEvent(
        kind,
        name,
        session,
        agent,
        _text(data, "cwd") or (roots[0] if isinstance(roots, list) and roots and isinstance(roots[0], str) else None),
        _text(data, "tool_name") or "",
        arguments if isinstance(arguments, dict) else {},
        _text(data, "tool_use_id", "call_id", "tool_call_id"),
        _text(data, "reason"),
    )


def _text(data: Mapping[str, Any], *names: str) -> str | None:
    return next((data[name] for name in names if isinstance(data.get(name), str) and data[name]), None)
