"""The interface of the file formats, and edits that are checked to change nothing but one server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from difflib import SequenceMatcher
from typing import Any, Literal, Protocol

from mcp_claims.hosts.errors import UneditableTextError


class Format(Protocol):
    """A format of configuration files.

    Texts have no byte order mark.  *key_path* has the keys that lead to the servers.  Every method raises
    `UneditableTextError` for a text that it cannot parse or edit safely.
    """

    @property
    def skeleton(self) -> dict[str, Any]:
        """What a new file needs besides its servers."""
        ...

    def parse(self, text: str) -> Any:
        """Return the value of *text*."""
        ...

    def servers(self, tree: Any, key_path: Sequence[str]) -> dict[str, Any]:
        """Return the servers in *tree*, a parsed text, by name."""
        ...

    def put(self, text: str, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return *text* with *entry* as the server *name*.

        Of an entry that is there only the values that differ are replaced; everything else keeps every byte.
        """
        ...

    def remove(self, text: str, key_path: Sequence[str], name: str) -> str:
        """Return *text* without the server *name*, which it has."""
        ...

    def snippet(self, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
        """Return the text of a new file with the server *name* alone, for pasting."""
        ...


def put_server(form: Format, text: str, key_path: Sequence[str], name: str, entry: dict[str, Any]) -> str:
    """Return *text* with *entry* as the server *name*.

    Raises `UneditableTextError` if that would change anything else that the file says.
    """
    # Parsed first: `put` relies on a text that parses.
    expected = {**form.servers(form.parse(text), key_path), name: entry}
    after = form.put(text, key_path, name, entry)
    _check(form, text, after, key_path, expected)
    return after


def remove_server(form: Format, text: str, key_path: Sequence[str], name: str) -> str:
    """Return *text* without the server *name*; raises as `put_server`."""
    expected = form.servers(form.parse(text), key_path)
    del expected[name]
    after = form.remove(text, key_path, name)
    _check(form, text, after, key_path, expected)
    return after


def list_edits(
    old: Sequence[object], new: Sequence[object]
) -> Iterator[tuple[Literal["set", "insert", "delete"], int, Any]]:
    """Yield the edits that make *new* of *old*, each with its index in *old*, from the last to the first.

    What is in both stays, with the comments beside it.
    """
    texts = [[json.dumps(each, sort_keys=True, default=str) for each in values] for values in (old, new)]
    matcher = SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    for tag, start, end, new_start, new_end in reversed(matcher.get_opcodes()):
        if tag == "equal":
            continue
        both = min(end - start, new_end - new_start)
        for index in reversed(range(start + both, end)):
            yield "delete", index, None
        for value in reversed(new[new_start + both : new_end]):
            yield "insert", start + both, value
        for offset in reversed(range(both)):
            yield "set", start + offset, new[new_start + offset]


def _check(form: Format, before: str, after: str, key_path: Sequence[str], expected: dict[str, Any]) -> None:
    """Raise `UneditableTextError` unless *after* has the *expected* servers and otherwise says what *before* does."""
    problem = "is written in a way that cannot be edited safely"
    try:
        tree = form.parse(after)
        servers = form.servers(tree, key_path)
        rest, rest_before = (_without_servers(each, key_path) for each in (tree, form.parse(before) or form.skeleton))
    except UneditableTextError as error:
        raise UneditableTextError(problem) from error
    if servers != expected or rest != rest_before:
        raise UneditableTextError(problem)


def _without_servers(tree: Any, key_path: Sequence[str]) -> Any:
    """Return *tree* without the value at *key_path*, and without the objects on the way that this leaves empty."""
    tree = deepcopy(tree)
    parents, node = [], tree
    for key in key_path:
        if not isinstance(node, dict) or key not in node:
            break
        parents.append((node, key))
        node = node[key]
    else:
        parent, key = parents[-1]
        del parent[key]
    for parent, key in reversed(parents):
        if parent.get(key) == {}:
            del parent[key]
    return tree
