"""What each host calls its events and tools, and where it keeps its hooks.

The documentation was read in November 2026; all but Cursor's was seen in runs of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mcp_claims.hosts.catalog import HOSTS, UserEnvironment, claude_settings
from mcp_claims.hosts.hooks import HostHooks, JsonHooks, PluginHooks
from mcp_claims.hosts.jsonc import JsonText


def _beside(host: str, *names: str) -> Callable[[UserEnvironment], Path]:
    """Return what returns the path of *names* in the directory of the file of *host*."""
    return lambda user: HOSTS[host].config_file(user).parent.joinpath(*names)


_JSON, _COMMENTS, _JSONC = JsonText(), JsonText(comments=True), JsonText(comments=True, trailing_commas=True)
_FAILS_OPEN = "A hook that fails lets the edit through there, even with --strict."

# https://developers.openai.com/codex/hooks: `apply_patch` is the only tool that edits.
CODEX = JsonHooks(
    _beside("codex", "hooks.json"),
    _JSON,
    ("apply_patch", "Bash"),
    "mcp__{server}__.*",
    after=("PostToolUse",),
    at_most={"SessionEnd": 3},  # It warns of more at each start.
    shell="cmd",
    limits=_FAILS_OPEN,
)

HOOKS: Mapping[str, HostHooks] = {
    # https://code.claude.com/docs/en/hooks
    "claude-code": JsonHooks(
        claude_settings,
        _JSON,
        ("Edit", "MultiEdit", "Write", "NotebookEdit", "Bash"),
        "mcp__{server}__.*",
        shell="none",
        when_strict={"onFailure": "block"},
    ),
    "codex": CODEX,
    # https://geminicli.com/docs/hooks
    "gemini-cli": JsonHooks(
        HOSTS["gemini-cli"].config_file,
        _COMMENTS,
        ("write_file", "replace", "run_shell_command"),
        "mcp_{server}_.*",
        before="BeforeTool",
        after=("AfterTool",),
        starts=("SessionStart", "BeforeAgent"),
        ends=("AfterAgent", "SessionEnd"),
        second=1000,
        shell="powershell",
        limits=f"It does not tell its sub-agents apart: all are one session. {_FAILS_OPEN}",
    ),
    # https://qwenlm.github.io/qwen-code-docs/en/users/features/hooks
    "qwen-code": JsonHooks(
        HOSTS["qwen-code"].config_file,
        _COMMENTS,
        ("write_file", "edit", "notebook_edit", "run_shell_command"),
        "mcp__{server}__.*",
        limits="Claims that its sub-agents make by tools are all one session's; headless, it reports no end of a session. "
        + _FAILS_OPEN,
    ),
    # https://docs.github.com/en/copilot/reference/copilot-cli-reference/cli-hooks-reference.  How an event is spelt selects
    # a dialect, and a hook for both runs twice.  Only in this one, Claude Code's, the input names its event, so that one
    # command serves all; a changed input needs no `allow` in either, which would approve the call for the person.
    "copilot-cli": JsonHooks(
        _beside("copilot-cli", "hooks", "mcp-claims.json"),
        _JSONC,
        ("Edit", "Write", "Bash"),
        "{server}-.*",
        denies_on_crash=True,
        skeleton={"version": 1},
        limits="A hook that takes more than 5 s lets the edit through there, even with --strict.",
    ),
    # https://opencode.ai/docs/plugins
    "opencode": PluginHooks(
        _beside("opencode", "plugins"),
        "opencode_plugin.js",
        limits="A session that is killed reports no end; its claims then end with its process.",
    ),
    # https://cursor.com/docs/hooks: the name of a tool does not have that of its server.
    "cursor": JsonHooks(
        _beside("cursor", "hooks.json"),
        _JSONC,
        ("Write", "Delete", "Shell"),
        "MCP:(try_claim|is_claimed_by_other|release|list_claims|open_session|prune)",
        before="preToolUse",
        after=("postToolUse", "postToolUseFailure"),
        starts=("sessionStart", "beforeSubmitPrompt"),
        ends=("stop", "subagentStop", "sessionEnd"),
        grouped=False,
        shell="powershell",
        when_strict={"failClosed": True},
        skeleton={"version": 1},
        limits="`agent -p` reports no end of a turn.",
    ),
}
"""The hooks of each host that has any, by its name."""
