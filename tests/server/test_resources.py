"""Claims as resources over a real server: what there is, what it says, and completion of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import PromptReference, ResourceTemplateReference, TextContent, TextResourceContents

from mcp_claims.model.records import Outcome, ScopedKey
from mcp_claims.server.resource_list import uri_of
from mcp_claims.server.resources import MAX_SHOWN, target_of
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import stdio, structured_of

AWKWARD = [
    ScopedKey("all", "all"),
    ScopedKey("vercel/next.js", "PR #4521: checks\\failed 👀?x=1&y=%2F .."),
    ScopedKey("n" * 1_024, "k" * 1_024),
    ScopedKey(".", ".."),
    ScopedKey("%61ll", "%"),
]


async def content(client: Client, uri: str) -> dict[str, Any]:
    """Return the JSON of the resource *uri*."""
    (read,) = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(read, TextResourceContents) and (read.uri, read.mime_type) == (uri, "application/json")
    answer: dict[str, Any] = json.loads(read.text)
    return answer


@pytest.mark.rule("V7")
@pytest.mark.parametrize("of", [*AWKWARD, *(each.namespace for each in AWKWARD), None], ids=lambda of: repr(of)[:40])
def test_each_key_and_namespace_has_a_uri_of_its_own(of: ScopedKey | str | None) -> None:
    uri = uri_of(of)
    assert target_of(uri) == of
    assert uri.isascii() and not set(uri) & set(' "<>\\^`{}|#?')


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "claims:",
        "claims://",
        "claims:///",
        "claims://a/",
        "claims://a/b/c",
        "file:///a",
        "claims://%ff",
        "claims://a/%00",
    ],
)
@pytest.mark.anyio
async def test_what_is_no_resource_is_an_error_that_names_it(claims_dir: Path, uri: str) -> None:
    async with Client(stdio(claims_dir)) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(uri)
        assert refused.value.error.code == -32602 and refused.value.error.data == {"uri": uri}
        assert "claims://" in refused.value.error.message or "must" in refused.value.error.message


@pytest.mark.anyio
@pytest.mark.parametrize("of", AWKWARD, ids=lambda of: repr(of)[:40])
async def test_the_resource_of_a_claim_has_holder_times_and_note(claims_dir: Path, of: ScopedKey) -> None:
    holder = process_session(FileStore(claims_dir))
    async with Client(stdio(claims_dir)) as client:
        free = await content(client, uri_of(of))
        assert free == {"key": of.key, "namespace": of.namespace, "state": "free"}
        attempt = holder.try_claim(of.key, of.namespace, note="on\nit")
        held = await content(client, uri_of(of))
        assert (held["state"], held["holder"], held["note"]) == ("held", holder.holder.name, "on it")
        assert held["expires_in_seconds"] <= 1_800 and held["generation"] == attempt.found.generation  # type: ignore[union-attr]
        holder.release(of.key, of.namespace, outcome=Outcome.DONE)
        assert (await content(client, uri_of(of)))["state"] == "done"


@pytest.mark.rule("V7")
@pytest.mark.anyio
async def test_a_dead_claim_is_listed_with_its_state_and_not_removed(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as client:
        holder = process_session(FileStore(claims_dir))
        holder.try_claim("red", ttl_minutes=1 / 60)
        while (answer := await content(client, "claims://default/red"))["state"] == "held":
            pass
        assert answer["state"] == "expired"
        assert (await content(client, "claims://all"))["claims"][0]["state"] == "expired"


@pytest.mark.anyio
async def test_a_namespace_has_its_claims_only_and_all_has_all(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    for key, namespace in (("a", "ci"), ("b", "ci"), ("c", "all")):
        holder.try_claim(key, namespace)
    async with Client(stdio(claims_dir)) as client:

        async def keys(uri: str) -> list[str]:
            return [each["key"] for each in (await content(client, uri))["claims"]]

        assert await keys("claims://all") == ["c", "a", "b"]
        assert await keys("claims://ci") == ["a", "b"]
        assert await keys("claims://%61ll") == ["c"]
        assert await keys("claims://nowhere") == []


@pytest.mark.rule("V7")
@pytest.mark.anyio
async def test_a_resource_with_too_many_claims_is_cut_and_points_to_list_claims(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    for number in range(MAX_SHOWN + 1):
        holder.try_claim(f"event {number:04}")
    async with Client(stdio(claims_dir)) as client:
        answer = await content(client, "claims://all")
        assert len(answer["claims"]) == MAX_SHOWN and "list_claims" in answer["more"]


@pytest.mark.anyio
async def test_all_resources_are_listed_in_pages_each_namespace_once_before_its_claims(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    for number in range(120):
        holder.try_claim(f"event {number:04}", f"namespace {number % 3}")
    listed: list[str] = []
    async with Client(stdio(claims_dir)) as client:
        cursor = None
        while True:
            page = await client.list_resources(cursor=cursor)
            assert len(page.resources) <= 54
            listed += [each.uri for each in page.resources]
            cursor = page.next_cursor
            if cursor is None:
                break
        for uri in (listed[0], listed[1], listed[-1]):
            await content(client, uri)
        with pytest.raises(MCPError, match="cursor"):
            await client.list_resources(cursor="!")
    assert listed[0] == "claims://all" and len(set(listed)) == len(listed) == 1 + 3 + 120
    assert listed.index("claims://namespace%202") < listed.index("claims://namespace%202/event%200002")
    assert listed.index("claims://namespace%201") < listed.index("claims://namespace%202")


@pytest.mark.rule("V7")
@pytest.mark.anyio
async def test_no_resource_has_a_handle_in_it(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as client:
        handle = structured_of(await client.call_tool("open_session", {"label": "tests"}))["session"]
        await client.call_tool("try_claim", {"key": "red", "session": handle})
        for uri in ("claims://all", "claims://default", "claims://default/red"):
            assert handle not in json.dumps(await content(client, uri))
        assert handle not in (await client.list_resources()).model_dump_json()


@pytest.mark.anyio
async def test_names_of_namespaces_and_keys_are_completed(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    for number in range(150):
        holder.try_claim(f"event {number:03}", "ci")
    holder.try_claim("Event X", "CD")
    template = ResourceTemplateReference(uri="claims://{namespace}/{key}")
    async with Client(stdio(claims_dir)) as client:

        async def complete(name: str, value: str, **chosen: str) -> tuple[list[str], int | None, bool | None]:
            answer = (await client.complete(template, {"name": name, "value": value}, chosen or None)).completion
            return answer.values, answer.total, answer.has_more

        assert await complete("namespace", "") == (["CD", "ci"], 2, False)
        assert await complete("namespace", "c") == (["CD", "ci"], 2, False)
        assert await complete("key", "event", namespace="CD") == (["Event X"], 1, False)
        values, total, more = await complete("key", "event 0", namespace="ci")
        assert (values[0], len(values), total, more) == ("event 000", 100, 100, False)
        assert (await complete("key", ""))[1:] == (151, True)
        assert await complete("colour", "") == ([], None, None)
        assert await complete("key", "", namespace="") == ([], None, None)
        prompt = PromptReference(name="coordinate")
        answer = await client.complete(prompt, {"name": "namespace", "value": "C"})
        assert answer.completion.values == ["CD", "ci"]


@pytest.mark.anyio
async def test_the_prompt_teaches_how_to_share_work_in_a_namespace(claims_dir: Path) -> None:
    async with Client(stdio(claims_dir)) as client:
        (listed,) = (await client.list_prompts()).prompts
        assert listed.name == "coordinate"
        answer = await client.get_prompt("coordinate", {"work": "Fix the {red} checks", "namespace": "acme/web"})
        (message,) = answer.messages
        assert isinstance(message.content, TextContent)
        for output in ("try_claim", 'namespace="acme/web"', "release", "keep_alive", "Fix the {red} checks"):
            assert output in message.content.text
        plain = (await client.get_prompt("coordinate")).messages[0].content
        assert isinstance(plain, TextContent) and 'namespace="default"' in plain.text
        for name, arguments in (
            ("coordinat", {}),
            ("coordinate", {"wrok": "x"}),
            ("coordinate", {"namespace": "a\nb"}),
            ("coordinate", {"work": "x" * 5_000}),
        ):
            with pytest.raises(MCPError) as refused:
                await client.get_prompt(name, arguments)
            assert refused.value.error.code == -32602
