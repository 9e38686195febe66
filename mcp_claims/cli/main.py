"""The command `mcp-claims`: which command runs, and what its errors mean for the exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

# Where each command is.  Only the one that is asked for is imported: a check in a hook is to take no longer than the
# interpreter itself.
_COMMANDS = {
    "serve": "serve",
    "list": "list_commands",
    "show": "list_commands",
    "try": "claim_commands",
    "check": "claim_commands",
    "release": "claim_commands",
    "prune": "claim_commands",
    "run": "run",
    "hook": "hook",
    "install": "install",
    "uninstall": "install",
    "doctor": "doctor",
    "demo": "demo",
    "completion": "completion",
}
_COMPLETING = "_ARGCOMPLETE"
_USAGE = 2
_INTERRUPTED, _UNREAD = 128 + 2, 128 + 13  # What a shell makes of the end by SIGINT and SIGPIPE.


def command() -> int:
    """Be the command `mcp-claims`: run `main`, and where that was a matter of milliseconds, end as fast."""
    # A process that lives for so short a time leaves no garbage worth looking for.
    gc.disable()
    from mcp_claims.cli.output import open_closed_streams
    from mcp_claims.cli.plain import plain_options

    open_closed_streams()
    asked = sys.argv[1:]
    plain = None if _COMPLETING in os.environ else plain_options(asked)
    if plain is None:
        gc.enable()
        return main(asked)
    code = _run(plain)
    # There are no threads to wait for and no files to close; to take all modules apart would be a tenth of the time.
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 yes or well, 1 no, 2 wrong usage, 3 the store cannot answer."""
    asked = sys.argv[1:] if arguments is None else list(arguments)
    completing = _COMPLETING in os.environ
    only = asked[0] if asked and asked[0] in _COMMANDS and not completing else None
    parser = build_parser(only)
    if completing:
        import argcomplete

        argcomplete.autocomplete(parser)
    # Parsed by us: to argparse, what comes behind a key would be the command's, its options too.
    dashes = asked.index("--") if only == "run" and "--" in asked else len(asked)
    try:
        options = parser.parse_args(asked[:dashes], SimpleNamespace(after_dashes=asked[dashes + 1 :]))
    except SystemExit as end:
        # From a hook 2 would mean to a host that what is about to happen is forbidden.
        sys.exit(1 if only == "hook" and end.code == _USAGE else end.code)
    return _run(options)


def _run(options: SimpleNamespace) -> int:
    from mcp_claims.cli.output import discard, write_error
    from mcp_claims.errors import ClaimsError, InvalidInputError

    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except InvalidInputError as error:
        write_error(str(error))
        return _USAGE
    except ClaimsError as error:
        write_error(str(error))
        return 3
    except KeyboardInterrupt:
        return _INTERRUPTED  # A person who presses Ctrl-C while a command waits needs no traceback.
    except BrokenPipeError:
        # Whoever reads the list has seen enough of it.
        discard(sys.stdout)
        return _UNREAD
    return code


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of *only* one."""
    import argparse
    import importlib

    from mcp_claims import __version__

    parser = argparse.ArgumentParser(
        prog="mcp-claims",
        description="Claims for agents that run side by side: of all that see an event, exactly one acts.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-claims {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        if only in (None, name):
            getattr(importlib.import_module(f"mcp_claims.cli.{module}"), f"add_{name}")(commands)
    return parser
