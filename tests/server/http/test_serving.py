"""Serving over HTTP: who is let in, what is refused at start, limits, health, and nothing secret on stderr."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from mcp_claims.server.http import create_app
from tests.support.http_servers import http_client, http_server
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT, structured_of

pytestmark = pytest.mark.anyio

TOKEN = "correct-horse-battery"
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "prune", "arguments": {}, "_meta": ENVELOPE},
}
HEADERS = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "prune",
}


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Start a server that must not start; return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "mcp_claims", "serve", *arguments],
        env=PYTHON_ENVIRONMENT | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


@pytest.mark.rule("I9")
@pytest.mark.parametrize(
    ("arguments", "env", "rule"),
    [
        pytest.param(["--http", "--host", "0.0.0.0"], {}, "can be reached by others", id="all addresses"),
        pytest.param(["--http", "--host", "example.org"], {}, "can be reached by others", id="a name"),
        pytest.param(["--http", "--path", "mcp"], {}, "must be a path like /mcp", id="no path"),
        pytest.param(["--http", "--path", "/healthz"], {}, "must be a path like /mcp", id="the path of healthz"),
        pytest.param(["--http", "--port", "70000"], {}, "0 to 65535", id="no port"),
        pytest.param(["--http", "--idle-minutes", "0"], {}, "above 0", id="no idle time"),
        pytest.param(["--keep-alive-hours", "nan"], {}, "above 0", id="no number of hours"),
        pytest.param(["--port", "1"], {}, "needs --http", id="a port without http"),
        pytest.param(
            ["--http", "--session", "x"],
            {},
            "clients send the header Mcp-Claims-Session",
            id="a fixed session over http",
        ),
        pytest.param(["--session", ""], {}, "1 to 64 printable", id="an empty session name"),
        pytest.param(["--http"], {"MCP_CLAIMS_TOKEN": "short"}, "at least 16", id="a short token"),
        pytest.param(["--http"], {"MCP_CLAIMS_TOKEN": ""}, "at least 16", id="an empty token"),
        pytest.param(["--http", "--token-file", "/nowhere/tokens"], {}, "cannot be read", id="no token file"),
    ],
)
def test_what_cannot_be_served_is_refused_at_start_with_the_rule(
    arguments: list[str], env: dict[str, str], rule: str
) -> None:
    output = refused(*arguments, env=env)
    assert rule in output
    assert "Traceback" not in output


def test_a_token_file_that_others_can_write_or_that_is_empty_is_refused(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# none\n\n")
    tokens.chmod(0o600)
    assert "has no token in it" in refused("--http", "--token-file", str(tokens))
    tokens.write_text(TOKEN)
    tokens.chmod(0o620)
    output = refused("--http", "--token-file", str(tokens))
    assert "others can write" in output and TOKEN not in output


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("--http", "--port", str(port)) == (
            f"mcp-claims: --port {port} is in use on 127.0.0.1; choose another, or 0 for a free one. Nothing was changed.\n"
        )


def test_an_address_that_is_not_of_this_machine_is_refused() -> None:
    output = refused("--http", "--host", "192.0.2.1", env={"MCP_CLAIMS_TOKEN": TOKEN})
    assert output.startswith("mcp-claims: --host 192.0.2.1 cannot be listened on, with port 8765: ")


@pytest.mark.rule("I9")
def test_what_is_likely_a_mistake_is_warned_of_and_served(claims_dir: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    for mode, environment, warning in [
        (0o644, {}, "can be read by every user"),
        (0o600, {"MCP_CLAIMS_SESSION": "ci"}, "MCP_CLAIMS_SESSION is for stdin and stdout"),
        (0o600, {}, ""),
    ]:
        tokens.chmod(mode)
        command = [sys.executable, "-m", "mcp_claims", "serve", "--http", "--port", "0", "--dir", str(claims_dir)]
        with subprocess.Popen(
            [*command, "--token-file", str(tokens)],
            env=PYTHON_ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            output: list[str] = []
            while not output or "serving http" not in output[-1]:
                output.append(process.stderr.readline())
                assert output[-1]
            process.terminate()
        assert warning in output[0] and TOKEN not in "".join(output)
        assert len(output) == (2 if warning else 1)


@pytest.mark.rule("I9")
async def test_only_who_has_a_token_is_let_in_and_no_token_is_logged(claims_dir: Path) -> None:
    with http_server(claims_dir, "--host", "0.0.0.0", env={"MCP_CLAIMS_TOKEN": TOKEN}) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx2.AsyncClient() as plain:
            for given in ({}, {"authorization": "Bearer wrong-horse-battery"}, {"authorization": f"Basic {TOKEN}"}):
                answer = await plain.post(url, json=CALL, headers=HEADERS | given)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert (await plain.get(url.replace("/mcp", "/healthz"))).json() == {"status": "ok"}
        async with http_client(url, "legacy", token=TOKEN) as client:
            assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
        server.process.terminate()
        assert server.process.stderr is not None
        assert TOKEN not in server.process.stderr.read()


async def test_a_session_of_another_token_is_refused_and_its_id_is_not_logged(claims_dir: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n{TOKEN[::-1]}\n")
    tokens.chmod(0o600)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    accept = {"accept": "application/json, text/event-stream"}
    with http_server(claims_dir, "--token-file", str(tokens)) as server:
        async with httpx2.AsyncClient(headers=accept) as plain:
            opened = await plain.post(server.url, json=message, headers={"authorization": f"Bearer {TOKEN}"})
            session = opened.headers["mcp-session-id"]
            stolen = {"authorization": f"Bearer {TOKEN[::-1]}", "mcp-session-id": session}
            assert (await plain.post(server.url, json=message, headers=stolen)).status_code == 404
        server.process.terminate()
        assert server.process.stderr is not None
        output = server.process.stderr.read()
        assert "Rejecting request for session …" in output and session not in output


@pytest.mark.rule("I9")
async def test_a_page_that_made_its_name_mean_this_machine_is_refused(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        async with httpx2.AsyncClient() as plain:
            for evil in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
                answer = await plain.post(server.url, json=CALL, headers=HEADERS | evil)
                assert answer.status_code in (403, 421), answer.text
            assert (await plain.post(server.url, json=CALL, headers=HEADERS)).status_code == 200


async def test_every_loopback_address_can_be_served_and_called(claims_dir: Path) -> None:
    with http_server(claims_dir, "--host", "127.0.0.2") as server:
        async with httpx2.AsyncClient() as plain:
            assert (await plain.post(server.url, json=CALL, headers=HEADERS)).status_code == 200
            assert (await plain.post(server.url, json=CALL, headers=HEADERS | {"host": "evil"})).status_code == 421
            assert (await plain.post(server.url, json=CALL, headers=HEADERS | {"host": "LocalHost"})).status_code == 200


@pytest.mark.rule("I9")
@pytest.mark.parametrize(
    ("at", "token", "status"),
    [
        pytest.param(("192.0.2.7", 80), None, 403, id="another address"),
        pytest.param(None, None, 403, id="nobody knows where"),
        pytest.param(("127.0.0.1", 80), None, 200, id="loopback"),
        pytest.param(("/run/claims.sock", None), None, 200, id="a socket in the file system"),
        pytest.param(("192.0.2.7", 80), TOKEN, 401, id="another address, with tokens but none given"),
    ],
)
async def test_under_an_asgi_server_that_listens_elsewhere_nobody_is_let_in_without_a_token(
    claims_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: tuple[str, int | None] | None,
    token: str | None,
    status: int,
) -> None:
    monkeypatch.setenv("MCP_CLAIMS_DIR", str(claims_dir))
    if token is not None:
        monkeypatch.setenv("MCP_CLAIMS_TOKEN", token)
    app = create_app()

    async def came_in_there(scope: Scope, receive: Receive, send: Send) -> None:
        await app(dict(scope) | {"server": at}, receive, send)

    # The header says loopback, as anybody's can.
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(came_in_there), base_url="http://127.0.0.1")
    async with app.router.lifespan_context(app), client as plain:
        assert (await plain.post("/mcp", json=CALL, headers=HEADERS)).status_code == status


async def test_a_server_that_is_interrupted_by_a_person_ends_without_a_traceback(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        async with httpx2.AsyncClient() as plain:
            assert (await plain.get(server.url.replace("/mcp", "/healthz"))).status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=20) == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


async def test_a_body_that_no_call_can_need_is_refused(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        async with httpx2.AsyncClient() as plain:
            answer = await plain.post(server.url, content=b" " * 300_000, headers=HEADERS)
            assert answer.status_code == 413
            assert (await plain.post(server.url, json=CALL, headers=HEADERS)).status_code == 200


async def test_the_health_is_bad_while_the_store_cannot_answer_and_good_again_after(claims_dir: Path) -> None:
    claims_dir.mkdir(mode=0o700)
    (claims_dir / "default").mkdir(mode=0o700)
    with http_server(claims_dir) as server:
        async with httpx2.AsyncClient() as plain:
            health = server.url.replace("/mcp", "/healthz")
            assert (await plain.get(health)).status_code == 200
            claims_dir.joinpath("default").chmod(0o777)
            # It may rely on its last check for a second.
            while (answer := await plain.get(health)).status_code == 200:
                await anyio.sleep(0.05)
            assert (answer.status_code, answer.json()["problem"]) == (503, "UnsafeDirectoryError")
            assert str(claims_dir) not in answer.text
            claims_dir.joinpath("default").chmod(0o700)
            assert (await plain.get(health)).status_code == 200


async def test_a_server_that_is_asked_to_stop_while_a_stream_is_open_stops(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        async with http_client(server.url, "legacy", ends=False) as client:
            await client.call_tool("try_claim", {"key": "red"})
            server.process.terminate()
            server.process.wait(timeout=20)
        assert not (claims_dir / "default" / "red.json").exists()
