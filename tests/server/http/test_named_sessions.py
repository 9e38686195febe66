"""A host names its session in the header `Mcp-Claims-Session`: one session for each name and token, without a handshake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.support.http_servers import HttpServer, ProtocolVersion, http_client, http_server
from tests.support.servers import structured_of, text_of

pytestmark = pytest.mark.anyio

PROTOCOL_VERSIONS = pytest.mark.parametrize("protocol_version", ["legacy", "2026-07-28"])
ADA, BEN = "a" * 16, "b" * 16


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{ADA}\n{BEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def server(claims_dir: Path, tokens: Path) -> Iterator[HttpServer]:
    with http_server(claims_dir, "--token-file", str(tokens)) as running:
        yield running


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    return structured_of(await client.call_tool(tool, {"key": "red", **arguments}))


@pytest.mark.rule("I3")
@PROTOCOL_VERSIONS
async def test_a_name_is_one_session_for_its_token_and_another_for_each_other_token(
    server: HttpServer, claims_dir: Path, tokens: Path, protocol_version: ProtocolVersion
) -> None:
    """A framework that connects for each call keeps its claims, through DELETE and a restart of the server."""
    async with http_client(server.url, protocol_version, token=ADA, mcp_claims_session="nightly") as client:
        first = await call(client, "try_claim")
        assert (first["status"], first["client"].endswith(", nightly")) == ("acquired", True)
    async with http_client(server.url, protocol_version, token=ADA, mcp_claims_session="nightly") as client:
        assert (await call(client, "try_claim"))["status"] == "renewed"
    for token, name in ((BEN, "nightly"), (ADA, "Nightly"), (ADA, "night")):
        async with http_client(server.url, protocol_version, token=token, mcp_claims_session=name) as client:
            assert not (await call(client, "try_claim"))["claimed"]
            assert not (await call(client, "release"))["released"]
    with http_server(claims_dir, "--token-file", str(tokens)) as restarted:
        async with http_client(restarted.url, protocol_version, token=ADA, mcp_claims_session="nightly") as client:
            again = await call(client, "is_claimed_by_other", generation=first["generation"])
            assert (again["held_by_you"], again["in_force"]) == (True, True)
            opened = structured_of(await client.call_tool("open_session", {}))["session"]
            assert not (await call(client, "try_claim", session=opened))["claimed"], "a handle goes before the name"
            assert (await call(client, "release"))["released"]


@pytest.mark.rule("I1")
@PROTOCOL_VERSIONS
async def test_without_a_token_a_name_gives_no_identity_in_any_protocol_version(
    claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    with http_server(claims_dir) as server:
        async with http_client(server.url, protocol_version, mcp_claims_session="nightly") as client:
            for tool in ("try_claim", "release", "is_claimed_by_other"):
                refused = await client.call_tool(tool, {"key": "red"})
                assert refused.is_error
                assert "bearer token" in text_of(refused) and "Call open_session once" in text_of(refused)
            handle = structured_of(await client.call_tool("open_session", {}))["session"]
            assert (await call(client, "try_claim", session=handle))["claimed"]


UNFILLED = ["undefined", "null", "None", "NULL", "nil", "NaN"]


@pytest.mark.parametrize("name", ["", "${SESSION}", "n" * 65, "a b", "nightly, morning", *UNFILLED])
async def test_a_name_that_a_host_has_not_filled_in_or_that_a_proxy_has_joined_is_refused(
    server: HttpServer, claims_dir: Path, name: str
) -> None:
    async with http_client(server.url, "2026-07-28", token=ADA, mcp_claims_session=name) as client:
        refused = await client.call_tool("try_claim", {"key": "red"})
        assert refused.is_error and "1 to 64 letters" in text_of(refused)
    assert not claims_dir.exists()


async def test_a_name_that_only_begins_like_a_missing_value_is_one(server: HttpServer) -> None:
    async with http_client(server.url, "2026-07-28", token=ADA, mcp_claims_session="null-1") as client:
        assert (await call(client, "try_claim"))["claimed"]


async def test_what_is_declared_is_what_is_done(server: HttpServer) -> None:
    """No list of tools, prompts or resources changes with a notice, so no client must wait for one."""
    for version in ("legacy", "auto"):
        async with http_client(server.url, version, token=ADA) as client:  # type: ignore[arg-type]
            declared = client.server_capabilities
            assert declared is not None
            assert declared.tools and declared.prompts and declared.resources and declared.resources.subscribe
            for each in (declared.tools, declared.prompts, declared.resources):
                assert each.list_changed is False
            if version == "auto":
                async with client.listen(tools_list_changed=True, resource_subscriptions=["claims://all"]) as stream:
                    assert stream.honored.tools_list_changed is None
                    assert stream.honored.resource_subscriptions == ["claims://all"]
