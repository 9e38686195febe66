"""`/livez`, `/readyz`, the end at SIGTERM, the access log, TLS: over HTTP, as an operator sees the server."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import anyio
import httpx2
import pytest

from mcp_claims.server import probes
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore
from tests.server.http.test_serving import CALL, HEADERS
from tests.support.etcd import Cluster, free_ports, fresh_config, one_node
from tests.support.http_servers import http_client, http_server
from tests.support.programs import installed
from tests.support.proxy import Proxy
from tests.support.servers import structured_of

pytestmark = pytest.mark.anyio


async def get(url: str, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=60) as plain:
        return await plain.get(url.replace("/mcp", path))


async def test_a_server_lives_and_is_not_ready_while_the_cluster_is_away(claims_dir: Path) -> None:
    with closing(Proxy(one_node().clients[0])) as proxy:
        url = f"etcd://127.0.0.1:{proxy.port}{fresh_config().prefix}"
        with http_server(None, "--store", url) as server:
            assert (await get(server.url, "/readyz")).json() == {"status": "ok"}
            proxy.cut()
            while (answer := await get(server.url, "/readyz")).status_code == 200:
                await anyio.sleep(0.05)
            assert (answer.status_code, answer.json()["problem"]) == (503, "NoAnswer")
            assert (await get(server.url, "/livez")).json() == {"status": "ok"}
            proxy.mend()
            while (answer := await get(server.url, "/readyz")).status_code != 200:
                await anyio.sleep(0.05)


async def test_a_probe_is_in_no_history_and_in_no_number(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        assert (await get(server.url, "/readyz")).status_code == 200
        numbers = (await get(server.url, "/metrics")).text
        assert "mcp_claims_grants_total 0\n" in numbers
    assert not list((claims_dir / ".history").glob("*"))


async def test_a_server_is_not_ready_while_the_cluster_has_no_room() -> None:
    with closing(Cluster()) as cluster, http_server(None, "--store", cluster.url("/claims")) as server:
        assert (await get(server.url, "/readyz")).status_code == 200
        member = cluster.ask(0, "/v3/maintenance/status", {})["header"]["member_id"]
        cluster.ask(0, "/v3/maintenance/alarm", {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"})
        while (answer := await get(server.url, "/readyz")).status_code == 200:
            await anyio.sleep(0.05)
        assert answer.json()["problem"] == "StoreUnavailableError"


@contextmanager
def asgi_server(claims_dir: Path, port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Serve `create_app` by uvicorn, without a time limit for its end."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "mcp_claims.server.http:create_app", "--port", str(port)]
    env = os.environ | {"MCP_CLAIMS_DIR": str(claims_dir)} | environment
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("served_by", ["serve --http", "uvicorn"])
async def test_a_wait_in_flight_is_answered_at_sigterm_and_the_server_ends(claims_dir: Path, served_by: str) -> None:
    async def waits(url: str, process: subprocess.Popen[str]) -> None:
        async with (
            http_client(url, "2026-07-28", ends=False) as client,
            http_client(url, "2026-07-28", ends=False) as holder,
        ):
            handles = [structured_of(await each.call_tool("open_session", {}))["session"] for each in (holder, client)]
            await holder.call_tool("try_claim", {"key": "red", "session": handles[0]})
            answers = []

            async def wait() -> None:
                arguments = {"key": "red", "session": handles[1], "wait_seconds": 300}
                answers.append(structured_of(await client.call_tool("try_claim", arguments)))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(1.0)
                process.send_signal(signal.SIGTERM)
            assert [each["status"] for each in answers] == ["held"]
        assert await anyio.to_thread.run_sync(lambda: process.wait(60)) in (0, -signal.SIGTERM)

    if served_by == "uvicorn":
        (free_port,) = free_ports(1)
        with asgi_server(claims_dir, free_port) as process:
            url = f"http://127.0.0.1:{free_port}/mcp"
            while True:
                try:
                    await get(url, "/livez")
                    break
                except httpx2.TransportError:
                    await anyio.sleep(0.1)
            await waits(url, process)
    else:
        with http_server(claims_dir) as server:
            await waits(server.url, server.process)


@pytest.mark.parametrize("chosen", [True, False])
async def test_requests_are_logged_by_choice(claims_dir: Path, chosen: bool) -> None:
    with http_server(claims_dir, *(["--access-log"] if chosen else [])) as server:
        assert (await get(server.url, "/livez")).status_code == 200
        server.process.terminate()
        assert server.process.stderr is not None
        assert ("mcp-claims: 127.0.0.1 GET /livez 200 " in server.process.stderr.read()) is chosen


async def test_what_a_client_says_cannot_disturb_or_fill_the_access_log(claims_dir: Path) -> None:
    with http_server(claims_dir, "--access-log") as server:
        with socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))) as plain:
            forwarded = b"X-Forwarded-For: \x1b[2J 1.2.3.4 GET /admin 200\r\nHost: localhost\r\nConnection: close\r\n"
            plain.sendall(b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\n" + forwarded + b"\r\n")
            while plain.recv(4_096):
                pass
        server.process.terminate()
        assert server.process.stderr is not None
        (line,) = [line for line in server.process.stderr if " 404 " in line]
        assert line.startswith("mcp-claims: [2J_1.2.3.4_GET_/admin_200 GET /aaa")
        assert len(line) < 300 and line.strip().isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be polled there")
async def test_a_server_whose_stderr_nobody_reads_goes_on(claims_dir: Path) -> None:
    with http_server(claims_dir, "--access-log") as server:
        async with httpx2.AsyncClient(timeout=60) as plain:
            # More than a pipe holds.
            for _ in range(500):
                assert (await plain.get(server.url.replace("/mcp", f"/{'a' * 300}"))).status_code == 404


async def test_a_server_that_had_no_thread_for_a_probe_is_ready_later(monkeypatch: pytest.MonkeyPatch) -> None:
    probes_of_none = probes.Probes(lambda: SessionRegistry(MemoryStore(), own=None))

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(probes, "start_daemon_thread", no_thread)
        assert await probes_of_none._find_problem() == "RuntimeError"
    assert await probes_of_none._find_problem() is None


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that nobody has signed, and its key."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", "/O=claims", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run([installed("openssl"), *new, *names, *files], check=True, capture_output=True)
    return certificate, key


async def test_a_server_with_a_certificate_serves_https(claims_dir: Path, certificate: tuple[Path, Path]) -> None:
    chain, key = map(str, certificate)
    with http_server(claims_dir, "--tls-cert", chain, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=chain), timeout=60) as plain:
            assert (await plain.post(server.url, json=CALL, headers=HEADERS)).status_code == 200


def test_a_certificate_that_is_none_is_refused(claims_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    command = [sys.executable, "-m", "mcp_claims", "serve", "--http", "--port", "0", "--dir", str(claims_dir)]
    done = subprocess.run([*command, "--tls-cert", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--tls-cert" in done.stderr, done.stderr


async def test_a_probe_wakes_nobody_who_subscribes_to_a_namespace(claims_dir: Path) -> None:
    store, noticed = FileStore(claims_dir), Event()
    registry = SessionRegistry(store, own=None)
    session = process_session(store)
    session.try_claim("red")
    with session.watch("default", noticed.set) as watched:
        assert watched
        noticed.wait(1)  # Perhaps for the claim.
        noticed.clear()
        registry.check_claims()
        assert not noticed.wait(1)
        session.release("red")
        assert noticed.wait(60)
