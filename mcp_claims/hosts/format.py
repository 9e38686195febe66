"""What the formats of the hosts' files have in common, and the check that an edit did nothing but what it should."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Protocol


class Unfit(Exception):
    """The text cannot be edited safely; says why, to go on after the name of the file."""


class Format(Protocol):
    """A format of configuration files.  All texts are without a byte order mark."""

    @property
    def fresh(self) -> dict[str, Any]:
        """What a file that said nothing says besides the servers, once there are some."""
        ...

    def load(self, text: str) -> Any:
        """Return what *text* says.  Raises `Unfit` for what does not parse."""
        ...

    def entries(self, tree: Any, place: Sequence[str]) -> dict[str, Any]:
        """Return the servers at *place* in *tree* by name.  Raises `Unfit` if something else is there."""
        ...

    def put(self, text: str, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return *text* with the server *name* at *place*; every byte that is not ours stays.  Raises `Unfit`."""
        ...

    def drop(self, text: str, place: Sequence[str], name: str) -> str:
        """Return *text* without the server *name*, which is at *place*.  Raises `Unfit`."""
        ...

    def show(self, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
        """Return what a person would paste."""
        ...


def put_checked(form: Format, text: str, place: Sequence[str], name: str, value: dict[str, Any]) -> str:
    """Return *text* with the server in it; raises `Unfit` if that would change anything else that the file says."""
    # First of all: the editors rely on a text that parses.
    expected = {**form.entries(form.load(text), place), name: value}
    after = form.put(text, place, name, value)
    _compare(form, text, after, place, expected)
    return after


def drop_checked(form: Format, text: str, place: Sequence[str], name: str) -> str:
    """Return *text* without the server; raises `Unfit` if that would change anything else that the file says."""
    expected = form.entries(form.load(text), place)
    del expected[name]
    after = form.drop(text, place, name)
    _compare(form, text, after, place, expected)
    return after


def _compare(form: Format, before: str, after: str, place: Sequence[str], expected: dict[str, Any]) -> None:
    try:
        tree = form.load(after)
        same = form.entries(tree, place) == expected and _rest(tree, place) == _rest(
            form.load(before) or form.fresh, place
        )
    except Unfit as error:
        raise Unfit("is written in a way that cannot be edited safely") from error
    if not same:
        raise Unfit("is written in a way that cannot be edited safely")


def _rest(tree: Any, place: Sequence[str]) -> Any:
    """Return all of *tree* but what is at *place*, and objects on the way there that are empty without it."""
    tree = deepcopy(tree)
    parents, node = [], tree
    for key in place:
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
