"""The command `mcp-claims`: arguments, and which command runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from mcp_claims import __version__
from mcp_claims.cli.doctor import add_doctor
from mcp_claims.cli.install import add_install
from mcp_claims.cli.serve import add_serve
from mcp_claims.errors import ClaimsError

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

    add_serve(commands)
    add_doctor(commands)
    add_install(commands)

    demo = commands.add_parser("demo", help="watch three agents meet one event, and one of them die")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:  # noqa: ARG001 (every command takes its options)
    from mcp_claims.cli.demo import demo

    return demo()
