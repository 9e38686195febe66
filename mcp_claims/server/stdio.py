"""Serving one client over stdin and stdout, from the first message to a quick and orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

import anyio
from mcp.server.stdio import stdio_server

from mcp_claims.server.app import build_server
from mcp_claims.server.pipes import host_pipes
from mcp_claims.server.registry import SessionRegistry

_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

logger = logging.getLogger(__name__)


def serve_stdio(registry: SessionRegistry) -> NoReturn:
    """Serve until the client goes or a signal arrives; then release what the sessions hold, and exit.

    The process ends by `os._exit`.  Where stdin is not a pipe, a worker thread of the SDK may be blocked in reading
    it.  Hosts leave stdin open when they send SIGINT, so an orderly exit of the interpreter would wait for that thread
    until the host's SIGKILL.
    """
    try:
        anyio.run(_serve, registry)
    except Exception:
        logger.exception("serving failed")
        _exit(1)
    _exit(0)


async def _serve(registry: SessionRegistry) -> None:
    _stop_on_signals(registry)
    server = build_server(lambda: registry)
    async with stdio_server(*host_pipes()) as (reading, writing):
        try:
            await server.run(reading, writing, server.create_initialization_options())
        except anyio.get_cancelled_exc_class():
            # Writing failed, so the client has gone, although it may have left stdin open.  The sessions have ended on
            # the way here.
            _exit(0)


def _stop_on_signals(registry: SessionRegistry) -> None:
    def stop() -> NoReturn:
        try:
            registry.close(dying=True)
        except Exception:
            # A defect must not leave a server that no signal can stop: while it lives, so do its claims.
            logger.exception("ending the sessions failed")
            _exit(1)
        _exit(0)

    for number in _STOPS:
        if sys.platform == "win32":
            # No event loop handles signals there; Python runs this between two steps of the loop.
            signal.signal(number, lambda *_: stop())
        else:
            asyncio.get_running_loop().add_signal_handler(number, stop)


def _exit(code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(code)
