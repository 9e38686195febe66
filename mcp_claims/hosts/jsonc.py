"""JSON, and JSON with comments and trailing commas, edited in place: what is not ours keeps every byte.

Libraries that keep comments write the whole file anew, or bind a parser of another language; so the text is cut here.
Comments and trailing commas are blanked out, which keeps all offsets, and the standard library's decoder, which says
where a value ends, walks what is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from mcp_claims.hosts.format import Unfit

_STRING = r'"(?:\\.|[^"\\\n])*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING = re.compile(rf"{_STRING}|,(?=\s*[}}\]])")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class JsonText:
    """JSON with *comments*, with *trailing* commas, with both or neither: as much as the host takes."""

    comments: bool = False
    trailing: bool = False
    fresh: ClassVar[dict[str, Any]] = {}

    def load(self, text: str) -> Any:
        """Return what *text* says; nothing at all counts as `{}`.  Raises `Unfit` for what the host cannot read."""
        plain = _Blanked(text, self).plain
        if not plain.strip():
            return {}
        try:
            tree = json.loads(plain, object_pairs_hook=_no_doubles, parse_constant=_no_constants)
        except json.JSONDecodeError as error:
            raise Unfit(f"is no valid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
        except ValueError as error:  # A number with thousands of digits.
            raise Unfit(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise Unfit("is nested too deeply") from error
        if not isinstance(tree, dict):
            raise Unfit("holds no JSON object")
        return tree

    def entries(self, tree: Any, place: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name."""
        for key in place:
            tree = tree.get(key, {})
            if not isinstance(tree, dict):
                raise Unfit(f"has something else than an object as {key!r}")
        return dict(tree)

    def put(self, text: str, place: Sequence[str], name: str, value: object) -> str:
        """Return *text* with *value* as member *name* of the object at *place*, which is made if it is not there."""
        cut = _Blanked(text, self)
        if not cut.plain.strip():
            return _whole(text, _nested([*place, name], value))
        start = cut.root()
        for depth, key in enumerate(place):
            member = cut.find(start, key)
            if member is None:
                return cut.insert(start, _nested([*place[depth + 1 :], name], value), key)
            start = member.value
        member = cut.find(start, name)
        if member is None:
            return cut.insert(start, value, name)
        spelt = _spelt(value, cut.unit(), cut.indentation(member.value), cut.newline)
        return text[: member.value] + spelt + text[member.end :]

    def drop(self, text: str, place: Sequence[str], name: str) -> str:
        """Return *text* without the member *name*, which is there, of the object at *place*."""
        cut = _Blanked(text, self)
        start = cut.at(place)
        return cut.remove(start, [member.key for member in cut.members(start)[0]].index(name))

    def append(self, text: str, place: Sequence[str], value: object) -> str:
        """Return *text* with *value* as the last element of the array at *place*, which is made if it is not there."""
        cut = _Blanked(text, self)
        found: Any = self.load(text)
        for key in place:
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, list):
            return self.put(text, place[:-1], place[-1], [value])
        return cut.insert(cut.at(place), value)

    def drop_element(self, text: str, place: Sequence[str], index: int) -> str:
        """Return *text* without the element *index*, which is there, of the array at *place*."""
        cut = _Blanked(text, self)
        return cut.remove(cut.at(place), index)

    def show(self, place: Sequence[str], name: str, value: object) -> str:
        """Return what to paste into an empty file."""
        return _whole("", _nested([*place, name], value))


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an object, or an element of an array (then *key* is `None`), as offsets."""

    key: str | None
    start: int
    value: int
    end: int


class _Blanked:
    """A text, and the same with comments and trailing commas replaced by as many spaces."""

    def __init__(self, text: str, form: JsonText) -> None:
        self.text, self.newline = text, "\r\n" if "\r\n" in text else "\n"
        self.trailing: set[int] = set()
        self.remarks: list[tuple[int, int]] = []
        self.plain = _COMMENT.sub(self._comment, text) if form.comments else text
        if form.trailing:
            self.plain = _TRAILING.sub(self._comma, self.plain)

    def _comment(self, match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        if match[0].startswith("//"):
            self.remarks.append(match.span())
        return re.sub(r"[^\r\n]", " ", match[0])

    def _comma(self, match: re.Match[str]) -> str:
        if match[0] != ",":
            return match[0]
        self.trailing.add(match.start())
        return " "

    def root(self) -> int:
        return self._skip(0)

    def at(self, place: Sequence[str]) -> int:
        """Return where the value at *place*, which is there, starts."""
        start = self.root()
        for key in place:
            member = self.find(start, key)
            assert member is not None, "its caller has looked"
            start = member.value
        return start

    def find(self, start: int, key: str) -> _Member | None:
        if self.plain[start] != "{":
            raise Unfit("has something else than an object where our entry belongs")
        return next((member for member in self.members(start)[0] if member.key == key), None)

    def members(self, start: int) -> tuple[list[_Member], int]:
        """Return what the object or array at *start* holds, and where its bracket closes."""
        keyed, found = self.plain[start] == "{", []
        position = self._skip(start + 1)
        while self.plain[position] not in "}]":
            key, value = None, position
            if keyed:
                key, colon = _DECODER.raw_decode(self.plain, position)
                value = self._skip(self._skip(colon) + 1)
            _, end = _DECODER.raw_decode(self.plain, value)
            found.append(_Member(key, position, value, end))
            position = self._skip(end)
            if self.plain[position] == ",":
                position = self._skip(position + 1)
        return found, position

    def insert(self, start: int, value: object, key: str | None = None) -> str:
        """Return the text with *value* as the last member of the object, or element of the array, at *start*."""
        text, (members, close) = self.text, self.members(start)
        named = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
        comma = self._trailing_comma(members, close)
        if members and "\n" not in text[start:close]:
            end = members[-1].end if comma is None else comma + 1
            piece = f", {named}{_compact(value)}" if comma is None else f" {named}{_compact(value)},"
            return text[:end] + piece + text[end:]
        base, unit = self.indentation(start), self.unit()
        child = self._alone_in_line(members[0].start) if members else None
        if child is None:
            child = base + unit
        # After the last comment too: it is about what stands before it.
        tail = len(text[:close].rstrip())
        piece = f"{self.newline}{child}{named}{_spelt(value, unit, child, self.newline)}"
        if comma is not None:
            piece += ","
        if not members and "\n" not in text[tail:close]:
            piece += self.newline + base
        last = members[-1].end if members and comma is None else tail
        return text[:last] + ("," if members and comma is None else "") + text[last:tail] + piece + text[tail:]

    def remove(self, start: int, index: int) -> str:
        """Return the text without member *index* of what is at *start*: what `insert` put there goes as it came."""
        text, (members, close) = self.text, self.members(start)
        member, last = members[index], index == len(members) - 1
        cut = len(text[: member.start].rstrip())
        comma = self._trailing_comma(members, close) if last else self.plain.index(",", member.end)
        end = member.end if comma is None else comma + 1
        follows = re.split(r"[\r\n]", text[end:], maxsplit=1)[0].strip() != ""
        rest = text[end:]
        if follows and (not last or any(first < cut <= end for first, end in self.remarks)):
            # What follows in the same line must not slide into a comment before it.
            cut, rest = member.start, rest.lstrip(" \t")
        head = text[:cut]
        if last and index and comma is None:
            between = self.plain.index(",", members[index - 1].end)
            head = text[:between] + text[between + 1 : cut]
        if len(members) == 1 and not text[start + 1 : cut].strip() and not text[end:close].strip():
            head, rest = text[: start + 1], text[close:]
        return head + rest

    def indentation(self, position: int) -> str:
        """Return the white space at the beginning of the line of *position*."""
        line = self.text[self.text.rfind("\n", 0, position) + 1 : position]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def unit(self) -> str:
        """Return by what the file indents: what stands before the first member of the whole."""
        members, _ = self.members(self.root())
        return (self._alone_in_line(members[0].start) if members else None) or "  "

    def _alone_in_line(self, position: int) -> str | None:
        line = self.text[self.text.rfind("\n", 0, position) + 1 : position]
        return line if "\n" in self.text[:position] and not line.strip(" \t") else None

    def _trailing_comma(self, members: list[_Member], close: int) -> int | None:
        return next((at for at in self.trailing if members and members[-1].end <= at < close), None)

    def _skip(self, position: int) -> int:
        found = _SPACE.match(self.plain, position)
        assert found is not None, "nothing is some white space too"
        return found.end()


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Unfit(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return found


def _no_constants(name: str) -> NoReturn:
    raise Unfit(f"is no valid JSON: it says {name}")


def _nested(path: Sequence[str], value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _spelt(value: object, unit: str, indentation: str, newline: str) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + indentation)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _whole(text: str, value: object) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline if text.strip() and not text.endswith("\n") else ""
    return text + gap + _spelt(value, "  ", "", newline) + newline
