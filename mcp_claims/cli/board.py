"""`mcp-claims board`: the claims as a page in the browser, for one person on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import html
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mcp_claims.board.live import Board
from mcp_claims.board.local import HOST, local_board
from mcp_claims.board.past import past_of
from mcp_claims.cli.errors import YES
from mcp_claims.cli.options import add_epilog, add_store_options, chosen_store, from_home, store_choice
from mcp_claims.cli.output import write_error, write_line
from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import local_machine
from mcp_claims.session.identity import person_session, process_session


def configure_board(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `board`."""
    add_epilog(parser, "  mcp-claims board\n  mcp-claims board --no-open --port 8770", "0 ended by Ctrl-C")
    add_store_options(parser)
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port to listen on, on loopback (a free one)")
    parser.add_argument(
        "--no-open", dest="open", action="store_false", help="print the address and open no browser; it has a token"
    )
    parser.set_defaults(run=_board)


def _board(options: argparse.Namespace) -> int:
    if not 0 <= options.port <= 65_535:
        raise InvalidInputError("--port", "must be a number from 0 to 65535")
    store, choice, machine = chosen_store(options), store_choice(options), local_machine()
    person = person_session(store, machine)
    where = choice.url or from_home(choice.directory)
    board = Board(store, process_session(store, machine), machine, where=where, past=past_of(store))
    board.wait(None, 0)  # The first reading goes on while a browser starts.
    signal.signal(signal.SIGTERM, _interrupt)  # What the browser was opened with is removed.
    try:
        with local_board(board, person, options.port) as served, _for_browser(served.url) as opened:
            write_line(
                f"The board is at {served.url}\nCtrl-C ends it. The address has a token in it: whoever has it can release claims."
            )
            if options.open and _has_browser():
                import webbrowser  # Only here: its import looks for browsers.

                if not webbrowser.open(opened):
                    write_error("no browser could be opened; open the address in one")
            served.serve()
    except OSError as error:
        raise InvalidInputError(
            "--port", f"{options.port} cannot be listened on, on {HOST}: {error.strerror}"
        ) from error
    except KeyboardInterrupt:
        return YES
    return YES


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _has_browser() -> bool:
    """Return whether a browser would be a window, not a program that takes the terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


@contextmanager
def _for_browser(url: str) -> Iterator[str]:
    """Yield the address of a file that leads to *url*, during the block.

    Every user of this machine can read the command lines of processes, so the token must not be in that of the browser.
    """
    with tempfile.TemporaryDirectory(prefix="mcp-claims-board-") as directory:
        path = os.path.join(directory, "board.html")
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                f'<!doctype html><title>Claims</title><meta http-equiv="refresh" content="0; url={html.escape(url)}">'
            )
        yield f"file://{path}" if os.sep == "/" else f"file:///{path.replace(os.sep, '/')}"
