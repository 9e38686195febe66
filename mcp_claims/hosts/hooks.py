"""The hooks that run `mcp-claims hook guard` at a host's events: where each host keeps them, and in which form.

All hosts but opencode have lists in JSON, `JsonHooks`; opencode loads a file of code, `PluginHooks`.  What each calls its
events and tools is data, in `hook_catalog`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, Protocol, Self

from mcp_claims.hosts.catalog import UserEnvironment
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.jsonc import JsonText
from mcp_claims.hosts.parts import Elements, Part, WholeFile

MODES = ("claim", "deny", "require", "off")
"""What a guard does about edits: `off` is nothing."""

DEFAULT_MODE, DEFAULT_SERVER, OFF = "claim", "claims", "off"
_PROGRAMS = ("mcp-claims", "mcp_claims")


@dataclass(frozen=True, slots=True)
class Hook:
    """Our hook: the command line *words*, and what its options say.

    One that an older version wrote has no *server*, and belongs to all servers.
    """

    words: tuple[str, ...]
    mode: str
    strict: bool
    server: str | None

    @classmethod
    def of(cls, host: str, launch: Launch, server: str, mode: str, strict: bool, store: Sequence[str]) -> Self:
        """Return the hook of *host* that guards with the claims in *store*; *launch* runs `mcp-claims`."""
        options = [
            *("--host", host),
            *(["--mode", mode] if mode != DEFAULT_MODE else []),
            *(["--strict"] if strict else []),
            *(["--server", server] if server != DEFAULT_SERVER else []),
        ]
        return cls((launch.command, *launch.arguments, "hook", "guard", *options, *store), mode, strict, server)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self | None:
        """Return the hook that *words* run, with any interpreter; `None` if they run something else."""
        for at, word in enumerate(words[2:], 2):
            program = PureWindowsPath(words[at - 2]).stem  # Takes both kinds of slashes.
            if program in _PROGRAMS and words[at - 1] == "hook" and word in ("guard", "session-end"):
                break
        else:
            return None
        options = words[at + 1 :]

        def value(option: str, default: str) -> str:
            return next((after for each, after in pairwise(options) if each == option), default)

        if "--host" in options:
            mode, server = value("--mode", DEFAULT_MODE), value("--server", DEFAULT_SERVER)
            return cls(tuple(words), mode, "--strict" in options, server)
        # The guard of an older version only denied.
        return cls(tuple(words), "deny" if word == "guard" else OFF, "--strict" in options, None)


class HostHooks(Protocol):
    """How a host keeps hooks."""

    @property
    def limits(self) -> str | None:
        """What the guard cannot do there, in a sentence."""
        ...

    def file(self, user: UserEnvironment, server: str) -> Path:
        """Return the file of the hooks for *server*."""
        ...

    def part(self, user: UserEnvironment, server: str, hook: Hook | None) -> Part:
        """Return our part of the file, which runs *hook*; without one it can only be found and removed."""
        ...

    def installed(self, user: UserEnvironment, server: str, text: str) -> list[Hook]:
        """Return what our hooks for *server* in *text* run, each once."""
        ...


@dataclass(frozen=True, slots=True)
class JsonHooks:
    """Hooks in a JSON file: a list for each event, with a pattern for the names of tools.

    Each of our hooks has an element of its own, so that its removal leaves all others as they are.
    """

    path: Callable[[UserEnvironment], Path]
    form: JsonText
    editing: Sequence[str]
    """The tools that edit files or run commands."""
    own: str
    """A pattern for the tools of the server {server}."""
    before: str = "PreToolUse"
    after: Sequence[str] = ("PostToolUse", "PostToolUseFailure")
    starts: Sequence[str] = ("SessionStart", "UserPromptSubmit")
    ends: Sequence[str] = ("Stop", "SubagentStop", "SessionEnd")
    """The ends of a turn, of a sub-agent and of a session, as far as the host has them."""
    at_most: Mapping[str, int] = field(default_factory=dict)
    """The longest time-outs that the host allows, in seconds."""
    second: int = 1
    """A second in the host's unit of time-outs."""
    grouped: bool = True
    """Whether an element has a list of commands, with one pattern for all."""
    shell: Literal["none", "bash", "cmd", "powershell"] = "bash"
    """What runs the command on Windows; elsewhere it is `sh`.  With none, here and there, its words are a list."""
    denies_on_crash: bool = False
    """Whether the host denies the call when the hook itself fails, so that one that is not strict must not."""
    when_strict: Mapping[str, object] = field(default_factory=dict)
    """Fields that deny the call when the hook itself fails."""
    skeleton: Mapping[str, object] = field(default_factory=dict)
    """What else a new file needs."""
    limits: str | None = None

    @property
    def events(self) -> tuple[str, ...]:
        """All events that a guard has hooks for."""
        return (self.before, *self.after, *self.starts, *self.ends)

    def file(self, user: UserEnvironment, server: str) -> Path:
        """Return the file of the hooks, one for all servers."""
        return self.path(user)

    def part(self, user: UserEnvironment, server: str, hook: Hook | None) -> Part:
        """Return our elements of the lists."""
        is_ours = partial(self._is_ours, user.platform, server)
        return _HookLists(
            self.form,
            self.skeleton,
            [
                Elements(self.form, ("hooks", event), self._elements(event, user.platform, server, hook), is_ours)
                for event in self.events
            ],
        )

    def installed(self, user: UserEnvironment, server: str, text: str) -> list[Hook]:
        """Return what our elements of the lists run."""
        commands = [each for _, _, element in self.places(user, server, text) for each in self._commands(element)]
        return list(dict.fromkeys(hook for each in commands if (hook := self._parse(user.platform, each)) is not None))

    def places(self, user: UserEnvironment, server: str, text: str) -> list[tuple[str, int, dict[str, Any]]]:
        """Return our elements of the lists in *text*: the event, the index, and the element."""
        tree = self.form.parse(text).get("hooks")
        lists = [(event, tree.get(event) if isinstance(tree, dict) else None) for event in self.events]
        return [
            (event, index, element)
            for event, elements in lists
            if isinstance(elements, list)
            for index, element in enumerate(elements)
            if self._is_ours(user.platform, server, element)
        ]

    def _elements(self, event: str, platform: str, server: str, hook: Hook | None) -> list[dict[str, Any]]:
        if hook is None or (hook.mode == OFF and event in self.after):
            return []
        command: dict[str, Any] = {"type": "command"} if self.grouped else {}
        if self.shell == "none":
            command |= {"command": hook.words[0], "args": list(hook.words[1:])}
        else:
            line = _command_line(hook.words, self.shell if platform == "win32" else "sh")
            command["command"] = f"{line}{_FORGIVING}" if self.denies_on_crash and not hook.strict else line
        seconds = _SECONDS_FOR_AN_END if event in self.ends else _SECONDS
        command["timeout"] = min(seconds, self.at_most.get(event, seconds)) * self.second
        if hook.strict and event == self.before:
            command |= self.when_strict
        tools = [*(self.editing if hook.mode != OFF else ()), self.own.replace("{server}", server)]
        if event in self.after:
            tools = list(self.editing)
        matcher = {"matcher": f"^({'|'.join(tools)})$"} if event in (self.before, *self.after) else {}
        return [{**matcher, "hooks": [command]} if self.grouped else {**matcher, **command}]

    def _commands(self, element: object) -> Sequence[object]:
        commands = element.get("hooks") if self.grouped and isinstance(element, dict) else [element]
        return commands if isinstance(commands, list) else []

    def _is_ours(self, platform: str, server: str, element: object) -> bool:
        """Return whether *element* runs our hook for *server*.

        Raises `UneditableTextError` if it runs others too.
        """
        hooks = [self._parse(platform, command) for command in self._commands(element)]
        ours = [hook is not None and hook.server in (server, None) for hook in hooks]
        if any(ours) and not all(ours):
            raise UneditableTextError("has our hook in one group with others; remove it by hand")
        return any(ours)

    def _parse(self, platform: str, command: object) -> Hook | None:
        line = command.get("command") if isinstance(command, dict) else None
        if not isinstance(command, dict) or not isinstance(line, str):
            return None
        arguments = command.get("args")
        if isinstance(arguments, list):
            return Hook.parse([line, *map(str, arguments)])
        return Hook.parse(_split(line, platform))


@dataclass(frozen=True, slots=True)
class PluginHooks:
    """Hooks in a file of code that the host loads, whose first setting is the command."""

    directory: Callable[[UserEnvironment], Path]
    template: str
    limits: str | None = None

    def file(self, user: UserEnvironment, server: str) -> Path:
        """Return the file of the hooks for *server*."""
        name = "mcp-claims" if server == DEFAULT_SERVER else f"mcp-claims-{server}"
        return self.directory(user) / f"{name}{Path(self.template).suffix}"

    def part(self, user: UserEnvironment, server: str, hook: Hook | None) -> Part:
        """Return the whole file."""
        settings: dict[str, object] = {}
        if hook is not None:
            edits = hook.mode != OFF
            settings = {"command": list(hook.words), "server": server, "edits": edits, "strict": hook.strict}
        code = files("mcp_claims.hosts").joinpath(self.template).read_text(encoding="utf-8")
        return WholeFile(code.replace(_NO_SETTINGS, f"{_SETTINGS}{json.dumps(settings)}", 1), _SETTINGS)

    def installed(self, user: UserEnvironment, server: str, text: str) -> list[Hook]:
        """Return what the file runs."""
        line = re.search(rf"^{_SETTINGS}(\{{.*\}})$", text, re.MULTILINE)
        try:
            command = json.loads(line[1])["command"] if line else []
            hook = Hook.parse([str(word) for word in command])
        except (ValueError, KeyError, TypeError):
            return []
        return [] if hook is None else [hook]


@dataclass(frozen=True, slots=True)
class _HookLists:
    """Our elements of the *lists* of a file, in a file that has *skeleton* too."""

    form: JsonText
    skeleton: Mapping[str, object]
    lists: Sequence[Elements]

    def put(self, text: str) -> str:
        """Return *text* with these elements."""
        tree = self.form.parse(text)
        for key, value in self.skeleton.items():
            if key not in tree:
                text = self.form.put(text, (), key, value)
        for each in self.lists:
            text = each.put(text)
        return text

    def found_in(self, text: str) -> Self | None:
        """Return the elements as *text* has them, in its order, so that putting them anew gives the same text."""
        found = [there for each in self.lists if (there := each.found_in(text)) is not None]
        order = list(self.form.parse(text)["hooks"]) if found else []
        return replace(self, lists=sorted(found, key=lambda each: order.index(each.path[-1]))) if found else None

    def remove(self, text: str) -> str:
        """Return *text* without these elements."""
        for each in self.lists:
            text = each.remove(text)
        return text


_SECONDS, _SECONDS_FOR_AN_END = 5, 10
_FORGIVING = "; exit 0"
_SETTINGS = "const SETTINGS = "
_NO_SETTINGS = f"{_SETTINGS}{{}}"


def _command_line(words: Sequence[str], shell: str) -> str:
    """Return *words* as a line for *shell*."""
    if shell == "cmd":
        return " ".join(word if re.fullmatch(r"[\w.:/\\=-]+", word) else f'"{word}"' for word in words)
    if shell == "powershell":
        return "& " + " ".join("'" + word.replace("'", "''") + "'" for word in words)
    return shlex.join([words[0].replace("\\", "/") if shell == "bash" else words[0], *words[1:]])


def _split(line: str, platform: str) -> list[str]:
    """Return the words of our command in *line*; quotes around words go, and on Windows backslashes are no escapes."""
    line = line.removesuffix(_FORGIVING)
    try:
        if platform == "win32":
            return [word.strip("'\"") for word in shlex.split(line.removeprefix("& "), posix=False)]
        return shlex.split(line)
    except ValueError:  # Quotes that do not end.
        return line.split()
