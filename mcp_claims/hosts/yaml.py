"""Edits YAML in place: everything else keeps every byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import list_edits


class YamlText:
    """YAML with a list of servers, each with its `name`, such as `mcpServers` of Continue.

    Round-trip libraries rewrite the file with an indentation of their own.  So the parser only finds the offsets, and
    whole lines are inserted and removed there.
    """

    # Continue requires these in every file.
    skeleton: ClassVar[dict[str, Any]] = {"name": "Local Config", "version": "1.0.0", "schema": "v1"}

    def parse(self, text: str) -> dict[str, Any]:
        """Return the mapping in *text*; an empty text is `{}`.  Raises `UneditableTextError` if it does not parse."""
        try:
            tree = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "it cannot be read"
            raise UneditableTextError(f"is not valid YAML: {problem}{where}") from error
        except ValueError as error:  # A number with thousands of digits.
            raise UneditableTextError(f"cannot be read ({error})") from error
        except RecursionError as error:
            raise UneditableTextError("is nested too deeply") from error
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            raise UneditableTextError("is not a YAML mapping")
        return tree

    def servers(self, tree: Any, key_path: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree* by name; one without a name gets a label from its position."""
        (key,) = key_path
        servers = tree.get(key) or []
        if not isinstance(servers, list):
            raise UneditableTextError(f"has {key!r}, which is not a list")
        found: dict[str, Any] = {}
        for position, server in enumerate(servers):
            name = server.get("name") if isinstance(server, dict) else None
            label = name if isinstance(name, str) else f"\0{position}"
            if label in found:
                raise UneditableTextError(f"has two servers {label!r}")
            found[label] = {k: v for k, v in server.items() if k != "name"} if label == name else server
        return found

    def put(self, text: str, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return *text* with *entry* as the item of the server *name*."""
        newline = "\r\n" if "\r\n" in text else "\n"
        if not self.parse(text):
            return _with_final_newline(text, newline) + self.snippet(key_path, name, entry).replace("\n", newline)
        key, servers = _find_servers(text, key_path[0])
        if servers is None or (servers.flow_style and not servers.value):
            return _put_first(text, key, servers, key_path[0], _item(name, entry), newline)
        if servers.flow_style:
            raise UneditableTextError("has its servers in flow style, in one line")
        item = next((item for item in servers.value if _name_of(item) == name), None)
        indentation = " " * servers.start_mark.column
        piece = "".join(f"{indentation}{line}{newline}" for line in _item(name, entry))
        if item is not None:
            for field, value in {"name": name, **entry}.items():
                text = _replace(text, key_path[0], name, field, value, newline)
            for field in [key for key in self.servers(self.parse(text), key_path)[name] if key not in entry]:
                text = _remove_field(text, key_path[0], name, field, newline)
            return text
        end = _item_lines(text, servers.value[-1])[1]
        if not text[:end].endswith("\n"):
            return text[:end] + newline + piece.removesuffix(newline) + text[end:]
        return text[:end] + piece + text[end:]

    def remove(self, text: str, key_path: Sequence[str], name: str) -> str:
        """Return *text* without the item of the server *name*, which it has; the last item takes the list with it."""
        key, servers = _find_servers(text, key_path[0])
        if servers.flow_style:
            raise UneditableTextError("has its servers in flow style, in one line")
        item = next(item for item in servers.value if _name_of(item) == name)
        start, end = _item_lines(text, item)
        if len(servers.value) == 1:
            start = text.rfind("\n", 0, key) + 1
        if end == len(text) and not text.endswith("\n"):
            return text[:start].removesuffix("\n").removesuffix("\r")
        return text[:start] + text[end:]

    def snippet(self, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return the text of a new file with the server *name* alone, for pasting."""
        head = [f"{key}: {each}" for key, each in self.skeleton.items()]
        return "\n".join([*head, f"{key_path[0]}:", *(f"  {line}" for line in _item(name, entry)), ""])


def _replace(text: str, key_name: str, name: str, field: str, new: Any, newline: str) -> str:
    """Return *text* with *new* as the *field* of the item *name*; what stays of a list keeps its comments."""
    _, servers = _find_servers(text, key_name)
    item = next(item for item in servers.value if _name_of(item) == name)
    found: Any = next((each for each in item.value if each[0].value == field), None)
    if found is None and item.flow_style:
        raise UneditableTextError(f"has {name!r} in flow style, in one line")
    if found is None:
        end = _item_lines(text, item)[1]
        lines = [" " * item.start_mark.column + line.removeprefix("  ") for line in _field(field, new)]
        gap = "" if text[:end].endswith("\n") else newline
        return text[:end] + gap + newline.join(lines) + ("" if gap else newline) + text[end:]
    key, node = found
    old = YAML(typ="safe", pure=True).load(text)[key_name][servers.value.index(item)][field]
    if isinstance(old, list) and isinstance(new, list) and old and new and not node.flow_style:
        for edit, index, value in list_edits(old, new):
            # The nodes behind this one are done, so that their offsets, which are wrong now, do not matter.
            text = _edit_element(text, node.value, edit, index, value, newline)
        return text
    if json.dumps(old, default=str) == json.dumps(new, default=str):
        return text
    if node.start_mark.index == node.end_mark.index:  # Nothing, which stands anywhere behind the colon.
        colon = text.index(":", key.end_mark.index) + 1
        return f"{text[:colon]} {json.dumps(new, ensure_ascii=False)}{text[colon:]}"
    return _spelt_anew(text, node, new, newline)


def _remove_field(text: str, key_name: str, name: str, field: str, newline: str) -> str:
    """Return *text* without the *field* of the item *name*, which has others; comments in lines of their own stay."""
    _, servers = _find_servers(text, key_name)
    item = next(item for item in servers.value if _name_of(item) == name)
    keys = [key.value for key, _ in item.value]
    if item.flow_style or field not in keys:
        raise UneditableTextError(f"has {name!r} in flow style, or its {field!r} by reference")
    key, node = item.value[keys.index(field)]
    start, end = (
        key.start_mark.index,
        _item_lines(text, node if node.start_mark.index < node.end_mark.index else key)[1],
    )
    line_start = text.rfind("\n", 0, start) + 1
    if not text[line_start:start].strip():
        return text[:line_start] + text[end:]
    # Behind the dash, where the next field moves unless a comment stands before that.
    following = item.value[keys.index(field) + 1][0].start_mark.index
    if not text[end:following].strip():
        return text[:start] + text[following:]
    return text[:start].rstrip(" ") + newline + text[end:]


def _edit_element(text: str, elements: list[Any], edit: str, index: int, value: Any, newline: str) -> str:
    """Return *text* with one edit of *elements*, those of a list in block style."""
    if edit == "set":
        return _spelt_anew(text, elements[index], value, newline)
    start, end = _item_lines(text, elements[min(index, len(elements) - 1)])
    if edit == "delete":
        return text[:start] + text[end:]
    line = text[start : text.index("-", start)] + f"- {json.dumps(value, ensure_ascii=False)}"
    if index < len(elements):
        return text[:start] + line + newline + text[start:]
    whole = text[:end].endswith("\n")
    return text[:end] + (line + newline if whole else newline + line) + text[end:]


def _spelt_anew(text: str, node: Any, value: Any, newline: str) -> str:
    """Return *text* with *value*, as JSON in one line, which is YAML too, in place of *node*."""
    start, end = node.start_mark.index, node.end_mark.index
    after = newline if text[start:end].endswith("\n") else ""
    return text[:start] + json.dumps(value, ensure_ascii=False) + after + text[end:]


def _put_first(text: str, key: int | None, servers: Any, key_name: str, item: list[str], newline: str) -> str:
    """Return *text* with its first server; *key* and *servers* are where the key and the empty list stand, if they do."""
    lines = newline.join(f"  {line}" for line in item)
    if key is None:
        complete = not text or text.endswith("\n")
        return text + ("" if complete else newline) + f"{key_name}:{newline}{lines}" + (newline if complete else "")
    start, end = (servers.start_mark.index, servers.end_mark.index) if servers else (text.index(":", key) + 1,) * 2
    line_end = text.find("\n", end)
    comment = text[end : line_end if line_end >= 0 else len(text)].rstrip("\r")
    return text[:start].rstrip(" ") + comment + newline + lines + text[end + len(comment) :]


def _item(name: str, entry: dict[str, Any]) -> list[str]:
    """Return the lines of an item; a JSON scalar is a YAML scalar too."""
    return [f"- name: {name}", *(line for key, each in entry.items() for line in _field(key, each))]


def _field(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"  {key}:", *(f"    - {json.dumps(one, ensure_ascii=False)}" for one in value)]
    return [f"  {key}: {json.dumps(value, ensure_ascii=False)}"]


def _find_servers(text: str, key_name: str) -> tuple[int | None, Any]:
    """Return where the key of the servers starts, and the node of the list; `None` for what is missing."""
    root: Any = YAML(typ="safe", pure=True).compose(text)
    if root.flow_style or text[root.end_mark.index :].strip():
        raise UneditableTextError("is not one YAML document in block style")
    for key, value in root.value:
        if key.value == key_name:
            if value.anchor or (value.start_mark.index < key.start_mark.index):
                raise UneditableTextError("has an alias where the servers belong")
            return key.start_mark.index, None if value.tag.endswith(":null") else value
    return None, None


def _name_of(item: Any) -> str | None:
    if item.id != "mapping":
        return None
    return next((str(value.value) for key, value in item.value if getattr(key, "value", None) == "name"), None)


def _item_lines(text: str, item: Any) -> tuple[int, int]:
    """Return where the lines of an item of a block-style list start and end, without the comments after it."""
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    last = item
    while last.id != "scalar" and not last.flow_style and last.value:
        last = last.value[-1][1] if last.id == "mapping" else last.value[-1]
    end = last.end_mark.index
    if end and text[end - 1] == "\n":
        return start, end
    line_end = text.find("\n", end)
    return start, line_end + 1 if line_end >= 0 else len(text)


def _with_final_newline(text: str, newline: str) -> str:
    return text + newline if text and not text.endswith("\n") else text
