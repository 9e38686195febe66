"""What is ours in a host's file, and how it comes and goes: the entry of the server, hooks, a permission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import Format, put_server, remove_server
from mcp_claims.hosts.jsonc import JsonText


class Part(Protocol):
    """A part of a file that is ours.  Every method raises `UneditableTextError` for a text that cannot be edited safely."""

    def put(self, text: str) -> str:
        """Return *text* with this part; a text that has it is returned as it is."""
        ...

    def found_in(self, text: str) -> Self | None:
        """Return this part as *text* has it, perhaps with other values; `None` if it is not there."""
        ...

    def remove(self, text: str) -> str:
        """Return *text* without this part, which it has."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, by its name.  *merged* returns its value in place of another, `None` if there is none."""

    form: Format
    key_path: tuple[str, ...]
    name: str
    merged: Callable[[Any], Any]

    def put(self, text: str) -> str:
        """Return *text* with this member."""
        existing = self.form.servers(self.form.parse(text), self.key_path).get(self.name)
        value = self.merged(existing)
        return text if value == existing else put_server(self.form, text, self.key_path, self.name, value)

    def found_in(self, text: str) -> Self | None:
        """Return this member as *text* has it."""
        tree = self.form.parse(text)
        try:
            existing = self.form.servers(tree, self.key_path).get(self.name)
        except UneditableTextError:  # Another form, such as opencode's permission for all tools in one word.
            return None
        return None if existing is None else replace(self, merged=lambda _: existing)

    def remove(self, text: str) -> str:
        """Return *text* without this member."""
        return remove_server(self.form, text, self.key_path, self.name)


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of a list in JSON.  *is_ours* recognizes them, those of another version too."""

    form: JsonText
    path: tuple[str, ...]
    values: Sequence[Any]
    is_ours: Callable[[Any], bool]

    def put(self, text: str) -> str:
        """Return *text* with these elements in place of those that an earlier install wrote."""
        found = self._in(text)
        if found is None:
            raise UneditableTextError(f"has {'.'.join(self.path)!r}, which is not a list")
        if [value for _, value in found] == list(self.values):
            return text
        text = self.remove(text)
        for value in self.values:
            expected = self.form.parse(text)
            parent = expected
            for key in self.path[:-1]:
                parent = parent.setdefault(key, {})
            parent.setdefault(self.path[-1], []).append(value)
            text = self._checked(self.form.append(text, self.path, value), expected)
        return text

    def found_in(self, text: str) -> Self | None:
        """Return these elements as *text* has them."""
        found = [value for _, value in self._in(text) or []]
        return replace(self, values=found) if found else None

    def remove(self, text: str) -> str:
        """Return *text* without our elements, and without the list and the objects that are empty then."""
        while found := self._in(text):
            index, tree = found[0][0], self.form.parse(text)
            nodes = [tree]
            for key in self.path:
                nodes.append(nodes[-1][key])
            depth = len(self.path)
            if len(nodes[depth]) > 1:
                del nodes[depth][index]
                after = self.form.remove_element(text, self.path, index)
            else:
                depth -= 1
                while depth and len(nodes[depth]) == 1:
                    depth -= 1
                del nodes[depth][self.path[depth]]
                after = self.form.remove(text, self.path[:depth], self.path[depth])
            text = self._checked(after, tree)
        return text

    def _in(self, text: str) -> list[tuple[int, Any]] | None:
        """Return our elements in *text*, with their positions in the list; `None` if something else stands there."""
        node = self.form.parse(text)
        for key in self.path:
            node = node.get(key, [] if key == self.path[-1] else {}) if isinstance(node, dict) else None
        if not isinstance(node, list):
            return None
        return [(index, value) for index, value in enumerate(node) if self.is_ours(value)]

    def _checked(self, after: str, expected: object) -> str:
        if self.form.parse(after) != expected:
            raise UneditableTextError("is written in a way that cannot be edited safely")
        return after


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file that is ours alone.  Files of other versions have *mark*, too."""

    text: str
    mark: str

    def put(self, text: str) -> str:
        """Return the text of the file, in place of another version's."""
        if text.strip() and self.mark not in text:
            raise UneditableTextError("is not ours")
        return self.text

    def found_in(self, text: str) -> Self | None:
        """Return the file with *text*, if that is ours."""
        return replace(self, text=text) if self.mark in text else None

    def remove(self, text: str) -> str:
        """Return nothing."""
        return ""
