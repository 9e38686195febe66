"""`mcp-claims completion`: print a script that makes a shell complete commands and options."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode

from mcp_claims.cli.output import write_line

_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def configure_completion(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `completion`."""
    parser.epilog = (
        'examples:\n  eval "$(mcp-claims completion bash)"      # in ~/.bashrc\n'
        "  mcp-claims completion fish > ~/.config/fish/completions/mcp-claims.fish"
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that completes")
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    write_line(shellcode(["mcp-claims"], shell=options.shell))
    return 0
