"""A fault in the notices of one subscriber ends neither the notices of others nor the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from mcp.server.session import ServerSession

from mcp_claims.server import subscriptions as module
from mcp_claims.server.subscriptions import subscriptions
from mcp_claims.session.identity import process_session
from mcp_claims.stores.config import open_store
from mcp_claims.stores.files.store import FileStore

pytestmark = pytest.mark.anyio

URI = "claims://default/red"
WITHIN = 20  # s


class Session:
    """A connection to which *notify* sends notices."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._tell = notify

    async def send_resource_updated(self, uri: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._tell(uri)


def session(notify: Callable[[str], None]) -> ServerSession:
    return cast("ServerSession", Session(notify))


@pytest.mark.rule("V10")
async def test_a_connection_that_cannot_be_notified_does_not_end_the_others(claims_dir: Path) -> None:
    claims = process_session(FileStore(claims_dir))
    claims.try_claim("red")
    notices = anyio.Event()

    def broken(_: str) -> None:
        raise BrokenPipeError

    async with subscriptions(claims) as subscribed:
        subscribed.subscribe("broken", session(broken), URI)
        subscribed.subscribe("sound", session(lambda _: notices.set()), URI)
        for _ in range(2):
            claims.try_claim("red")
            with anyio.fail_after(WITHIN):
                await notices.wait()
            notices = anyio.Event()


async def test_a_resource_unsubscribed_during_another_notice_makes_no_notice(claims_dir: Path) -> None:
    claims = process_session(FileStore(claims_dir))
    uris = {f"claims://default/{key}" for key in ("red", "blue")}
    notices: list[str] = []

    async with subscriptions(claims) as subscribed:

        def receive_notice(uri: str) -> None:
            notices.append(uri)
            for other in uris - {uri}:
                subscribed.unsubscribe("one", other)

        for uri in uris:
            subscribed.subscribe("one", session(receive_notice), uri)
        claims.try_claim("red")
        claims.try_claim("blue")
        with anyio.fail_after(WITHIN):
            while not notices:
                await anyio.sleep(0.01)
        await anyio.sleep(4 * module.BATCH_INTERVAL)
    assert len(set(notices)) == 1


@pytest.mark.rule("V10")
async def test_polling_goes_on_after_a_failure(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims = process_session(FileStore(claims_dir))
    monkeypatch.setattr(module, "_POLL_INTERVAL", 0.02)
    reads = 0
    notices = anyio.Event()

    async def fingerprint(self: Any, uri: str) -> object:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise RuntimeError("can't start new thread")
        return reads

    monkeypatch.setattr(module.Subscriptions, "_fingerprint", fingerprint)
    async with subscriptions(claims) as subscribed:
        # There is no directory yet, so it cannot be watched.
        subscribed.subscribe("one", session(lambda _: notices.set()), URI)
        with anyio.fail_after(WITHIN):
            await notices.wait()
    assert "can't start new thread" in caplog.text


@pytest.mark.rule("A14")
@pytest.mark.parametrize("layout", ["mcp-claims", "agent-awareness"])
@pytest.mark.parametrize("uri", [URI, "claims://default", "claims://all"])
async def test_the_holder_is_notified_at_once_when_somebody_removes_the_directory(
    claims_dir: Path, layout: str, uri: str
) -> None:
    claims = process_session(open_store(str(claims_dir), layout=layout, environment={}))
    claims.try_claim("red")
    notices = anyio.Event()
    async with subscriptions(claims) as subscribed:
        subscribed.subscribe("holder", session(lambda _: notices.set()), uri)
        shutil.rmtree(claims_dir)
        with anyio.fail_after(WITHIN):
            await notices.wait()
        lost = claims.try_claim("red").lost
        assert lost is not None


@pytest.mark.parametrize("gone", ["removed", "moved away"])
@pytest.mark.parametrize("uri", [URI, "claims://default", "claims://all"])
async def test_a_watch_on_a_directory_that_others_have_made_again_is_replaced(
    claims_dir: Path, uri: str, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_INTERVAL", 0.02)
    monkeypatch.setattr(module, "_CHECK_INTERVAL", 0.02)
    claims = process_session(FileStore(claims_dir))
    claims.try_claim("red")
    notices = anyio.Event()

    async def notified() -> None:
        nonlocal notices
        with anyio.fail_after(WITHIN):
            await notices.wait()
        notices = anyio.Event()

    async with subscriptions(claims) as subscribed:
        subscribed.subscribe("holder", session(lambda _: notices.set()), uri)
        with anyio.fail_after(WITHIN):
            while not subscribed._watches[uri].seen:
                await anyio.sleep(0.01)
        if gone == "removed":
            shutil.rmtree(claims_dir)
        else:
            claims_dir.rename(claims_dir.with_name("elsewhere"))
        await notified()
        other = process_session(FileStore(claims_dir))
        other.try_claim("red")
        await notified()
        # Polling is over where the new directory is watched.
        monkeypatch.setattr(module, "_CHECK_INTERVAL", 3_600)
        await anyio.sleep(0.2)
        notices = anyio.Event()
        other.release("red")
        await notified()
