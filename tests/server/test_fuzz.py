"""Anything in a claim's file and anything as an argument, through a real server: it answers, claims nothing in doubt, goes on.

`MCP_CLAIMS_FUZZ` is the number of examples (100 unless given).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_claims.server.schemas import definitions
from mcp_claims.server.tools import TOOLS
from tests.support.servers import RawServer, raw_server

EXAMPLES = int(os.environ.get("MCP_CLAIMS_FUZZ", "100"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

pytestmark = [
    pytest.mark.timeout(600 + EXAMPLES),
    pytest.mark.skipif(sys.platform == "win32", reason="its files cannot be replaced while a server reads them"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "claims"


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[RawServer]:
    with raw_server(directory) as running:
        yield running
        running.stdin.close()
        assert running.process.wait(timeout=20) == 0, "it went on to the end"


@pytest.fixture(scope="module")
def record(directory: Path) -> bytes:
    """Return a real record of another server, of which the fuzz makes something else."""
    with raw_server(directory) as other:
        other.call("try_claim", key="red", note="what a note is", ttl_minutes=24 * 60)
        data = (directory / "default" / "red.json").read_bytes()
        other.process.kill()
        other.process.wait()
    return data


# Whole numbers and times at the edges of what anything can hold.
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**53, 2**63, 10**400, 1e308, -0.0, "", " ", "\x00", "\ud800", "9999-12-31T23:59:59.999Z"]),
    st.sampled_from(["0001-01-01T00:00:00Z", "2026-11-23T12:00:00", "NaN", [], {}, [[[]]], {"a": {"b": []}}]),
    st.text(max_size=20),
    st.floats(),
)


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """Make something of *original* that a disk, an editor, another version or an enemy might have made of it."""
    kind = draw(st.sampled_from(["flip", "cut", "field", "drop", "twice", "bytes", "json", "deep", "long", "recoded"]))
    data: dict[str, Any] = json.loads(original)
    name = draw(st.sampled_from(sorted(data)))
    if kind == "flip":
        place = draw(st.integers(0, len(original) - 1))
        return original[:place] + bytes([original[place] ^ draw(st.integers(1, 255))]) + original[place + 1 :]
    if kind == "cut":
        return original[: draw(st.integers(0, len(original) - 1))]
    if kind == "field":
        return json.dumps(data | {name: draw(ODD)}).encode()
    if kind == "drop":
        return json.dumps({field: value for field, value in data.items() if field != name}).encode()
    if kind == "twice":
        return original.rstrip()[:-1] + f', "{name}": {json.dumps(draw(ODD))}}}'.encode()
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "json":
        return json.dumps(draw(ODD)).encode()
    if kind == "deep":
        return b"[" * draw(st.sampled_from([17, 1_000, 50_000]))
    if kind == "long":
        return original + b" " * draw(st.sampled_from([70_000, 1_000_000]))
    return original.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp037"])))


def ask(server: RawServer, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call *tool*; return the result or the error of the protocol, one of which has to come."""
    sent = server.send(tool, arguments)
    message = server.receive()
    assert message["id"] == sent
    answer: dict[str, Any] = message.get("result") or message["error"]
    assert "defect of mcp-claims" not in json.dumps(answer)
    return answer


@SETTINGS
@given(data=st.data())
def test_whatever_is_in_a_claims_file_is_answered_and_never_free_unless_it_is_a_claim_that_is_dead(
    data: st.DataObject, server: RawServer, directory: Path, record: bytes
) -> None:
    content = data.draw(damaged(record))
    path = directory / "default" / "red.json"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    inspection = ask(server, "is_claimed_by_other", {"key": "red"})["structuredContent"]
    tried = ask(server, "try_claim", {"key": "red"})["structuredContent"]
    released = ask(server, "release", {"key": "red"})["structuredContent"]
    ask(server, "prune", {})
    # Its process is dead, so what still is that claim may be taken over; all else is held until a day has passed.
    if tried["claimed"]:
        readable = json.loads(content)
        assert (readable["key"], readable["namespace"]) == ("red", "default")
        assert released["released"] and not inspection["claimed_by_other"]
    else:
        assert inspection["claimed_by_other"] and not released["released"]
        assert path.read_bytes() == content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HUGE = st.sampled_from(["x" * 1_000_000, "\n" * 100_000, "é" * 600, "a/b\\c#d:e", "..", "con", "~" * 300, 10**400, -1])
NAMES = sorted({name for tool in definitions().values() for name in tool.input_schema["properties"]} | {"nonsense", ""})
# The SDK gives no answer to a message whose JSON has half a surrogate pair in it, so none is sent.
ARGUMENTS = st.dictionaries(st.sampled_from(NAMES), JSON | HUGE, max_size=5)


def whole(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@SETTINGS
@given(tool=st.sampled_from(sorted(TOOLS)), arguments=ARGUMENTS.filter(whole))
def test_whatever_the_arguments_are_there_is_an_answer_and_an_error_has_changed_nothing(
    tool: str, arguments: dict[str, Any], server: RawServer, directory: Path
) -> None:
    before = contents(directory)
    answer = ask(server, tool, arguments)
    if answer.get("isError") or "code" in answer:
        assert contents(directory) == before
        assert len(json.dumps(answer)) < 10_000, "what was sent is not sent back"


LINES: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no JSON": lambda: "{",
    "a list": lambda: "[1, 2]",
    "a batch": lambda: json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]),
    "an answer": lambda: json.dumps({"jsonrpc": "2.0", "id": 99, "result": {}}),
    "another version": lambda: json.dumps({"jsonrpc": "1.0", "id": 1, "method": "tools/list"}),
    "a megabyte": lambda: json.dumps({"jsonrpc": "2.0", "method": "x" * 1_000_000}),
    "deep": lambda: "[" * 100_000,
    "true as id": lambda: json.dumps({"id": True}),
    "a fraction as id": lambda: json.dumps({"id": 1.5}),
    "an object as id": lambda: json.dumps({"id": {"id": 1}}),
    "a long number as id": lambda: json.dumps({"id": 10**30}),
    "half a surrogate pair as id": lambda: json.dumps({"jsonrpc": "2.0", "id": "\ud83d", "method": "ping"}),
    "half a surrogate pair in a batch": lambda: json.dumps([{"jsonrpc": "2.0", "id": "a\ud83d", "method": "ping"}]),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_whatever_line_comes_the_next_call_is_answered(server: RawServer, line: Callable[[], str]) -> None:
    server.send_line(line())
    sent = server.send("prune", {})
    until = time.monotonic() + 30
    while server.receive().get("id") != sent:
        assert time.monotonic() < until
