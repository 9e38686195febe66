"""Edits TOML in place: everything else keeps every byte."""

from __future__ import annotations

import functools
import operator
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tomlkit

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import list_edits


class TomlText:
    """TOML with a table for each server, as in `[mcp_servers.claims]`.

    A table is added at the end of the file and removed as lines.  tomlkit edits servers that are written otherwise (inline
    tables, dotted keys); it is the second choice, since it moves comments that stand before the next table.
    """

    skeleton: ClassVar[dict[str, Any]] = {}

    def parse(self, text: str) -> dict[str, Any]:
        """Return the document in *text*.  Raises `UneditableTextError` if it does not parse."""
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UneditableTextError(f"is not valid TOML: {error}") from error
        except ValueError as error:  # A number with thousands of digits.
            raise UneditableTextError(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise UneditableTextError("is nested too deeply") from error

    def servers(self, tree: Any, key_path: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name."""
        for key in key_path:
            tree = tree.get(key, {})
            if not isinstance(tree, dict):
                raise UneditableTextError(f"has {key!r}, which is not a table")
        return dict(tree)

    def put(self, text: str, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return *text* with *entry* as the table of the server *name*."""
        newline = "\r\n" if "\r\n" in text else "\n"
        for field in [key for key in self.servers(self.parse(text), key_path).get(name, {}) if key not in entry]:
            text = _without_tables(text, [*key_path, name, field])
        if name in self.servers(self.parse(text), key_path):
            replaced = self._replace_table(text, [*key_path, name], entry, newline)
            return _edit_with_tomlkit(text, key_path, name, entry) if replaced is None else replaced
        table = self.snippet(key_path, name, entry).replace("\n", newline)
        # A file that lacks a final line break goes without one, so that `remove` restores it to the byte.
        whole = not text or text.endswith("\n")
        after = text + ("" if not text else newline if whole else newline * 2) + (table if whole else table.rstrip())
        return after if _parses(after) else _edit_with_tomlkit(text, key_path, name, entry)

    def _replace_table(self, text: str, path: Sequence[str], entry: dict[str, Any], newline: str) -> str | None:
        """Return *text* with the values of *entry* that differ written into the table at *path*.

        Returns `None` if the table has no lines of its own, such as an inline table.
        """
        lines = text.splitlines(keepends=True)
        tables = list(_tables(lines, path))
        if not tables or not re.match(r"[^#]*" + re.escape(path[-1]) + r"[\"']?\s*\]", lines[tables[0][0]]):
            return None
        first, end = tables[0]
        whole = lines[end - 1].endswith("\n")
        # By itself: tomlkit would move comments that stand before the next table.
        document: Any = tomlkit.parse("".join(lines[first:end]) + ("" if whole else newline))
        _merge(functools.reduce(operator.getitem, path, document), entry)
        table = re.sub(r"\r?\n", newline, tomlkit.dumps(document))
        return "".join([*lines[:first], table if whole else table.removesuffix(newline), *lines[end:]])

    def remove(self, text: str, key_path: Sequence[str], name: str) -> str:
        """Return *text* without the tables of the server *name*, which it has."""
        without = _without_tables(text, [*key_path, name])
        if _parses(without) and name not in self.servers(tomllib.loads(without), key_path):
            return without
        return _edit_with_tomlkit(text, key_path, name, None)

    def snippet(self, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return the table of the server *name*, for pasting."""
        lines = [f"{key} = {_to_toml(each)}" for key, each in entry.items()]
        return "\n".join([f"[{'.'.join([*key_path, name])}]", *lines, ""])


def _without_tables(text: str, path: Sequence[str]) -> str:
    """Return *text* without the tables at and below *path*, and without the empty line before each of them."""
    lines = text.splitlines(keepends=True)
    for first, end in reversed(list(_tables(lines, path))):
        before = lines[:first]
        if before and not before[-1].strip():
            before.pop()
        if before and end == len(lines) and not lines[-1].endswith("\n"):
            before[-1] = before[-1].rstrip("\r\n")
        lines = before + lines[end:]
    return "".join(lines)


def _tables(lines: Sequence[str], path: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the header line of each table at or below *path*, and of the line after its last key."""
    keys = r"\s*\.\s*".join(rf"""["']?{re.escape(key)}["']?""" for key in path)
    header = re.compile(rf"\s*\[\s*{keys}\s*(\.[^\]]*)?\]\s*(#.*)?$")

    def is_header(at: int) -> bool:
        # Inside a string or array of several lines it only looks like a header; the lines before do not parse then.
        return re.match(r"\s*\[", lines[at]) is not None and _parses("".join(lines[:at]))

    for first, line in enumerate(lines):
        if header.match(line) and is_header(first):
            end = next((at for at in range(first + 1, len(lines)) if is_header(at)), len(lines))
            # Comments and empty lines after the last key belong to the next table.
            while end > first + 1 and re.match(r"\s*(#.*)?$", lines[end - 1]):
                end -= 1
            yield first, end


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _to_toml(value: object) -> str:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()


def _merge(table: Any, entry: dict[str, Any]) -> None:
    """Write the values of *entry* that differ into *table*; comments stay, also those of values that change.

    What *entry* lacks goes.
    """
    for key, value in entry.items():
        old = table.get(key)
        if isinstance(old, list) and isinstance(value, list):
            for edit, index, each in list_edits(old, value):
                if edit == "set":
                    old[index] = each
                elif edit == "insert":
                    old.insert(index, each)
                else:
                    del old[index]
        # A table in this one may have lines of its own, which are not among those of *table*.
        elif not isinstance(value, dict) and (old != value or isinstance(old, bool) != isinstance(value, bool)):
            table[key] = value
    for key in reversed([key for key in table if key not in entry]):
        try:
            del table[key]
        except LookupError as error:  # tomlkit loses count of tables that stand apart.
            raise UneditableTextError("is written in a way that cannot be edited safely") from error


def _edit_with_tomlkit(text: str, key_path: Sequence[str], name: str, entry: dict[str, Any] | None) -> str:
    """Return *text* with *entry* as the server *name*, or without that server if *entry* is `None`.

    Raises `UneditableTextError` if tomlkit moves or loses other lines, as it does with tables that stand apart.
    """
    document = tomlkit.parse(text)
    table: Any = document
    for key in key_path:
        table = table[key]
    if entry is None:
        del table[name]
    elif name not in table:
        table[name] = tomlkit.inline_table()
        table[name].update(entry)
    else:
        _merge(table[name], entry)
    after = tomlkit.dumps(document)
    rest = iter(after)
    if entry is not None and all(character in rest for character in text):
        return after  # Only added to.
    others = [line for line in text.splitlines() if name not in line]
    if [line for line in after.splitlines() if line in set(others)] != others:
        raise UneditableTextError("is written in a way that cannot be edited safely")
    return after
