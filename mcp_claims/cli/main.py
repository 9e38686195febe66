"""The command `mcp-claims`: parses the command line, runs one command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mcp_claims import __version__
from mcp_claims.cli.errors import USAGE_ERROR, describe, exit_code_of
from mcp_claims.cli.options import Subparsers
from mcp_claims.cli.output import discard, open_closed_streams, write_error, write_line
from mcp_claims.errors import ClaimsError

# The module of each command.  Only that of the command at hand is imported: hosts run a check before each tool call,
# and the SDK alone takes most of a second.
_MODULES = {
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
    "completion": "main",
}
_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
_COMPLETING = "_ARGCOMPLETE"  # The variable that shells set to complete a command line.
_INTERRUPTED, _BROKEN_PIPE = 128 + 2, 128 + 13  # As a shell reports an end by SIGINT and by SIGPIPE.


def command() -> NoReturn:
    """Run the command line of this process, and end the process with its exit code."""
    open_closed_streams()
    code = main(sys.argv[1:])
    # The interpreter's shutdown takes a sixth of the time of a short command and has nothing to do: the streams have been
    # flushed, and all threads are daemons.
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run the command line *arguments*; return the exit code: 0 yes or done, 1 no, 2 wrong usage, 3 store trouble."""
    words = list(arguments)
    only = words[0] if words and words[0] in _MODULES and _COMPLETING not in os.environ else None
    parser = build_parser(only)
    if _COMPLETING in os.environ:
        import argcomplete  # An import of 30 ms that completion alone needs.

        argcomplete.autocomplete(parser)
    # `run` gets everything after `--` unparsed: argparse would remove a second `--`, which belongs to the command.
    end = words.index("--") if only == "run" and "--" in words else len(words)
    try:
        options = parser.parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
    except SystemExit as stop:
        # A host takes exit code 2 of a hook for a denial.
        sys.exit(1 if only == "hook" and stop.code == USAGE_ERROR else stop.code)
    return _run(options)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of *only* one."""
    parser = argparse.ArgumentParser(
        prog="mcp-claims",
        description="Exclusive claims for agents that run side by side: of all that see an event, exactly one acts.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-claims {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in _MODULES.items():
        if only in (None, name):
            getattr(importlib.import_module(f"mcp_claims.cli.{module}"), f"add_{name}")(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except ClaimsError as error:
        write_error(describe(error, options))
        return exit_code_of(error)
    except KeyboardInterrupt:
        return _INTERRUPTED  # Ctrl-C during a wait is no defect: no traceback.
    except BrokenPipeError:
        discard(sys.stdout)
        return _BROKEN_PIPE
    return code


def add_completion(commands: Subparsers) -> None:
    """Add `completion`."""
    completion = commands.add_parser(
        "completion",
        help="print a script that makes a shell complete commands and options",
        description="Print a script that makes a shell complete commands and options.",
        epilog='examples:\n  eval "$(mcp-claims completion bash)"      # in ~/.bashrc\n'
        "  mcp-claims completion fish > ~/.config/fish/completions/mcp-claims.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=_SHELLS)
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode  # An import of 30 ms that completion alone needs.

    write_line(shellcode(["mcp-claims"], shell=options.shell))
    return 0
