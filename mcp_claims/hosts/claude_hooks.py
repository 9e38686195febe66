"""The hooks in Claude Code's user settings: the release at the end of a session, and the guard.

https://code.claude.com/docs/en/hooks: `hooks` has a list of groups for each event, and a group has a list of commands.
Each of our hooks has a group of its own, so that its removal leaves all others as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_claims.hosts.atomic_file import Change, Content, read, restore
from mcp_claims.hosts.catalog import UserEnvironment, claude_directory
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import UneditableTextError, naming_file
from mcp_claims.hosts.jsonc import JsonText

_FORMAT = JsonText()
_EDITING_TOOLS = "Edit|MultiEdit|Write|NotebookEdit|Bash"


@dataclass(frozen=True, slots=True)
class Hook:
    """One of our hooks.  *command* follows `mcp-claims hook`; *timeout* is in seconds."""

    event: str
    command: str
    timeout: int
    matcher: str | None = None

    def group(self, launch: Launch, platform: str) -> dict[str, Any]:
        """Return the group for the settings.  A shell runs its command, on Windows that of Git."""
        words = [launch.command.replace("\\", "/") if platform == "win32" else launch.command, *launch.arguments]
        command = {"type": "command", "command": shlex.join(words), "timeout": self.timeout}
        return {**({"matcher": self.matcher} if self.matcher else {}), "hooks": [command]}

    def runs_in(self, command: object) -> bool:
        """Return whether *command*, one of a group, runs this hook, with any interpreter."""
        line = command.get("command") if isinstance(command, dict) else None
        return isinstance(line, str) and f"-m mcp_claims hook {self.command}" in line


SESSION_END = Hook("SessionEnd", "session-end", 10)
GUARD = Hook("PreToolUse", "guard", 5, _EDITING_TOOLS)


def install_hooks(user: UserEnvironment, hooks: Sequence[tuple[Hook, Launch]]) -> Change:
    """Return the change that makes Claude Code run each hook with its command.

    It replaces a hook that runs another command, such as the interpreter of an older environment.  Raises
    `HostFileUneditableError` for settings that cannot be edited safely.
    """
    content = read(_settings(user))
    text = content.text()
    with naming_file(content.path):
        for hook, launch in hooks:
            group = hook.group(launch, user.platform)
            if [group] != [existing for _, existing in _groups_with(hook, _FORMAT.parse(text))]:
                text = _add(_remove(text, hook), hook, group)
    return _change(content, text)


def uninstall_hooks(user: UserEnvironment) -> Change:
    """Return the change that removes our hooks from the settings, or restores the backup if nothing else has changed.

    Raises as `install_hooks`.
    """
    content = read(_settings(user))
    text = content.text()
    with naming_file(content.path):
        tree = _FORMAT.parse(text)
        found = [(hook, group) for hook in (SESSION_END, GUARD) for _, group in _groups_with(hook, tree)]
        if not found:
            return Change(content, content.data)

        def reinstall(before: Content) -> bytes:
            edited = before.text()
            for hook, group in found:
                edited = _add(edited, hook, group)
            return before.encode(edited)

        restored = restore(content, reinstall)
        if restored is not None:
            return restored
        for hook in (SESSION_END, GUARD):
            text = _remove(text, hook)
    return _change(content, text)


def _settings(user: UserEnvironment) -> Path:
    return claude_directory(user) / "settings.json"


def _change(content: Content, text: str) -> Change:
    return Change(content, content.data if text == content.text() else content.encode(text))


def _add(text: str, hook: Hook, group: dict[str, Any]) -> str:
    after = _FORMAT.append(text, ("hooks", hook.event), group)
    expected = _FORMAT.parse(text)
    expected.setdefault("hooks", {}).setdefault(hook.event, []).append(group)
    return _checked(after, expected)


def _remove(text: str, hook: Hook) -> str:
    """Return *text* without *hook*, and without the lists and objects that are empty then."""
    while found := next(_groups_with(hook, _FORMAT.parse(text)), None):
        index, group = found
        if not all(hook.runs_in(command) for command in group["hooks"]):
            raise UneditableTextError(f"has our {hook.event} hook in one group with others; remove it by hand")
        tree = _FORMAT.parse(text)
        groups = tree["hooks"][hook.event]
        del groups[index]
        if groups:
            after = _FORMAT.remove_element(text, ("hooks", hook.event), index)
        elif len(tree["hooks"]) > 1:
            del tree["hooks"][hook.event]
            after = _FORMAT.remove(text, ("hooks",), hook.event)
        else:
            del tree["hooks"]
            after = _FORMAT.remove(text, (), "hooks")
        text = _checked(after, tree)
    return text


def _checked(after: str, expected: object) -> str:
    if _FORMAT.parse(after) != expected:
        raise UneditableTextError("is written in a way that cannot be edited safely")
    return after


def _groups_with(hook: Hook, tree: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the groups that run *hook*, with their positions in the list.

    Raises `UneditableTextError` for settings of another form.
    """
    groups = tree.get("hooks", {})
    groups = groups.get(hook.event, []) if isinstance(groups, dict) else None
    if not isinstance(groups, list):
        raise UneditableTextError(f"has something else than a list of {hook.event} hooks")
    for index, group in enumerate(groups):
        commands = group.get("hooks") if isinstance(group, dict) else None
        if isinstance(commands, list) and any(hook.runs_in(command) for command in commands):
            yield index, group
