"""The command `mcp-claims`: arguments, and which command runs."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
from collections.abc import Sequence

from mcp_claims import __version__
from mcp_claims.errors import ClaimsError
from mcp_claims.opening import AGENT_AWARENESS, LAYOUT_VARIABLE, LAYOUTS, PROVIDER_VARIABLE, open_store
from mcp_claims.stores.base import Store
from mcp_claims.stores.location import DIRECTORY_VARIABLE

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 all is well, 1 it is not, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="mcp-claims: %(levelname)s: %(message)s")
    try:
        return int(options.run(options))
    except ClaimsError as error:
        print(f"mcp-claims: {error}", file=sys.stderr)
        return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-claims",
        description="Claims for agents that run side by side: of all that see an event, exactly one acts.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-claims {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve one MCP client over stdin and stdout")
    _add_store_options(serve)
    serve.set_defaults(run=_serve)

    demo = commands.add_parser("demo", help="watch three agents meet one event, and one of them die")
    demo.set_defaults(run=_demo)
    return parser


def _add_store_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dir", metavar="PATH", help=f"claims directory (else {DIRECTORY_VARIABLE}, else your own)")
    command.add_argument(
        "--layout",
        metavar="NAME",
        help=f"{' or '.join(LAYOUTS)}: whose sessions to share the claims with (else {LAYOUT_VARIABLE}, else ours)",
    )
    command.add_argument(
        "--provider",
        metavar="NAME",
        help=f"in the layout {AGENT_AWARENESS}, whose directory (else {PROVIDER_VARIABLE}, else the common one)",
    )


def _store(options: argparse.Namespace) -> Store:
    return open_store(options.dir, layout=options.layout, provider=options.provider)


def _serve(options: argparse.Namespace) -> int:
    store = _store(options)
    # Until the server has handlers of its own, a signal just ends the process: nothing is claimed yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The import makes some 300,000 objects that live as long as the process.  Looking through them again and again
    # for garbage takes a fifth of its CPU time.
    gc.disable()
    from mcp_claims.server.stdio import serve_stdio

    gc.freeze()
    gc.enable()
    serve_stdio(store)


def _demo(options: argparse.Namespace) -> int:  # noqa: ARG001 (every command takes its options)
    from mcp_claims.cli.demo import demo

    return demo()
