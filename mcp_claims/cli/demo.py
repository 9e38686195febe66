"""`mcp-claims demo`: its place on the command line; what it shows is in `demo_agents`, which imports the SDK."""

from __future__ import annotations

import argparse
from types import SimpleNamespace


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo",
        help="watch three agents meet one event, and one of them die",
        description="Watch three agents meet one event, and one of them die, in a directory that is removed afterwards.",
    )
    command.set_defaults(run=_demo)


def _demo(options: SimpleNamespace) -> int:
    from mcp_claims.cli.demo_agents import demo

    return demo()
