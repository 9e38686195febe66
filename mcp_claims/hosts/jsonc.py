"""Edits JSON, with or without comments and trailing commas, in place: everything else keeps every byte.

Libraries that keep comments rewrite the whole file or bind a parser of another language.  So this module blanks out
comments and trailing commas, which keeps all offsets, walks the rest with the decoder of the standard library, which
returns where a value ends, and cuts the text there.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import list_edits

_STRING = r'"(?:\\.|[^"\\\n])*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"{_STRING}|,(?=\s*[}}\]])")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class JsonText:
    """JSON as one host accepts it: with *comments*, *trailing_commas*, both or neither."""

    comments: bool = False
    trailing_commas: bool = False
    skeleton: ClassVar[dict[str, Any]] = {}

    def parse(self, text: str) -> Any:
        """Return the object in *text*; an empty text is `{}`.  Raises `UneditableTextError` if the host cannot read it."""
        plain = _Blanked(text, self).plain
        if not plain.strip():
            return {}
        try:
            tree = json.loads(plain, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise UneditableTextError(
                f"is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
            ) from error
        except ValueError as error:  # A number with thousands of digits.
            raise UneditableTextError(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise UneditableTextError("is nested too deeply") from error
        if not isinstance(tree, dict):
            raise UneditableTextError("is not a JSON object")
        return tree

    def servers(self, tree: Any, key_path: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name."""
        for key in key_path:
            tree = tree.get(key, {})
            if not isinstance(tree, dict):
                raise UneditableTextError(f"has {key!r}, which is not an object")
        return dict(tree)

    def put(self, text: str, key_path: Sequence[str], name: str, entry: object) -> str:
        """Return *text* with *entry* as member *name* of the object at *key_path*, which is made if it is missing."""
        cut = _Blanked(text, self)
        if not cut.plain.strip():
            return _whole(text, _nested([*key_path, name], entry))
        start = cut.root()
        for depth, key in enumerate(key_path):
            member = cut.find(start, key)
            if member is None:
                return cut.insert(start, _nested([*key_path[depth + 1 :], name], entry), key)
            start = member.value
        if cut.find(start, name) is None:
            return cut.insert(start, entry, name)
        path = [*key_path, name]
        return self._replace(text, path, functools.reduce(operator.getitem, path, self.parse(text)), entry)

    def _replace(self, text: str, path: Sequence[str | int], old: Any, new: Any) -> str:
        """Return *text* with *new* in place of *old* at *path*; what they have in common stays as it is written."""
        if isinstance(old, dict) and isinstance(new, dict):
            for key, value in new.items():
                if key in old:
                    text = self._replace(text, [*path, key], old[key], value)
                else:
                    cut = _Blanked(text, self)
                    text = cut.insert(cut.at(path).value, value, key)
            for index in reversed([index for index, key in enumerate(old) if key not in new]):
                cut = _Blanked(text, self)
                text = cut.remove(cut.at(path).value, index)
            return text
        if isinstance(old, list) and isinstance(new, list):
            for edit, index, value in list_edits(old, new):
                cut = _Blanked(text, self)
                if edit == "set":
                    text = self._replace(text, [*path, index], None, value)
                elif edit == "insert":
                    text = cut.insert(cut.at(path).value, value, index=index)
                else:
                    text = cut.remove(cut.at(path).value, index)
            return text
        if json.dumps(old) == json.dumps(new):  # `1 == True`, but not here.
            return text
        cut = _Blanked(text, self)
        member = cut.at(path)
        spelt = _to_json(new, cut.unit(), cut.indentation(member.value), cut.newline)
        return text[: member.value] + spelt + text[member.end :]

    def remove(self, text: str, key_path: Sequence[str], name: str) -> str:
        """Return *text* without the member *name*, which it has, of the object at *key_path*."""
        cut = _Blanked(text, self)
        start = cut.at(key_path).value
        return cut.remove(start, [member.key for member in cut.members(start)[0]].index(name))

    def append(self, text: str, key_path: Sequence[str], value: object) -> str:
        """Return *text* with *value* as the last element of the array at *key_path*, which is made if it is missing."""
        cut = _Blanked(text, self)
        found: Any = self.parse(text)
        for key in key_path:
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, list):
            return self.put(text, key_path[:-1], key_path[-1], [value])
        return cut.insert(cut.at(key_path).value, value)

    def remove_element(self, text: str, key_path: Sequence[str], index: int) -> str:
        """Return *text* without the element *index*, which it has, of the array at *key_path*."""
        cut = _Blanked(text, self)
        return cut.remove(cut.at(key_path).value, index)

    def snippet(self, key_path: Sequence[str], name: str, entry: object) -> str:
        """Return the text of a new file with the server *name* alone, for pasting."""
        return _whole("", _nested([*key_path, name], entry))


@dataclass(frozen=True, slots=True)
class _Member:
    """The offsets of a member of an object, or of an element of an array (then *key* is `None`)."""

    key: str | None
    start: int
    value: int
    end: int


class _Blanked:
    """A text, and *plain*: the same with each character of comments and trailing commas replaced by a space."""

    def __init__(self, text: str, form: JsonText) -> None:
        self.text, self.newline = text, "\r\n" if "\r\n" in text else "\n"
        self.trailing_commas: set[int] = set()
        self.line_comments: list[tuple[int, int]] = []
        self.plain = _COMMENT.sub(self._blank_comment, text) if form.comments else text
        if form.trailing_commas:
            self.plain = _TRAILING_COMMA.sub(self._blank_comma, self.plain)

    def _blank_comment(self, match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        if match[0].startswith("//"):
            self.line_comments.append(match.span())
        return re.sub(r"[^\r\n]", " ", match[0])

    def _blank_comma(self, match: re.Match[str]) -> str:
        if match[0] != ",":
            return match[0]
        self.trailing_commas.add(match.start())
        return " "

    def root(self) -> int:
        """Return where the value of the whole text starts."""
        return self._skip(0)

    def at(self, path: Sequence[str | int]) -> _Member:
        """Return where the value at *path*, of keys and indices, stands; it exists."""
        member = _Member(None, self.root(), self.root(), len(self.plain))
        for step in path:
            members, _ = self.members(member.value)
            member = members[step] if isinstance(step, int) else next(each for each in members if each.key == step)
        return member

    def find(self, start: int, key: str) -> _Member | None:
        """Return the member *key* of the object at *start*, if it has one."""
        if self.plain[start] != "{":
            raise UneditableTextError("has a value that is not an object where the entry belongs")
        return next((member for member in self.members(start)[0] if member.key == key), None)

    def members(self, start: int) -> tuple[list[_Member], int]:
        """Return the members of the object or array at *start*, and where its closing bracket is."""
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

    def insert(self, start: int, value: object, key: str | None = None, index: int | None = None) -> str:
        """Return the text with *value* as the last member of the object at *start*, or before *index* of the array."""
        text, (members, close) = self.text, self.members(start)
        if index is not None and index < len(members):
            at = members[index].start
            indentation = self._indentation_of_first_in_line(at)
            gap = " " if indentation is None else self.newline + indentation
            return f"{text[:at]}{_to_json(value, self.unit(), indentation or '', self.newline)},{gap}{text[at:]}"
        named = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
        comma = self._trailing_comma(members, close)
        if members and "\n" not in text[start:close]:
            end = members[-1].end if comma is None else comma + 1
            piece = f", {named}{_compact(value)}" if comma is None else f" {named}{_compact(value)},"
            return text[:end] + piece + text[end:]
        base, unit = self.indentation(start), self.unit()
        child = self._indentation_of_first_in_line(members[0].start) if members else None
        if child is None:
            child = base + unit
        # After the last comment too, which is about the member before it.
        tail = len(text[:close].rstrip())
        piece = f"{self.newline}{child}{named}{_to_json(value, unit, child, self.newline)}"
        if comma is not None:
            piece += ","
        if not members and "\n" not in text[tail:close]:
            piece += self.newline + base
        last = members[-1].end if members and comma is None else tail
        return text[:last] + ("," if members and comma is None else "") + text[last:tail] + piece + text[tail:]

    def remove(self, start: int, index: int) -> str:
        """Return the text without member *index* of the object or array at *start*; this undoes `insert` to the byte."""
        text, (members, close) = self.text, self.members(start)
        member, last = members[index], index == len(members) - 1
        cut = len(text[: member.start].rstrip())
        comma = self._trailing_comma(members, close) if last else self.plain.index(",", member.end)
        end = member.end if comma is None else comma + 1
        follows = re.split(r"[\r\n]", text[end:], maxsplit=1)[0].strip() != ""
        rest = text[end:]
        if follows and (not last or any(first < cut <= end for first, end in self.line_comments)):
            # Do not move the rest of the line into a comment before it.
            cut, rest = member.start, rest.lstrip(" \t")
        head = text[:cut]
        if last and index and comma is None:
            between = self.plain.index(",", members[index - 1].end)
            head = text[:between] + text[between + 1 : cut]
        if len(members) == 1 and not text[start + 1 : cut].strip() and not text[end:close].strip():
            head, rest = text[: start + 1], text[close:]
        return head + rest

    def indentation(self, position: int) -> str:
        """Return the white space at the start of the line that has *position*."""
        line = self.text[self.text.rfind("\n", 0, position) + 1 : position]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def unit(self) -> str:
        """Return one step of the file's indentation, taken from the first member of the whole."""
        members, _ = self.members(self.root())
        return (self._indentation_of_first_in_line(members[0].start) if members else None) or "  "

    def _indentation_of_first_in_line(self, position: int) -> str | None:
        """Return the white space before *position* if nothing else stands before it in its line."""
        line = self.text[self.text.rfind("\n", 0, position) + 1 : position]
        return line if "\n" in self.text[:position] and not line.strip(" \t") else None

    def _trailing_comma(self, members: list[_Member], close: int) -> int | None:
        return next((at for at in self.trailing_commas if members and members[-1].end <= at < close), None)

    def _skip(self, position: int) -> int:
        found = _SPACE.match(self.plain, position)
        assert found is not None, "the pattern matches the empty string"
        return found.end()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UneditableTextError(
            f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object"
        )
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise UneditableTextError(f"is not valid JSON: it has {name}")


def _nested(path: Sequence[str], value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _to_json(value: object, unit: str, indentation: str, newline: str) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + indentation)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _whole(text: str, value: object) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline if text.strip() and not text.endswith("\n") else ""
    return text + gap + _to_json(value, "  ", "", newline) + newline
