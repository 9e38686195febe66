"""The command `mcp-claims`: parses the command line, runs one command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from mcp_claims import __version__
from mcp_claims.cli.errors import USAGE_ERROR, describe, exit_code_of
from mcp_claims.cli.output import discard, open_closed_streams, write_error
from mcp_claims.errors import ClaimsError
from mcp_claims.render import phrases

# The module and the summary of each command.  Only the module of the command at hand is imported: hosts run a check
# before each tool call, and the SDK alone takes most of a second.
COMMANDS = {
    "serve": ("serve", "serve one MCP client over stdin and stdout, or many over Streamable HTTP"),
    "list": ("list", "list claims and outcomes, expired and orphaned claims included"),
    "why": ("history", "say why a key is not free: who has it, who waits, who was refused, what the last holders left"),
    "history": ("history", "print what happened to claims: grants, refusals, takeovers, releases with their notes"),
    "top": ("history", "list the keys that sessions meet at: refusals, times held and waited, duplicates prevented"),
    "verify": ("verify", "check the history for what is promised: one holder, generations grow, done stays done"),
    "show": ("claim_commands", "show everything that is known about one key"),
    "try": ("claim_commands", "claim a key for a process or a session that lives on"),
    "check": ("claim_commands", "check whether you may claim a key: it is neither held by another session nor done"),
    "release": ("claim_commands", "release your claim, or revoke the claim of a holder that hangs"),
    "hold": ("hold", "hold a key yourself until a time, so that no agent takes it; `release` ends it"),
    "wait": ("wait", "wait until a key is free, or several; with --take, claim it"),
    "prune": ("claim_commands", "remove expired and orphaned claims, and unreadable ones that outlived any TTL"),
    "forget": ("claim_commands", "remove the record of how the work on a key ended, so that it can be done again"),
    "run": ("run", "run a command while holding a key, unless another session holds it; with --once until it succeeds"),
    "monitor": (
        "monitor",
        "print a line when it is your session's turn, or it has lost a claim, for a host that reads the lines",
    ),
    "hook": ("hook", "answer a hook of a host; `mcp-claims install HOST --guard` makes the host run this"),
    "git-hook": ("git_hook", "answer git before a commit or a push; `mcp-claims install git` makes git run this"),
    "install": (
        "install",
        "add the server, and hooks on request, to a host, or hooks to git; all that is not ours stays as it is",
    ),
    "uninstall": (
        "install",
        "remove the server and its hooks from a host, or the hooks from git; all that is not ours stays",
    ),
    "instructions": ("instructions", "print the lines about claims for a project's CLAUDE.md or AGENTS.md"),
    "board": ("board", "show who holds what, who waits and what has happened, in the browser, as it changes"),
    "doctor": ("doctor", "check that claims work here, changing none: store, stored claims, clocks, process identity"),
    "demo": (
        "demo",
        "watch three agents see one event, and one of them die, in a directory that is removed afterwards",
    ),
    "completion": ("completion", "print a script that makes a shell complete commands and options"),
}
# Commands whose text is for people; the others speak to hosts and models.
_FOR_PEOPLE = frozenset({"list", "show", "try", "check", "release", "hold", "wait", "forget", "run", "why"})
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
    completing = _COMPLETING in os.environ
    typed = os.environ["COMP_LINE"].split()[1:] if completing else words
    # No option before the command has a value, so argparse takes the same word for the command.
    first = next((word for word in typed if not word.startswith("-")), None)
    chosen = first if first in COMMANDS else None
    parser = build_parser(chosen)
    if completing:
        import argcomplete  # An import of 30 ms that completion alone needs.

        argcomplete.autocomplete(parser)
    # `run` gets everything after `--` unparsed: argparse would remove a second `--`, which belongs to the command.
    end = words.index("--") if chosen == "run" and "--" in words else len(words)
    try:
        options, unknown = parser.parse_known_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
        if unknown:  # By the parser of the command, whose usage names the options that there are.
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as stop:
        # A host takes exit code 2 of a hook for a denial.
        sys.exit(1 if chosen == "hook" and stop.code == USAGE_ERROR else stop.code)
    if not gc.isenabled():  # `__main__` has stopped it.
        gc.freeze()  # What is imported stays, and need not be searched.
        gc.enable()
    if chosen in _FOR_PEOPLE:
        phrases.use_local_time()
    return _run(options)


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command *chosen*, or else of the names of all commands, without their options."""
    # Without a width, argparse imports `shutil`, and with it all that unpacks archives, to measure the terminal.
    formatter = partial(argparse.RawDescriptionHelpFormatter, width=_columns() - 2)
    parser = argparse.ArgumentParser(
        prog="mcp-claims",
        formatter_class=formatter,
        description="Exclusive claims for agents that run side by side: of all that see an event, exactly one acts.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-claims {__version__}")
    commands = parser.add_subparsers(prog=parser.prog, required=True, metavar="COMMAND")
    for name in COMMANDS if chosen is None else (chosen,):
        module, summary = COMMANDS[name]
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=formatter,
        )
        if name == chosen:
            getattr(importlib.import_module(f"mcp_claims.cli.{module}"), f"configure_{name.replace('-', '_')}")(command)
            command.set_defaults(parser=command)
    return parser


def _columns() -> int:
    """Return the width of the terminal, as `shutil.get_terminal_size` does."""
    with suppress(KeyError, ValueError):
        return int(os.environ["COLUMNS"]) or 80
    with suppress(OSError, AttributeError, ValueError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    return 80


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
