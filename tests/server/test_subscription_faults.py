"""What goes wrong while one is told of changes is the end of no other's notices, and not of the server."""

from __future__ import annotations

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
from mcp_claims.stores.files.store import FileStore

pytestmark = pytest.mark.anyio

URI = "claims://default/red"
WITHIN = 20  # s


class Session:
    """A connection that is told by *tell*."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    async def send_resource_updated(self, uri: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._tell(uri)


def session(tell: Callable[[str], None]) -> ServerSession:
    return cast("ServerSession", Session(tell))


@pytest.mark.rule("V10")
async def test_a_connection_that_cannot_be_told_is_not_the_end_of_the_others(claims_dir: Path) -> None:
    claims = process_session(FileStore(claims_dir))
    claims.try_claim("red")
    heard = anyio.Event()

    def broken(_: str) -> None:
        raise BrokenPipeError

    async with subscriptions(claims) as told:
        told.subscribe("broken", session(broken), URI)
        told.subscribe("sound", session(lambda _: heard.set()), URI)
        for _ in range(2):
            claims.try_claim("red")
            with anyio.fail_after(WITHIN):
                await heard.wait()
            heard = anyio.Event()


async def test_what_was_unsubscribed_while_another_was_told_is_not_told(claims_dir: Path) -> None:
    claims = process_session(FileStore(claims_dir))
    uris = {f"claims://default/{key}" for key in ("red", "blue")}
    heard: list[str] = []

    async with subscriptions(claims) as told:

        def hear(uri: str) -> None:
            heard.append(uri)
            for other in uris - {uri}:
                told.unsubscribe("one", other)

        for uri in uris:
            told.subscribe("one", session(hear), uri)
        claims.try_claim("red")
        claims.try_claim("blue")
        with anyio.fail_after(WITHIN):
            while not heard:
                await anyio.sleep(0.01)
        await anyio.sleep(4 * module.BATCH_INTERVAL)
    assert len(set(heard)) == 1


@pytest.mark.rule("V10")
async def test_what_fails_while_it_is_looked_at_is_looked_at_again(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims = process_session(FileStore(claims_dir))
    monkeypatch.setattr(module, "_POLL_INTERVAL", 0.02)
    looks = 0
    heard = anyio.Event()

    async def look(self: Any, uri: str) -> object:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("can't start new thread")
        return looks

    monkeypatch.setattr(module.Subscriptions, "_fingerprint", look)
    async with subscriptions(claims) as told:
        # There is no directory yet, so it cannot be watched.
        told.subscribe("one", session(lambda _: heard.set()), URI)
        with anyio.fail_after(WITHIN):
            await heard.wait()
    assert "can't start new thread" in caplog.text
