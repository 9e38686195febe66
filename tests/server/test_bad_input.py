"""Bad input gets a clear error that says the rule, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_claims.model.records import Found, ScopedKey
from mcp_claims.server.app import build_server
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import one_client, structured_of, text_of

pytestmark = pytest.mark.anyio

RANGE = "ttl_minutes must be a number from 1/60 (one second) to 1,440 (24 hours)"
IN_WORDS = "ttl_minutes is wrong: input should be a valid number (Minutes until the claim expires unless renewed: 1/60 to 1440)"
BAD = [
    pytest.param("try_claim", {}, "key is wrong: field required", id="no key"),
    pytest.param("try_claim", {"key": ""}, "key must not be empty", id="empty key"),
    pytest.param("try_claim", {"key": None}, "key is wrong: input should be a valid string", id="null for a key"),
    pytest.param("try_claim", {"key": True}, "key is wrong: input should be a valid string", id="true for a key"),
    pytest.param("try_claim", {"key": "k" * 1_025}, "key must be at most 1,024 bytes", id="key too long"),
    pytest.param("try_claim", {"key": "é" * 513}, "key must be at most 1,024 bytes", id="key too long in bytes"),
    pytest.param("try_claim", {"key": "a\nb"}, "key must not contain line breaks", id="line break in key"),
    pytest.param("try_claim", {"key": "k", "namespace": "\x00"}, "namespace must not contain", id="NUL in namespace"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": 0}, RANGE, id="TTL zero"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": -1}, RANGE, id="TTL negative"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": "NaN"}, IN_WORDS, id="TTL not a number"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": "Infinity"}, IN_WORDS, id="TTL infinite"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": "1e2"}, IN_WORDS, id="TTL with an exponent"),
    pytest.param("try_claim", {"key": "k", "redo": "yes"}, "redo is wrong", id="redo in words"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": 525_600}, RANGE, id="TTL of a year"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": True}, IN_WORDS, id="TTL true"),
    pytest.param("try_claim", {"key": "k", "ttl_minutes": "soon"}, IN_WORDS, id="TTL in words"),
    pytest.param(
        "try_claim", {"key": "k", "note": "n" * 501}, "note must be at most 500 characters", id="note too long"
    ),
    pytest.param("try_claim", {"key": "k", "note": {"a": 1}}, "note is wrong", id="note that is no text"),
    pytest.param(
        "try_claim", {"key": "k", "ttl_minuts": 5}, "ttl_minuts is not an argument of this tool", id="misspelt argument"
    ),
    pytest.param("release", {"key": ""}, "key must not be empty", id="release of an empty key"),
    pytest.param("is_claimed_by_other", {"key": "a\x1b"}, "key must not contain", id="look at a control character"),
    pytest.param("release", {"key": "k", "outcome": "great"}, "outcome is wrong", id="made-up outcome"),
    pytest.param("prune", {"all": True}, "all is not an argument", id="prune with a made-up argument"),
]


def server_on(directory: Path) -> Client:
    return Client(build_server(lambda: one_client(FileStore(directory))))


@pytest.mark.rule("C9", "V5")
@pytest.mark.parametrize(("tool", "arguments", "rule"), BAD)
async def test_a_bad_argument_is_an_error_that_says_the_rule_and_changes_nothing(
    claims_dir: Path, tool: str, arguments: dict[str, Any], rule: str
) -> None:
    async with server_on(claims_dir) as client:
        refused = await client.call_tool(tool, arguments)
        assert refused.is_error
        assert rule in text_of(refused)
        assert "Nothing was changed. Call it again with" in text_of(refused)
        assert not claims_dir.exists()
        assert structured_of(await client.call_tool("try_claim", {"key": "k"}))["claimed"], "the server goes on"


@pytest.mark.rule("C9")
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("try_claim", {"key": "k", "session": "s"}, id="try_claim"),
        pytest.param("is_claimed_by_other", {"key": "k", "session": "s"}, id="is_claimed_by_other"),
        pytest.param("release", {"key": "k", "session": "s"}, id="release"),
        pytest.param("list_claims", {"session": "s"}, id="list_claims"),
        pytest.param("open_session", {"label": "l" * 61}, id="open_session"),
    ],
)
async def test_what_is_no_handle_or_label_makes_no_secret(
    claims_dir: Path, tool: str, arguments: dict[str, Any]
) -> None:
    async with server_on(claims_dir) as client:
        assert (await client.call_tool(tool, arguments)).is_error
    assert not claims_dir.exists()


@pytest.mark.rule("V5")
async def test_a_note_that_looks_like_json_stays_text(claims_dir: Path) -> None:
    async with server_on(claims_dir) as client:
        for note in ('{"a": 1}', "null", "[1]", "true"):
            answer = await client.call_tool("try_claim", {"key": "k", "note": note})
            assert structured_of(answer)["note"] == note


async def test_arguments_count_in_the_spellings_that_hosts_use(claims_dir: Path) -> None:
    """A strict host sends every argument, with "" or null for those left out; models quote numbers and booleans."""
    absent: dict[str, Any]
    async with server_on(claims_dir) as client:
        for absent in (
            {"session": "", "namespace": "", "note": ""},
            {"session": None, "namespace": None, "note": None},
        ):
            arguments = {"key": "k", "ttl_minutes": "45", "wait_seconds": "0", "redo": "false", "keep_alive": "true"}
            answer = structured_of(await client.call_tool("try_claim", arguments | absent))
            assert (answer["claimed"], answer["namespace"]) == (True, "default")
            assert 44 * 60 < answer["expires_in_seconds"] <= 45 * 60
            assert "note" not in answer
        number = structured_of(await client.call_tool("try_claim", {"key": 4521}))
        assert (number["claimed"], number["key"]) == (True, "4521")
        generation = {"key": "4521", "generation": str(number["generation"])}
        assert structured_of(await client.call_tool("is_claimed_by_other", generation))["in_force"] is True
        assert structured_of(await client.call_tool("prune", {"namespace": None}))["live"] == 2
        released = structured_of(await client.call_tool("release", {"key": "k", "outcome": "", "note": None}))
        assert released["released"] and "outcome" not in released


async def test_a_tool_that_does_not_exist_is_a_protocol_error_that_names_those_that_do(claims_dir: Path) -> None:
    async with server_on(claims_dir) as client:
        with pytest.raises(MCPError, match="There is no tool 'claim'; there are try_claim, is_claimed_by_other"):
            await client.call_tool("claim", {"key": "k"})


async def test_a_store_that_cannot_answer_is_an_error_and_the_server_recovers(claims_dir: Path) -> None:
    claims_dir.parent.mkdir(exist_ok=True)
    claims_dir.write_text("a file where the directory should be")
    async with server_on(claims_dir) as client:
        for tool in ("try_claim", "release"):
            refused = await client.call_tool(tool, {"key": "k"})
            assert refused.is_error
            assert "do not act" in text_of(refused) and str(claims_dir) in text_of(refused)
        claims_dir.unlink()
        assert structured_of(await client.call_tool("try_claim", {"key": "k"}))["claimed"]


@pytest.mark.rule("S8")
async def test_a_directory_that_others_can_write_is_refused_with_the_remedy(claims_dir: Path) -> None:
    claims_dir.mkdir()
    claims_dir.chmod(0o777)
    async with server_on(claims_dir) as client:
        refused = await client.call_tool("try_claim", {"key": "k"})
        assert refused.is_error and f"chmod 700 {claims_dir}" in text_of(refused)
        claims_dir.chmod(0o700)
        assert structured_of(await client.call_tool("try_claim", {"key": "k"}))["claimed"]


async def test_a_defect_of_ours_is_an_error_without_its_details(
    claims_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Defective(FileStore):
        def read(self, scoped: ScopedKey) -> Found:
            raise ZeroDivisionError("inner workings")

    async with Client(build_server(lambda: one_client(Defective(claims_dir)))) as client:
        refused = await client.call_tool("try_claim", {"key": "k"})
    assert refused.is_error
    assert "Do not act" in text_of(refused) and "inner workings" not in text_of(refused)
    assert "inner workings" in caplog.text
