"""The end of a server on stdio: by a signal, by the death of its host, or because its client has gone."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import closing
from functools import partial
from typing import NoReturn

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Holder
from mcp_claims.server.log import logger
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.stores.threads import start_daemon_thread

_HOST_INTERVAL = 1.0
"""Seconds between two checks that the host still lives, where the system does not report its end."""

LONGEST_SILENCE = 1.0
"""Seconds without an answer, after the end of the input, after which calls in progress are cut off: a lock that a stopped
process holds must not delay the end."""

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
"""The signals that end a server."""


def stop(registry: SessionRegistry) -> NoReturn:
    """Release what the sessions hold, and end the process, whatever else it is doing."""
    try:
        registry.close(dying=True)
    except Exception:
        # A defect must not leave a server that no signal can stop: while it lives, so do its claims.
        logger.exception("ending the sessions failed")
        leave(1)
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process by `os._exit`.

    Hosts leave stdin open when they send SIGINT, and a thread may be blocked in reading it, so an orderly exit of the
    interpreter would wait for that thread until the host's SIGKILL.
    """
    sys.stderr.flush()
    os._exit(code)


def stop_with_host() -> None:
    """Send this process SIGTERM once its host has died, since a child of the host may keep our stdin open for ever.

    The host is the process that has the other end of stdin.  A wrapper in between, such as `uv run`, may die before it.
    """
    # A descriptor of its own: what is 0 now will be another file.
    start_daemon_thread(partial(_watch_host, os.dup(0)), "mcp-claims host")


def _watch_host(stdin: int) -> None:
    try:
        hosts = local_machine().peers(stdin)
    finally:
        os.close(stdin)
    for host in hosts:
        _wait_for_end(host)
    if hosts:
        logger.warning("the host has died, and something else keeps its pipe open; the server ends")
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_end(host: Holder) -> None:
    machine = local_machine()
    watched = machine.watch_exit(host)
    if watched is not None:
        with closing(watched):
            if not machine.provably_dead(host):
                select.select([watched], [], [])
    while not machine.provably_dead(host):
        time.sleep(_HOST_INTERVAL)
