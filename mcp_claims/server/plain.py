"""Which messages are plain, so that the quick stage of stdio answers them as the SDK's server would.

A message is plain if the SDK's server accepts it for certain.  For any other the checks here raise `NotPlainError`, and that
server answers it.  `plain.json` has its answers that do not depend on claims, as `python -m tests.support.plain_answers`
writes them.
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
"""A message with more brackets is not plain: the SDK's server reads none that is nested more than 200 deep."""

HANDSHAKE_ID = f"mcp-claims {os.urandom(8).hex()}"
"""The request id of the handshake when it is repeated to the SDK's server; no client uses it, and none gets the answer."""


def canonical_id(request_id: Id) -> Id:
    """Return *request_id* as the SDK's server compares it: "7" and 7 are one id."""
    try:
        return int(request_id)
    except ValueError:
        return request_id


class NotPlainError(Exception):
    """Only the SDK's server may answer this message."""


def read_message(line: bytes) -> Message | None:
    """Return the request or notification on *line*, `None` if it is blank; raise `NotPlainError` for anything else."""
    try:
        text = line.decode()
        if not text.strip():
            return None
        if text.count("[") + text.count("{") > _MAX_BRACKETS:
            raise NotPlainError
        message = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(
                message, ensure_ascii=False
            ).encode()  # Raises for half of a surrogate pair, which only Python takes for text.
    except (ValueError, RecursionError) as error:
        raise NotPlainError from error
    check_request(message)
    return dict(message)


def check_request(message: object) -> None:
    """Raise `NotPlainError` unless *message* is a request or a notification."""
    _check(message, _REQUEST, {"jsonrpc", "method"})


def _refuse(_: str) -> NoReturn:
    raise NotPlainError


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # `json.loads` would make one for each message.


def check_params(
    params: Mapping[str, Any], own: Mapping[str, Check] | None = None, needed: set[str] | None = None
) -> None:
    """Raise `NotPlainError` unless *params* has all *needed* fields, no others than *own* and `_meta`, and all pass."""
    _check(params, {"_meta": _is_meta} | dict(own or {}), needed or set())


def check_initialize(params: Mapping[str, Any]) -> None:
    """Raise `NotPlainError` unless *params* are valid for `initialize`."""
    needed = {"protocolVersion", "capabilities", "clientInfo"}
    check_params(
        params, {"protocolVersion": is_text, "capabilities": _is_capabilities, "clientInfo": _is_client}, needed
    )


def check_envelope(meta: Mapping[str, Any]) -> None:
    """Raise `NotPlainError` unless *meta* has the fields of the protocol that each request of 2026-07-28 has."""
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
    for name, value in given.items():
        if not known[name](value):
            raise NotPlainError


def is_text(value: object) -> bool:
    """Return whether *value* is text."""
    return isinstance(value, str)


def is_object(value: object) -> bool:
    """Return whether *value* is an object."""
    return isinstance(value, dict)


def is_list_changes(value: object) -> bool:
    """Return whether *value* asks for notices of changed lists only, not of changed resources."""
    known = {"toolsListChanged", "promptsListChanged", "resourcesListChanged"}
    return isinstance(value, dict) and value.keys() <= known and all(isinstance(each, bool) for each in value.values())


def _is_version(value: object) -> bool:
    return value == "2.0"


def is_id(value: object) -> TypeGuard[Id]:
    """Return whether *value* is a request id or a progress token."""
    return isinstance(value, str) or (type(value) is int and abs(value) < _MAX_ID)


_REQUEST: Mapping[str, Check] = {"jsonrpc": _is_version, "method": is_text, "id": is_id, "params": is_object}


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
    """Return the answers of the SDK's server that do not depend on claims, by kind of protocol and method."""
    with open(os.path.join(os.path.dirname(__file__), "plain.json"), encoding="utf-8") as file:
        answers: dict[str, Any] = json.load(file)
    return answers
