"""The arguments of the tools: their types, and what hosts send in their place.  Bounds are in `model.validation`."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mcp_claims.model.validation import DEFAULT_NAMESPACE, DEFAULT_TTL_MINUTES, MAX_WAIT_SECONDS


class Argument(NamedTuple):
    """An argument of a tool: its type, its default and what models read about it; `words`, if any, are its only values.

    A `list` is one of texts.
    """

    kind: type[str | float | int | bool | list[str]]
    default: Any = None
    description: str | None = None
    required: bool = False
    words: tuple[str, ...] = ()


Arguments = Mapping[str, Argument]

_KEY = Argument(str, required=True)
_NAMESPACE = Argument(str, DEFAULT_NAMESPACE)
_ONE_NAMESPACE = Argument(str, description="Only this one")
_SESSION = Argument(str)

TRY_CLAIM: Arguments = {
    "key": _KEY._replace(
        description="Identifies this occurrence. Every agent that sees it must derive the same text: repository, "
        "number, kind, commit or date, e.g. vercel/next.js#4521:checks_failed@3f2a91c. Before you edit: file:src/a.py, "
        "file:src/ (all below) or file:src/*.py. Before you push: branch:main"
    ),
    "namespace": _NAMESPACE._replace(description="Only if you were given one"),
    "session": _SESSION._replace(description="Only what open_session returned"),
    "ttl_minutes": Argument(float, DEFAULT_TTL_MINUTES, "Minutes until the claim expires unless renewed: 1/60 to 1440"),
    "note": Argument(str, description="What you are doing, for the others; at most 500 characters"),
    "wait_seconds": Argument(
        float,
        0,
        f"Seconds to wait while another session holds it: 0 to {MAX_WAIT_SECONDS:.0f}. If the answer is your_turn, "
        "call again within a minute",
    ),
    "also": Argument(list, description="Other files or keys, all or none; renewed and released as one"),
    "or_else": Argument(
        list,
        description="A work list or a pool: the first of key and these that is free and not done. The answer's key is yours; release it to get the next",
    ),
    "shared": Argument(bool, False, "Others who pass it too have it with you: to read while nobody changes it"),
    "slots": Argument(
        int,
        description="Up to so many sessions at once (test runs), 2 to 1000; all pass the same number. The answer has your slot, from 0 up",
    ),
    "redo": Argument(bool, False, "Claim it although it is done"),
    "keep_alive": Argument(bool, False, "The server renews while you are connected"),
}
INSPECT: Arguments = {
    "key": _KEY,
    "namespace": _NAMESPACE,
    "session": _SESSION,
    "generation": Argument(
        int,
        description="The generation that try_claim gave you. Before you push, merge or deploy: in_force is true while "
        "your claim holds.",
    ),
}
RELEASE: Arguments = {
    "key": _KEY,
    "namespace": _NAMESPACE,
    "session": _SESSION,
    "outcome": Argument(
        str,
        description="done = finished, others are told not to repeat an event; failed = tried, free for others; "
        "abandoned = not finished, free for others",
        words=("done", "failed", "abandoned"),
    ),
    "note": Argument(str, description="How it ended, for the others; needs an outcome"),
}
OPEN_SESSION: Arguments = {"label": Argument(str, description="Your task, for people who read claims")}
LIST: Arguments = {
    "namespace": _ONE_NAMESPACE,
    "mine": Argument(bool, False, "Only your own"),
    "cursor": Argument(str),
    "session": _SESSION,
}
PRUNE: Arguments = {"namespace": _ONE_NAMESPACE}

_NUMBER = r"-?(0|[1-9]\d{0,15})(\.\d{1,15})?"


def coerced(known: Arguments, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return *given* converted to the types of *known* where hosts write them otherwise; unknown names stay as they are.

    A host with strict schemas sends every argument, and "" or null for what its model left out; some models quote
    numbers and booleans, or write a key that is a number without quotes.
    """
    own: dict[str, Any] = {}
    for name, value in given.items():
        argument = known.get(name)
        if argument is None:
            own[name] = value
            continue
        if value in ("", None, []) and not argument.required:
            continue
        if argument.kind is bool and value in ("true", "false"):
            value = value == "true"
        elif argument.kind in (float, int) and isinstance(value, str) and re.fullmatch(_NUMBER, value):
            value = json.loads(value)
        elif argument.kind is list and isinstance(value, str):
            value = _texts(value)
        elif argument.kind is str and isinstance(value, int | float) and not isinstance(value, bool):
            value = json.dumps(value)
        own[name] = value
    return own


def _texts(value: str) -> object:
    """Return the list that *value* is in JSON, or that of this one text."""
    with suppress(ValueError, RecursionError):
        if isinstance(listed := json.loads(value), list):
            return listed
    return [value]


def plain_arguments(known: Arguments, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a value for every argument of *known*: the one *given*, or its default.  Bounds are not checked.

    `None` if a name is unknown, a required one is missing, or a value is not plainly of its type.
    """
    own = coerced(known, given)
    if not own.keys() <= known.keys():
        return None
    for name, argument in known.items():
        if name not in own:
            if argument.required:
                return None
            own[name] = argument.default
        elif argument.kind is float and type(own[name]) in (int, float):
            try:
                own[name] = float(own[name])
            except OverflowError:
                return None
        elif (
            type(own[name]) is not argument.kind
            or (argument.words and own[name] not in argument.words)
            or (argument.kind is list and not all(isinstance(each, str) for each in own[name]))
        ):
            return None
    return own
