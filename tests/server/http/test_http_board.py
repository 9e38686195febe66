"""The board and `/metrics` of a server over HTTP: under its token, beside the endpoint of MCP."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from mcp_claims import FileStore, open_session
from mcp_claims.errors import InvalidInputError
from mcp_claims.server.http import HttpSettings, build_app
from tests.cli.commands import Commands
from tests.support.boards import ask, chromium, looking
from tests.support.http_servers import RawHttp, http_server
from tests.support.servers import one_client

TOKEN = "a token of this test, in many words".replace(" ", "-")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.rule("B4", "B9")
def test_what_the_board_shows_needs_the_token_of_the_server(claims_dir: Path) -> None:
    open_session(FileStore(claims_dir)).try_claim("red-check")
    with http_server(claims_dir, env={"MCP_CLAIMS_TOKEN": TOKEN}) as server:
        assert ask(server.url, "/").status == 200
        for path in ("/board/stream", "/metrics"):
            assert ask(server.url, path).status == 401
            assert ask(server.url, path, **bearer("another token altogether")).status == 401
            assert ask(server.url, path, host="attacker.example", **bearer(TOKEN)).status == 403
        message = ask(server.url, "/board/stream", **bearer(TOKEN)).facts
        assert message["rows"][0][1]["key"] == "red-check" and message["releases"]
        assert ask(server.url, "/board/stream", "POST", {}, **bearer(TOKEN)).status == 405


@pytest.mark.rule("B4", "B9")
def test_without_a_token_the_board_can_be_looked_at_and_releases_nothing(claims_dir: Path) -> None:
    session = open_session(FileStore(claims_dir))
    session.try_claim("red-check")
    with http_server(claims_dir) as server:
        message = ask(server.url, "/board/stream").facts
        assert not message["releases"]
        ((row, facts),) = message["rows"]
        body = {"row": row, "session": facts["session"], "generation": facts["generation"]}
        host = f"127.0.0.1:{server.port}"
        assert ask(server.url, "/board/release", "POST", body, origin=f"http://{host}").status == 403
        assert ask(server.url, "/board/stream", host="attacker.example").status == 403
        assert ask(server.url, "/board/release", "POST", "x" * 100_000, origin=f"http://{host}").status == 413
    assert session.inspect("red-check").held_by_you


@pytest.mark.rule("B6", "B9")
def test_a_browser_looks_with_the_token_and_releases(claims_dir: Path) -> None:
    session = open_session(FileStore(claims_dir))
    session.try_claim("red-check")
    with (
        chromium() as browser,
        http_server(claims_dir, env={"MCP_CLAIMS_TOKEN": TOKEN}) as server,
        looking(browser, f"http://127.0.0.1:{server.port}/#{TOKEN}") as page,
    ):
        page.locator("#rows .row", has_text="red-check").click()
        page.locator("#release").click()
        page.locator("#sure").click()
        expect(page.locator("#rows .row")).to_contain_text("revoked")
    assert not session.inspect("red-check").held_by_you


@pytest.mark.rule("B10")
def test_metrics_count_what_the_sessions_of_the_server_do(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        first, second = (RawHttp(server.url, modern=False) for _ in range(2))
        first.call("try_claim", key="red")
        first.call("try_claim", key="blue", shared=True)
        second.call("try_claim", key="red")
        second.call("try_claim", key="red", wait_seconds=0.2)
        first.call("release", key="red", outcome="done")
        second.call("try_claim", key="red")
        dies = "import os; from mcp_claims import open_session; open_session().try_claim('green'); os._exit(9)"
        subprocess.run([sys.executable, "-c", dies], env=Commands(claims_dir).environment, check=False)
        second.call("try_claim", key="green")
        numbers = metrics(server.url)
    assert numbers["mcp_claims_grants_total"] == 3
    assert numbers["mcp_claims_takeovers_total"] == 1
    assert numbers['mcp_claims_refusals_total{status="held"}'] >= 2
    assert numbers['mcp_claims_refusals_total{status="done"}'] == 1
    assert numbers['mcp_claims_ends_total{how="done"}'] == 1
    assert numbers['mcp_claims_ends_total{how="orphaned"}'] == 1
    assert numbers["mcp_claims_hold_seconds_count"] == numbers['mcp_claims_hold_seconds_bucket{le="+Inf"}'] == 2
    assert numbers["mcp_claims_wait_seconds_count"] == 1
    assert 0.2 <= numbers["mcp_claims_wait_seconds_sum"] < 60
    assert numbers['mcp_claims_store_seconds_count{operation="swap"}'] == 3
    assert numbers['mcp_claims_claims{state="held"}'] == 2
    assert numbers['mcp_claims_claims{state="done"}'] == 1
    assert numbers["mcp_claims_waiting"] == 1, "its place is kept for its next call"


@pytest.mark.rule("B10")
def test_metrics_go_on_where_the_store_does_not_answer_and_count_that(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        client = RawHttp(server.url, modern=False)
        client.call("try_claim", key="red")
        shutil.rmtree(claims_dir / "default")
        (claims_dir / "default").write_text("in the place of a directory")
        with pytest.raises(KeyError):
            client.call("try_claim", key="blue")
        numbers = metrics(server.url)
    assert sum(value for name, value in numbers.items() if name.startswith("mcp_claims_store_errors_total")) >= 1


def metrics(url: str) -> dict[str, float]:
    """Return each sample of `/metrics`, as Prometheus' own parser reads it."""
    answer = ask(url, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


def samples(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'(mcp_claims_[a-z_]+(?:\{[a-z_]+="[^"]*"(?:,[a-z]+="[^"]*")*\})?) (\S+)', line)
            assert match, line
            found[match[1]] = float(match[2])
    return found


@pytest.mark.parametrize("path", ["/", "/metrics", "/board/stream", "/board/release", "/healthz"])
def test_the_endpoint_of_mcp_has_another_path(path: str, store: FileStore) -> None:
    with pytest.raises(InvalidInputError, match="must be a path like /mcp"):
        build_app(lambda: one_client(store), HttpSettings(path=path))


@pytest.fixture
def store(claims_dir: Path) -> FileStore:
    return FileStore(claims_dir)
