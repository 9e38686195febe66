"""`mcp-claims completion`: what a shell runs to complete commands and options."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from mcp_claims.cli.output import write_line

_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_completion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "completion",
        help="print what makes a shell complete commands and options",
        description="Print what makes a shell complete commands and options.",
        epilog='examples:\n  eval "$(mcp-claims completion bash)"      # in ~/.bashrc\n'
        "  mcp-claims completion fish > ~/.config/fish/completions/mcp-claims.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("shell", choices=_SHELLS)
    command.set_defaults(run=_completion)


def _completion(options: SimpleNamespace) -> int:
    from argcomplete.shell_integration import shellcode

    write_line(shellcode(["mcp-claims"], shell=options.shell))
    return 0
