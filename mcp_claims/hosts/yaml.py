"""YAML, edited in place: what is not ours keeps every byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from mcp_claims.hosts.format import Unfit


class YamlText:
    """YAML with a list of servers in which each says its `name`, as `mcpServers` of Continue.

    Round-trip libraries write the file anew, with indentation of their own.  So the parser only tells where things are,
    and lines are put in or taken out there.
    """

    # Continue wants them in every file.
    fresh: ClassVar[dict[str, Any]] = {"name": "Local Config", "version": "1.0.0", "schema": "v1"}

    def load(self, text: str) -> dict[str, Any]:
        """Return what *text* says; nothing at all counts as an empty mapping.  Raises `Unfit` for what does not parse."""
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            tree = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark else ""
            raise Unfit(f"is no valid YAML: {getattr(error, 'problem', None) or 'it cannot be read'}{where}") from error
        except ValueError as error:  # A number with thousands of digits.
            raise Unfit(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise Unfit("is nested too deeply") from error
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            raise Unfit("holds no YAML mapping")
        return tree

    def entries(self, tree: Any, place: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name; one that says no name counts by its position."""
        (key,) = place
        servers = tree.get(key) or []
        if not isinstance(servers, list):
            raise Unfit(f"has something else than a list as {key!r}")
        found: dict[str, Any] = {}
        for position, server in enumerate(servers):
            name = server.get("name") if isinstance(server, dict) else None
            label = name if isinstance(name, str) else f"\0{position}"
            if label in found:
                raise Unfit(f"has two servers {label!r}")
            found[label] = {k: v for k, v in server.items() if k != "name"} if label == name else server
        return found

    def put(self, text: str, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return *text* with an item for the server *name*."""
        newline = "\r\n" if "\r\n" in text else "\n"
        if not self.load(text):
            return _ended(text, newline) + self.show(place, name, value).replace("\n", newline)
        key, servers = _servers(text, place[0])
        if servers is None or (servers.flow_style and not servers.value):
            return self._begin(text, key, servers, place[0], _lines(name, value), newline)
        if servers.flow_style:
            raise Unfit("has its servers in one line")
        items = [item for item in servers.value if _name_of(item) == name]
        indentation = " " * servers.start_mark.column
        piece = "".join(f"{indentation}{line}{newline}" for line in _lines(name, value))
        if items:
            start, end = _item_lines(text, items[0])
            return text[:start] + (piece if text[:end].endswith("\n") else piece.removesuffix(newline)) + text[end:]
        end = _item_lines(text, servers.value[-1])[1]
        if not text[:end].endswith("\n"):
            return text[:end] + newline + piece.removesuffix(newline) + text[end:]
        return text[:end] + piece + text[end:]

    def _begin(self, text: str, key: Any, servers: Any, named: str, lines: list[str], newline: str) -> str:
        """Return *text* with the first server in it."""
        items = newline.join(f"  {line}" for line in lines)
        if key is None:
            whole = not text or text.endswith("\n")
            return text + ("" if whole else newline) + f"{named}:{newline}{items}" + (newline if whole else "")
        start, end = (servers.start_mark.index, servers.end_mark.index) if servers else (text.index(":", key) + 1,) * 2
        line_end = text.find("\n", end)
        rest = text[end : line_end if line_end >= 0 else len(text)].rstrip("\r")
        return text[:start].rstrip(" ") + rest + newline + items + text[end + len(rest) :]

    def drop(self, text: str, place: Sequence[str], name: str) -> str:
        """Return *text* without the item of the server *name*, and without an empty list."""
        key, servers = _servers(text, place[0])
        if servers.flow_style:
            raise Unfit("has its servers in one line")
        item = next(item for item in servers.value if _name_of(item) == name)
        start, end = _item_lines(text, item)
        if len(servers.value) == 1:
            start = text.rfind("\n", 0, key) + 1
        if end == len(text) and not text.endswith("\n"):
            return text[:start].removesuffix("\n").removesuffix("\r")
        return text[:start] + text[end:]

    def show(self, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return what to paste into an empty file."""
        head = [f"{key}: {each}" for key, each in self.fresh.items()]
        return "\n".join([*head, f"{place[0]}:", *(f"  {line}" for line in _lines(name, value)), ""])


def _lines(name: str, value: dict[str, Any]) -> list[str]:
    """Return the item as lines; a scalar in JSON is the same in YAML."""
    lines = [f"- name: {name}"]
    for key, each in value.items():
        if isinstance(each, list):
            lines += [f"  {key}:", *(f"    - {json.dumps(one, ensure_ascii=False)}" for one in each)]
        else:
            lines.append(f"  {key}: {json.dumps(each, ensure_ascii=False)}")
    return lines


def _servers(text: str, named: str) -> tuple[int | None, Any]:
    """Return where the key of the servers starts, and their node; `None` for what is not there."""
    from ruamel.yaml import YAML

    root: Any = YAML(typ="safe", pure=True).compose(text)
    if root.flow_style or text[root.end_mark.index :].strip():
        raise Unfit("is not written as one block of YAML")
    for key, value in root.value:
        if key.value == named:
            if value.anchor or (value.start_mark.index < key.start_mark.index):
                raise Unfit("has an alias where the servers belong")
            return key.start_mark.index, None if value.tag.endswith(":null") else value
    return None, None


def _name_of(item: Any) -> str | None:
    if item.id != "mapping":
        return None
    return next((str(value.value) for key, value in item.value if getattr(key, "value", None) == "name"), None)


def _item_lines(text: str, item: Any) -> tuple[int, int]:
    """Return where the lines of an item of a list in block style begin and end, comments at its end not included."""
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    last = item
    while last.id != "scalar" and not last.flow_style and last.value:
        last = last.value[-1][1] if last.id == "mapping" else last.value[-1]
    end = last.end_mark.index
    if end and text[end - 1] == "\n":
        return start, end
    line_end = text.find("\n", end)
    return start, line_end + 1 if line_end >= 0 else len(text)


def _ended(text: str, newline: str) -> str:
    return text + newline if text and not text.endswith("\n") else text
