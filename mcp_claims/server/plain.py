"""The messages that the quick stage of stdio answers itself, and its fixed answers, which are those of the SDK's server.

A message is plain if the SDK's server accepts it for certain; whatever is not raises `NotPlainError`, and that server decides
on it.  `plain.json` has what that server answers; `python -m tests.support.plain_answers` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeGuard

Message = dict[str, Any]
Id = str | int

_PREFIX = "io.modelcontextprotocol/"
VERSION, CLIENT, CAPABILITIES = (f"{_PREFIX}{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities"))
SUBSCRIPTION = f"{_PREFIX}subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_MAX_ID = 2**53
_MAX_BRACKETS = 150
"""The SDK's server reads what is nested 200 deep, and nothing deeper."""

HANDED_OVER = "mcp-claims handed over"
"""The id of the handshake that the SDK's server hears again after the quick stage; its answer is not for the client."""


def id_of(request_id: Id) -> Id:
    """Return what identifies a request: to the SDK's server "7" and 7 are one id."""
    try:
        return int(request_id)
    except ValueError:
        return request_id


class NotPlainError(Exception):
    """The SDK's server decides on this message."""


def read_message(line: bytes) -> Message | None:
    """Return the request or notification on *line*; `None` if the line is blank."""
    try:
        text = line.decode()
        if not text.strip():
            return None
        if text.count("[") + text.count("{") > _MAX_BRACKETS:
            raise NotPlainError
        message = json.loads(text, parse_constant=_refuse)
        if "\\u" in text:
            json.dumps(message, ensure_ascii=False).encode()  # Half of a surrogate pair is text to Python alone.
    except (ValueError, RecursionError) as error:
        raise NotPlainError from error
    check_request(message)
    return dict(message)


def check_request(message: object) -> None:
    """Check that *message* is a request or a notification."""
    known = {"jsonrpc": _is_version, "method": is_text, "id": is_id, "params": is_object}
    _check(message, known, {"jsonrpc", "method"})


def _refuse(_: str) -> NoReturn:
    raise NotPlainError


def check_params(
    params: Mapping[str, Any], own: Mapping[str, Check] | None = None, needed: set[str] | None = None
) -> None:
    """Check that *params* has nothing but a well-formed `_meta` and what *own* checks, all that is *needed* included."""
    _check(params, {"_meta": _is_meta} | dict(own or {}), needed or set())


def check_initialize(params: Mapping[str, Any]) -> None:
    """Check the parameters of `initialize`."""
    needed = {"protocolVersion", "capabilities", "clientInfo"}
    check_params(
        params, {"protocolVersion": is_text, "capabilities": _is_capabilities, "clientInfo": _is_client}, needed
    )


def check_envelope(meta: Mapping[str, Any]) -> None:
    """Check what each request of 2026-07-28 has in its `_meta`."""
    if CAPABILITIES not in meta or not _is_capabilities(meta[CAPABILITIES]):
        raise NotPlainError
    if CLIENT in meta and not _is_client(meta[CLIENT]):
        raise NotPlainError
    if not {name for name in meta if name.startswith(_PREFIX)} <= {VERSION, CLIENT, CAPABILITIES}:
        raise NotPlainError


Check = Callable[[Any], bool]


def _check(given: object, known: Mapping[str, Check], needed: set[str]) -> None:
    if not isinstance(given, dict) or not needed <= given.keys() <= known.keys():
        raise NotPlainError
    if not all(known[name](value) for name, value in given.items()):
        raise NotPlainError


def is_text(value: object) -> bool:
    """Return whether *value* is text."""
    return isinstance(value, str)


def is_object(value: object) -> bool:
    """Return whether *value* is an object."""
    return isinstance(value, dict)


def is_list_changes(value: object) -> bool:
    """Return whether *value* asks for changes of lists, and for none of resources."""
    known = {"toolsListChanged", "promptsListChanged", "resourcesListChanged"}
    return isinstance(value, dict) and value.keys() <= known and all(isinstance(each, bool) for each in value.values())


def _is_version(value: object) -> bool:
    return value == "2.0"


def is_id(value: object) -> TypeGuard[Id]:
    """Return whether *value* is an id of a request or a token of progress."""
    return isinstance(value, str) or (type(value) is int and abs(value) < _MAX_ID)


def _is_meta(value: object) -> bool:
    return isinstance(value, dict) and ("progressToken" not in value or is_id(value["progressToken"]))


def _is_client(value: object) -> bool:
    texts = {"name", "version", "title", "description", "websiteUrl"}
    return (
        isinstance(value, dict)
        and {"name", "version"} <= value.keys() <= texts
        and all(isinstance(text, str) for text in value.values())
    )


def _is_capabilities(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict) and name in _CAPABILITIES and _CAPABILITIES[name](each) for name, each in value.items()
    )


def _is_objects(value: dict[str, Any]) -> bool:
    return all(isinstance(each, dict) for each in value.values())


def _is_parts(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda value: value.keys() <= set(names) and _is_objects(value)


_CAPABILITIES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "roots": lambda value: value.keys() <= {"listChanged"} and all(isinstance(each, bool) for each in value.values()),
    "sampling": _is_parts("context", "tools"),
    "elicitation": _is_parts("form", "url"),
    "experimental": _is_objects,
    "extensions": _is_objects,
}


def fixed_answers() -> dict[str, Any]:
    """Return what the SDK's server answers to what does not depend on claims."""
    with open(os.path.join(os.path.dirname(__file__), "plain.json"), encoding="utf-8") as file:
        made: dict[str, Any] = json.load(file)
    return made
