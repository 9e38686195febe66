"""The hooks in Claude Code's user settings: what ends with a session, and the guard.

https://code.claude.com/docs/en/hooks: `hooks` has a list of groups for each event, and a group a list of commands.  A group
of ours has our command alone, so that taking it out leaves the others as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_claims.hosts.atomic_file import Change, Content, backup_of, read
from mcp_claims.hosts.catalog import Surroundings, claude_directory
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import HostFileUnfitError
from mcp_claims.hosts.format import Unfit
from mcp_claims.hosts.jsonc import JsonText

_FORMAT = JsonText()
_EDITS = "Edit|MultiEdit|Write|NotebookEdit|Bash"


@dataclass(frozen=True, slots=True)
class Hook:
    """One of our hooks: *program* is what comes after `mcp-claims hook`, *seconds* how long it may take."""

    event: str
    program: str
    seconds: int
    matcher: str | None = None

    def group(self, launch: Launch, platform: str) -> dict[str, Any]:
        """Return what Claude Code is told; a shell runs it, on Windows the one of Git."""
        words = [launch.command.replace("\\", "/") if platform == "win32" else launch.command, *launch.arguments]
        command = {"type": "command", "command": shlex.join(words), "timeout": self.seconds}
        return {**({"matcher": self.matcher} if self.matcher else {}), "hooks": [command]}

    def is_in(self, command: object) -> bool:
        """Return whether *command*, one of a group's, is this hook, whoever's interpreter it names."""
        said = command.get("command") if isinstance(command, dict) else None
        return isinstance(said, str) and f"-m mcp_claims hook {self.program}" in said


SESSION_END = Hook("SessionEnd", "session-end", 10)
GUARD = Hook("PreToolUse", "guard", 5, _EDITS)


def install_hooks(where: Surroundings, hooks: Sequence[tuple[Hook, Launch]]) -> Change:
    """Return the change that makes Claude Code run *hooks*, each with its command.

    A hook that is there and runs something else, such as the interpreter of an older environment, is replaced.
    Raises `HostFileUnfitError` for settings that cannot be edited safely.
    """
    content = read(claude_directory(where) / "settings.json")
    text = before = content.text()
    try:
        for hook, launch in hooks:
            group = hook.group(launch, where.platform)
            if [group] != [found for _, found in _ours(_FORMAT.load(text), hook)]:
                text = _appended(_without(text, hook), hook, group)
    except Unfit as error:
        raise HostFileUnfitError(content.path, str(error)) from error
    return Change(content, content.data if text == before else content.encoded(text))


def uninstall_hooks(where: Surroundings) -> Change:
    """Return the change that takes our hooks out of the settings, back to the copy beside them where that fits.

    Raises as `install_hooks`.
    """
    content = read(claude_directory(where) / "settings.json")
    text = before = content.text()
    try:
        tree = _FORMAT.load(text)
        found = [(hook, group) for hook in (SESSION_END, GUARD) for _, group in _ours(tree, hook)]
        if not found:
            return Change(content, content.data)
        for copy in dict.fromkeys((read(backup_of(content.path)).data, None)):
            if _again(Content(content.path, copy), found) == content.data:
                return Change(content, copy)
        for hook in (SESSION_END, GUARD):
            text = _without(text, hook)
    except Unfit as error:
        raise HostFileUnfitError(content.path, str(error)) from error
    return Change(content, content.data if text == before else content.encoded(text))


def _again(content: Content, found: Sequence[tuple[Hook, dict[str, Any]]]) -> bytes | None:
    """Return what `install_hooks` makes of *content*, or `None` where it refuses to."""
    try:
        text = content.text()
        for hook, group in found:
            text = _appended(text, hook, group)
        return content.encoded(text)
    except (Unfit, HostFileUnfitError):
        return None


def _appended(text: str, hook: Hook, group: dict[str, Any]) -> str:
    after = _FORMAT.append(text, ("hooks", hook.event), group)
    expected = _FORMAT.load(text)
    expected.setdefault("hooks", {}).setdefault(hook.event, []).append(group)
    return _compared(after, expected)


def _without(text: str, hook: Hook) -> str:
    """Return *text* without *hook*, and without lists and objects that are empty then."""
    place = ("hooks", hook.event)
    while found := next(_ours(_FORMAT.load(text), hook), None):
        index, group = found
        tree = _FORMAT.load(text)
        groups = tree["hooks"][hook.event]
        if any(not hook.is_in(command) for command in group["hooks"]):
            raise Unfit(f"has our {hook.event} hook in one group with others; take it out by hand")
        del groups[index]
        if groups:
            after = _FORMAT.drop_element(text, place, index)
        elif len(tree["hooks"]) > 1:
            del tree["hooks"][hook.event]
            after = _FORMAT.drop(text, place[:1], hook.event)
        else:
            del tree["hooks"]
            after = _FORMAT.drop(text, (), "hooks")
        text = _compared(after, tree)
    return text


def _compared(after: str, expected: object) -> str:
    if _FORMAT.load(after) != expected:
        raise Unfit("is written in a way that cannot be edited safely")
    return after


def _ours(tree: Any, hook: Hook) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the groups that have *hook* in them, with their positions.  Raises `Unfit` for settings of another form."""
    groups = tree.get("hooks", {})
    groups = groups.get(hook.event, []) if isinstance(groups, dict) else None
    if not isinstance(groups, list):
        raise Unfit(f"has something else than lists of {hook.event} hooks")
    for index, group in enumerate(groups):
        commands = group.get("hooks") if isinstance(group, dict) else None
        if isinstance(commands, list) and any(hook.is_in(command) for command in commands):
            yield index, group
