"""TOML, edited in place: what is not ours keeps every byte."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from mcp_claims.hosts.format import Unfit


class TomlText:
    """TOML with a table for each server, as in `[mcp_servers.claims]`.

    A table is added at the end and removed as lines.  tomlkit does what is written in other ways (inline tables, dotted
    keys), but it takes comments that stand before the next table for ours, so it comes second.
    """

    fresh: ClassVar[dict[str, Any]] = {}

    def load(self, text: str) -> dict[str, Any]:
        """Return what *text* says.  Raises `Unfit` for what does not parse."""
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Unfit(f"is no valid TOML: {error}") from error
        except ValueError as error:  # A number with thousands of digits.
            raise Unfit(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise Unfit("is nested too deeply") from error

    def entries(self, tree: Any, place: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name."""
        for key in place:
            tree = tree.get(key, {})
            if not isinstance(tree, dict):
                raise Unfit(f"has something else than a table as {key!r}")
        return dict(tree)

    def put(self, text: str, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return *text* with a table of its own for the server *name*."""
        newline = "\r\n" if "\r\n" in text else "\n"
        if name in self.entries(self.load(text), place):
            return self._replaced(text, place, name, value, newline) or _by_tomlkit(text, place, name, value)
        table = self.show(place, name, value).replace("\n", newline)
        # A file that does not end in a line break does not do so afterwards: `drop` can tell then what was there.
        whole = not text or text.endswith("\n")
        after = text + ("" if not text else newline if whole else newline * 2) + (table if whole else table.rstrip())
        return after if _parses(after) else _by_tomlkit(text, place, name, value)

    def _replaced(self, text: str, place: Sequence[str], name: str, value: dict[str, Any], newline: str) -> str | None:
        """Return *text* with other lines in the table of *name*; `None` if it is no table with lines of its own."""
        lines = text.splitlines(keepends=True)
        tables = list(_tables(lines, [*place, name]))
        if not tables or not re.match(r"[^#]*" + re.escape(name) + r"[\"']?\s*\]", lines[tables[0][0]]):
            return None
        first, end = tables[0]
        below = {key for key, each in value.items() if isinstance(each, dict)} if len(tables) > 1 else set()
        shown = self.show(place, name, {key: each for key, each in value.items() if key not in below})
        table = [line + newline for line in shown.splitlines()[1:]]
        if not lines[end - 1].endswith("\n"):
            table[-1] = table[-1].rstrip()
        return "".join(lines[: first + 1] + table + lines[end:])

    def drop(self, text: str, place: Sequence[str], name: str) -> str:
        """Return *text* without the tables of the server *name*."""
        without = _without_tables(text, [*place, name])
        if _parses(without) and name not in self.entries(tomllib.loads(without), place):
            return without
        return _by_tomlkit(text, place, name, None)

    def show(self, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return the table as text."""
        lines = [f"{key} = {_spelt(each)}" for key, each in value.items()]
        return "\n".join([f"[{'.'.join([*place, name])}]", *lines, ""])


def _without_tables(text: str, path: Sequence[str]) -> str:
    """Return *text* without the tables at and below *path*, and without the empty line before each."""
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
    """Yield the first line of each table at or below *path* and the one after its last key."""
    keys = r"\s*\.\s*".join(rf"""["']?{re.escape(key)}["']?""" for key in path)
    ours = re.compile(rf"\s*\[\s*{keys}\s*(\.[^\]]*)?\]\s*(#.*)?$")

    def is_header(at: int) -> bool:
        # In a string or a list of several lines it only looks like one; what comes before does not parse then.
        return re.match(r"\s*\[", lines[at]) is not None and _parses("".join(lines[:at]))

    for first, line in enumerate(lines):
        if ours.match(line) and is_header(first):
            end = next((at for at in range(first + 1, len(lines)) if is_header(at)), len(lines))
            # Comments and empty lines after the last key are about what comes next.
            while end > first + 1 and re.match(r"\s*(#.*)?$", lines[end - 1]):
                end -= 1
            yield first, end


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _spelt(value: object) -> str:
    import tomlkit

    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()


def _by_tomlkit(text: str, place: Sequence[str], name: str, value: dict[str, Any] | None) -> str:
    """Do it with tomlkit.  Raises `Unfit` if it moves or drops lines that are not ours, as it can with tables apart."""
    import tomlkit

    document = tomlkit.parse(text)
    table: Any = document
    for key in place:
        table = table[key]
    if value is None:
        del table[name]
    elif name not in table:
        table[name] = tomlkit.inline_table()
        table[name].update(value)
    else:
        for key, each in value.items():
            if table[name].get(key) != each:
                table[name][key] = each
    after = tomlkit.dumps(document)
    theirs = [line for line in text.splitlines() if name not in line]
    if value is not None and all(character in rest for rest in [iter(after)] for character in text):
        return after
    if [line for line in after.splitlines() if line in set(theirs)] != theirs:
        raise Unfit("is written in a way that cannot be edited safely")
    return after
