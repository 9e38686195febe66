"""The board as an MCP App: for clients that declare the extension, and not a byte of it for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.server import apps as sdk

from mcp_claims import FileStore, open_session
from mcp_claims.board.site import page
from mcp_claims.server import apps, plain
from mcp_claims.server.app import build_server
from tests.support.servers import BOTH_STAGES, ENVELOPE, RawServer, has_imported_the_sdk, one_client, raw_server

CAPABILITIES = {"extensions": {apps.EXTENSION: {"mimeTypes": [apps.MIME_TYPE]}}}
OTHERS: list[dict[str, Any]] = [
    {},
    {"extensions": {}},
    {"extensions": {apps.EXTENSION: {}}},
    {"extensions": {apps.EXTENSION: {"mimeTypes": ["text/html"]}}},
    {"extensions": {"example.org/ui": {"mimeTypes": [apps.MIME_TYPE]}}},
]


def test_the_names_are_those_of_the_sdk() -> None:
    assert (apps.EXTENSION, apps.MIME_TYPE) == (sdk.EXTENSION_ID, sdk.APP_MIME_TYPE)


def ask(server: RawServer, method: str, capabilities: dict[str, Any], **params: object) -> dict[str, Any]:
    """Send a request of 2026-07-28 from a client with *capabilities*, and return the answer."""
    meta = ENVELOPE | {plain.CAPABILITIES: capabilities}
    server.send_line(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}}))
    return server.receive()


def greet(server: RawServer, capabilities: dict[str, Any]) -> None:
    """Open a connection of 2025-11-25 as a client with *capabilities*."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "x", "version": "1"}}
    server.send_line(json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}))
    server.receive()
    server.send_line(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))


def tools(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tool["name"]: tool for tool in answer["result"]["tools"]}


@pytest.mark.rule("B8")
@BOTH_STAGES
@pytest.mark.parametrize("handshake", [True, False])
def test_a_client_that_shows_apps_is_told_of_the_board_and_any_other_is_told_what_it_always_was(
    claims_dir: Path, options: list[str], handshake: bool
) -> None:
    lines = {}
    for number, capabilities in enumerate([CAPABILITIES, *OTHERS]):
        with raw_server(claims_dir, *options) as server:
            if handshake:
                greet(server, capabilities)
                server.send_line('{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
                lines[number] = server.receive()
            else:
                lines[number] = ask(server, "tools/list", capabilities)
            assert has_imported_the_sdk(server.process.pid) == bool(options), "it costs no start"
    shown, usual = tools(lines[0]), tools(lines[1])
    assert shown[apps.TOOL]["_meta"] == {"ui": {"resourceUri": "ui://claims/board"}}
    assert shown | {apps.TOOL: usual[apps.TOOL]} == usual
    assert "ui://" not in json.dumps(lines[1])
    assert all(line == lines[1] for line in list(lines.values())[1:])


@pytest.mark.rule("B8")
@BOTH_STAGES
def test_the_board_is_a_page_and_what_it_shows(claims_dir: Path, options: list[str]) -> None:
    open_session(FileStore(claims_dir)).try_claim("red-check")
    with raw_server(claims_dir, *options) as server:
        (content,) = ask(server, "resources/read", CAPABILITIES, uri="ui://claims/board")["result"]["contents"]
        assert (content["mimeType"], content["text"]) == ("text/html;profile=mcp-app", page())
        assert "csp" not in content["_meta"]["ui"], "no server but the host's may be asked"
        (data,) = ask(server, "resources/read", CAPABILITIES, uri="ui://claims/board.json")["result"]["contents"]
        facts = json.loads(data["text"])
        assert [row["key"] for _, row in facts["rows"]] == ["red-check"]
        assert not facts["releases"]
        assert has_imported_the_sdk(server.process.pid) == bool(options), "it costs the session no 40 MiB"
        for capabilities in OTHERS:
            refused = ask(server, "resources/read", capabilities, uri="ui://claims/board")
            assert "There is no resource" in refused["error"]["message"]


@pytest.mark.rule("B8", "Q2")
@pytest.mark.parametrize("handshake", [True, False])
def test_the_page_has_the_same_bytes_from_both_stages(claims_dir: Path, handshake: bool) -> None:
    lines = []
    for options in ([], ["--no-quick"]):
        with raw_server(claims_dir, *options) as server:
            params: dict[str, Any] = {"uri": "ui://claims/board"}
            if handshake:
                greet(server, CAPABILITIES)
            else:
                params["_meta"] = ENVELOPE | {plain.CAPABILITIES: CAPABILITIES}
            request = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params}
            server.send_line(json.dumps(request))
            lines.append(server.stdout.readline())
    assert lines[0] == lines[1] and len(lines[0]) > 30_000


@pytest.mark.anyio
async def test_a_reading_has_so_many_claims_as_a_host_can_bear_those_that_are_held_first(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_claims.server.board_app._MAX_SHOWN", 2)
    store = FileStore(claims_dir)
    session = open_session(store)
    for key in ("a", "b", "c"):
        session.try_claim(key)
    for key in ("a", "b"):
        session.release(key, outcome="done")
    server = build_server(lambda: one_client(store))
    shows = advertise(apps.EXTENSION, CAPABILITIES["extensions"][apps.EXTENSION])
    async with Client(server, extensions=[shows]) as client:
        (content,) = (await client.read_resource("ui://claims/board.json")).contents
        facts = json.loads(content.text)  # type: ignore[union-attr]
    assert next(row["key"] for _, row in facts["rows"]) == "c"
    assert (len(facts["rows"]), facts["left_out"], len(facts["events"])) == (2, 1, 2)
