"""The quick stage of stdio answers a message as the SDK's server does, or leaves it to that server.

`MCP_CLAIMS_FUZZ` is the number of examples (100 unless given).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from mcp_claims.server.app import build_server
from mcp_claims.server.pipes import HostPipes, Lines, Output
from mcp_claims.server.plain import NotPlainError
from mcp_claims.server.quick import QuickStage
from mcp_claims.stores.base import Store
from mcp_claims.stores.memory import MemoryStore
from tests.support import plain_answers
from tests.support.servers import ENVELOPE, one_client

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl"))
TIMEOUT = 20
EXAMPLES = int(os.environ.get("MCP_CLAIMS_FUZZ", "100"))
Message = dict[str, Any]

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"roots": {"listChanged": True}, "elicitation": {"form": {}, "url": {}}},
    "clientInfo": {"name": "host", "title": "A host", "version": "1"},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(number: int | str, method: str, params: object = None) -> Message:
    message: Message = {"jsonrpc": "2.0", "id": number, "method": method}
    return message if params is None else message | {"params": params}


def calls(meta: Message) -> list[Message]:
    """Return calls of every tool, with arguments in the spellings that hosts use."""
    arguments: list[tuple[str, Message]] = [
        ("try_claim", {"key": "red", "note": "fixing ✅", "ttl_minutes": 5}),
        ("try_claim", {"key": 4521, "ttl_minutes": "5", "redo": "false", "namespace": "", "session": None}),
        ("try_claim", {"key": "red", "keep_alive": True, "wait_seconds": 0.0}),
        ("try_claim", {"key": " red "}),
        ("is_claimed_by_other", {"key": "red", "generation": 1}),
        ("list_claims", {"mine": "true"}),
        ("list_claims", {"cursor": "no cursor"}),
        ("prune", {}),
        ("release", {"key": "red", "outcome": "done", "note": "fixed"}),
        ("release", {"key": "green", "note": "no outcome"}),
        ("try_claim", {"key": "red", "session": "no handle"}),
    ]
    return [
        request(100 + number, "tools/call", {"name": name, "arguments": each, **meta})
        for number, (name, each) in enumerate(arguments)
    ]


LISTS = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
META: Message = {"_meta": ENVELOPE | {"progressToken": 7}}
LISTEN = {"notifications": {"toolsListChanged": True, "promptsListChanged": False}, **META}
HANDSHAKE = [
    request(0, "initialize", INITIALIZE),
    INITIALIZED,
    request(1, "ping"),
    *(request(method, method, {}) for method in LISTS),
    *calls({"_meta": {"progressToken": "t", "threadId": "01a224c1-86e5"}}),
    {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
]
MODERN = [
    request("probe", "server/discover", META),
    request(0, "initialize", INITIALIZE),
    *(request(method, method, META) for method in LISTS),
    *calls(META),
    request(50, "subscriptions/listen", LISTEN),
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 50}},
]
LATE = [
    request("probe", "server/discover", META),
    request(0, "initialize", INITIALIZE),
    INITIALIZED,
    *(request(method, method, {}) for method in LISTS),
    *calls({}),
]
VERSIONS = [
    [request(0, "initialize", INITIALIZE | {"protocolVersion": version}), INITIALIZED, request(1, "tools/list")]
    for version in ("2024-11-05", "2025-03-26", "2025-11-25", "2026-07-28", "1900-01-01")
]


class Quick:
    """The quick stage, without its loop."""

    def __init__(self, store: Store | None = None) -> None:
        self._input, self._unused = os.pipe()
        self._output = os.open(os.devnull, os.O_WRONLY)
        pipes = HostPipes(Lines(self._input), Output(self._output))
        self.stage = QuickStage(one_client(store or MemoryStore()), pipes)
        self.sent: list[Message] = []
        """The messages that it has sent and `answers` has not returned."""
        self.stage.send = self.sent.append

    def answers(self, line: bytes) -> list[Message] | None:
        """Return its answers to *line*; `None` if it leaves the line to the SDK's server."""
        try:
            self.stage.serve(line)
        except NotPlainError:
            assert not self.sent
            return None
        while self.stage.calls.running:
            self.stage.wait()
        answers = list(self.sent)
        self.sent.clear()
        return answers

    @property
    def is_greeted(self) -> bool:
        """Whether it serves the protocol that begins with a handshake."""
        return self.stage._protocol == "handshake"

    def close(self) -> None:
        self.stage.close()
        for fd in (self._input, self._unused, self._output):
            os.close(fd)


class Sdk:
    """The SDK's server, in memory."""

    def __init__(self, sending: Any, received: Any) -> None:
        self._sending, self._received = sending, received

    async def answers(self, line: bytes, expected: int) -> list[Message]:
        """Return its answers to *line*; wait until there are as many as *expected*."""
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        await self._sending.send(SessionMessage(message))
        answers: list[Message] = []
        with anyio.move_on_after(TIMEOUT):
            while len(answers) < expected:
                answer = (await self._received.receive()).message
                answers.append(answer.model_dump(mode="json", by_alias=True, exclude_unset=True))
        await anyio.wait_all_tasks_blocked()
        while self._received.statistics().current_buffer_used:
            answer = self._received.receive_nowait().message
            answers.append(answer.model_dump(mode="json", by_alias=True, exclude_unset=True))
        return answers


@asynccontextmanager
async def sdk_server() -> AsyncIterator[Sdk]:
    sending, reading = anyio.create_memory_object_stream[Any](0)
    writing, received = anyio.create_memory_object_stream[Any](100)
    store = MemoryStore()
    server = build_server(lambda: one_client(store))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, reading, writing, server.create_initialization_options())
        yield Sdk(sending, received)
        tasks.cancel_scope.cancel()
    for stream in (sending, reading, writing, received):
        stream.close()


def normal(answers: list[Message]) -> list[Message]:
    """Return *answers* without what differs from run to run."""
    text = json.dumps(answers, sort_keys=True)
    text = re.sub(r"[\w.-]+:\d+:[0-9a-f]{12}", "HOLDER", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r'("expires_in_seconds": )[\d.]+', r"\1 0", text)
    made: list[Message] = json.loads(text)
    return made


async def compare(lines: list[bytes]) -> int:
    """Check that both answer *lines* alike, up to the first that the quick stage leaves; return how many it answered."""
    quick = Quick()
    try:
        # A client that has only probed may still greet; the SDK's server would refuse that, so another one is asked.
        async with sdk_server() as probed, sdk_server() as greeted:
            for number, line in enumerate(lines):
                own = quick.answers(line)
                if own is None:
                    return number
                sdk = greeted if quick.is_greeted else probed
                assert normal(own) == normal(await sdk.answers(line, len(own))), line
        return len(lines)
    finally:
        quick.close()


def encoded(messages: list[Any]) -> list[bytes]:
    return [json.dumps(message).encode() for message in messages]


@pytest.mark.rule("Q1", "Q2")
@pytest.mark.anyio
@pytest.mark.parametrize("session", RECORDED, ids=lambda path: path.stem)
async def test_sessions_of_real_hosts_are_plain_to_their_end(session: Path) -> None:
    lines = session.read_bytes().splitlines()
    assert await compare(lines) == len(lines) > 3


@pytest.mark.rule("Q2")
@pytest.mark.anyio
@pytest.mark.parametrize("messages", [HANDSHAKE, MODERN, LATE, *VERSIONS])
async def test_every_plain_message_is_answered_as_by_the_sdks_server(messages: list[Message]) -> None:
    assert await compare(encoded(messages)) == len(messages)


@pytest.mark.rule("Q3")
def test_the_fixed_answers_are_those_of_the_sdks_server() -> None:
    assert plain_answers.FILE.read_text(encoding="utf-8") == plain_answers.text(), (
        "run python -m tests.support.plain_answers"
    )


WRONG = [
    request(1, "tools/list", []),
    request(1, "tools/list", {"_meta": []}),
    request(1, "tools/list", {"_meta": {"progressToken": {}}}),
    request(1, "tools/list", {"cursor": 5}),
    request(1, "prompts/list", {"cursor": []}),
    request(1, "resources/list", {"cursor": "no cursor"}),
    request(1, "tools/call"),
    request(1, "tools/call", {"arguments": {}}),
    request(1, "tools/call", {"name": 5}),
    request(1, "tools/call", {"name": "no tool"}),
    request(1, "tools/call", {"name": "list_claims", "arguments": []}),
    request(1, "no/method", {}),
    request(1, "tools/list") | {"jsonrpc": "1.0"},
    request(1, "tools/list") | {"id": 1.5},
    request(1, "tools/list") | {"id": None},
    request(1, "tools/list") | {"method": 5},
    {"id": 1, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": 1},
    [request(1, "tools/list")],
    *(request(1, "initialize", INITIALIZE | {name: 5}) for name in INITIALIZE),
    *(request(1, "initialize", {key: INITIALIZE[key] for key in INITIALIZE if key != name}) for name in INITIALIZE),
    request(1, "initialize", INITIALIZE | {"capabilities": {"roots": 5}}),
    request(1, "initialize", INITIALIZE | {"clientInfo": {"name": "host"}}),
]


@pytest.mark.rule("Q1")
@pytest.mark.anyio
@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
async def test_what_the_sdks_server_refuses_is_left_to_it(wrong: Any) -> None:
    begin = [] if isinstance(wrong, dict) and wrong.get("method") == "initialize" else HANDSHAKE[:2]
    (line,) = encoded([wrong])
    assert await compare([*encoded(begin), line]) == len(begin)
    if is_accepted(line):
        async with sdk_server() as sdk:
            for each in encoded(begin):
                await sdk.answers(each, int(b'"id"' in each))
            # With an id that is neither text nor a whole number, it takes a request for a notification.
            answers = await sdk.answers(line, int(isinstance(wrong["id"], int)))
            assert all("error" in answer for answer in answers)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 1.5, 2**53, 10**400, "", "x", "2025-06-18", "2026-07-28", [], {}, {"a": 1}, [{}], {"a": {}}]
    ),
    st.text(max_size=4),
)
NAMES = st.sampled_from(["_meta", "id", "cursor", "name", "arguments", "task", "tools", "roots", "icons", "key", "x"])


@st.composite
def changed(draw: st.DrawFn, message: Message) -> Message:
    """Change *message* in one place: replace, remove or add a value."""
    made: Message = json.loads(json.dumps(message))
    place: Any = made
    while True:
        inner = [
            value
            for value in (place.values() if isinstance(place, dict) else place)
            if value and isinstance(value, dict | list)
        ]
        if not inner or draw(st.booleans()):
            break
        place = draw(st.sampled_from(inner))
    keys: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
    kind = draw(st.sampled_from(["change", "drop", "add"]))
    if kind == "add" and isinstance(place, dict):
        place[draw(NAMES)] = draw(ODD)
    elif kind == "drop":
        del place[draw(st.sampled_from(keys))]
    else:
        place[draw(st.sampled_from(keys))] = draw(ODD)
    return made


@st.composite
def sessions(draw: st.DrawFn) -> list[bytes]:
    """Draw a session of either kind of protocol; some of its messages are changed or out of order."""
    seeds = draw(st.sampled_from([HANDSHAKE, MODERN, LATE]))
    rest = draw(st.lists(st.sampled_from(HANDSHAKE + MODERN if draw(st.booleans()) else seeds), max_size=5))
    messages = [*seeds[: draw(st.integers(0, 3))], *rest]
    return encoded([draw(changed(message)) if draw(st.booleans()) else message for message in messages])


def is_accepted(line: bytes) -> bool:
    """Return whether the SDK's transport passes *line* on to its server."""
    try:
        jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        return False
    return True


@pytest.mark.rule("Q1", "Q2")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@pytest.mark.timeout(600 + EXAMPLES)
@given(lines=sessions())
def test_any_line_is_answered_as_by_the_sdks_server_or_left_to_it(lines: list[bytes]) -> None:
    anyio.run(compare, lines)
