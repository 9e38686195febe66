"""`mcp-claims monitor`: prints a line for each change that concerns the session of the host that has started it.

A host gives these lines to its model, as Claude Code does with the monitor of a plugin.  The command holds nothing and writes
nothing.  It ends with its host, or when nobody reads its output any more.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from mcp_claims.cli.errors import YES, describe
from mcp_claims.cli.options import add_epilog, add_store_options, chosen_store
from mcp_claims.cli.output import write_error, write_line
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine, ProcessExit, local_machine
from mcp_claims.model.records import Claim, Holder
from mcp_claims.render.changes import Changes, View
from mcp_claims.session.acquire import HasFileno, Wakeup
from mcp_claims.session.host_session import Whose, host_session_of_environment, whose
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ListedClaim
from mcp_claims.session.session import Session

_PAGE = 5_000
_MAX_LINES = 20  # at once: a host suppresses a monitor that prints too many

# A notice can be lost, and a new ticket causes none; the shortest-lived ticket is kept for half a minute.
_POLL_INTERVAL, _WATCHED_POLL_INTERVAL = 5.0, 20.0  # s

# After any change the monitor reads all claims: in a busy fleet, for at most this share of the time.
_SHARE_OF_TIME = 1 / 20
_SETTLE_TIME, _MAX_PAUSE = 0.05, 5.0  # s

_MAX_OTHERS = 10_000  # holders that are remembered, for hosts that stay open for days


def configure_monitor(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `monitor`."""
    add_epilog(
        parser,
        "  mcp-claims monitor    # your turn: a key is kept for it; lost: a claim ended; released: what it waited for is free",
        "0 the host has ended, or nobody reads the lines",
    )
    add_store_options(parser)
    parser.set_defaults(run=_monitor)


def _monitor(options: argparse.Namespace) -> int:
    machine = local_machine()
    session = process_session(chosen_store(options), machine)
    above = next((each.pid for each in machine.programs_above(machine.pid()) if not each.is_launcher), None)
    host = None if above is None else Holder("host", above, machine.proof(above))
    changes, reader, reported = Changes(_ours(machine), machine.provably_dead), _reader(), ""
    with closing(Wakeup()) as wakeup, _exit_of(session, host) as host_exit:
        while True:
            with session.watch(None, wakeup.set) as watched:
                while True:
                    started, seconds = time.monotonic(), _WATCHED_POLL_INTERVAL if watched else _POLL_INTERVAL
                    try:
                        view = _look(session)
                        lines, reported = changes.lines(view), ""
                        if (change := changes.next_change(view.now)) is not None:
                            seconds = min(seconds, change)
                    except ClaimsError as error:
                        # The store may answer again, and a host starts a monitor only once.
                        lines, problem = [], describe(error, options)
                        if problem != reported:
                            write_error(problem)
                        reported = problem
                    if len(lines) > _MAX_LINES:
                        lines[_MAX_LINES:] = [f"And {len(lines) - _MAX_LINES} more, which list_claims shows."]
                    if not all(map(write_line, lines)) or _has_gone(reader) or (host and machine.provably_dead(host)):
                        return YES
                    took = time.monotonic() - started
                    time.sleep(min(_MAX_PAUSE, max(_SETTLE_TIME, took / _SHARE_OF_TIME)))
                    wakeup.wait(seconds, host_exit, reader)
                    if not watched:
                        break  # Perhaps it can be watched by now.


def _ours(machine: Machine) -> Callable[[Claim], bool]:
    """Return a function that says whether a claim belongs to the session of the host of this process."""
    us = host_session_of_environment(os.environ, machine)
    # What is ours stays so when its process has ended, although nothing shows any more who had started that.
    ours: set[Holder] = set()
    others: set[Holder] = set()

    def is_ours(claim: Claim) -> bool:
        if claim.holder not in ours and claim.holder not in others:
            answer = whose(claim, us, machine)
            if answer is not Whose.UNKNOWN:
                if len(others) == _MAX_OTHERS:
                    others.clear()
                (ours if answer is Whose.OURS else others).add(claim.holder)
        return claim.holder in ours

    return is_ours


def _look(session: Session) -> View:
    claims: list[ListedClaim] = []
    after: str | None = ""
    while after is not None:
        page = session.list_claims(after=after, limit=_PAGE)
        claims += page.claims
        after = page.after
    return View(session.now(), claims, session.queue.read_all())


@contextmanager
def _exit_of(session: Session, host: Holder | None) -> Iterator[ProcessExit | None]:
    watched = None if host is None else session.watch_exit(host)
    try:
        yield watched
    finally:
        if watched is not None:
            watched.close()


class _Reader:
    """Whoever reads the output; in a `Wakeup.wait` it is readable once nobody does."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def _reader() -> _Reader | None:
    """Return the reader of the output; `None` for a file, which is always readable, and for a terminal."""
    with suppress(OSError, ValueError):
        mode = os.fstat(sys.stdout.fileno()).st_mode
        if sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return _Reader(sys.stdout.fileno())
    return None


def _has_gone(reader: HasFileno | None) -> bool:
    """Return whether *reader* has closed its end, which no write would notice before there is something to write."""
    if reader is None or sys.platform == "win32":
        return False
    import select  # Where there is a reader, there is `poll`.

    hung_up = select.poll()
    hung_up.register(reader.fileno() or 0, 0)
    return bool(hung_up.poll(0))
