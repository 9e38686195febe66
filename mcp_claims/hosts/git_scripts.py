"""The texts of git's hooks that `install git` writes: scripts for a plain POSIX shell, which git for Windows has, too.

A script denies only what the command denies.  Whatever else goes wrong, such as an interpreter that is gone, it says so in a line
and lets git go on, unless it is strict.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_claims.hosts.entries import Launch

PRE_COMMIT, PRE_PUSH = "pre-commit", "pre-push"
GUARDED = (PRE_COMMIT, PRE_PUSH)
"""The hooks that check claims."""

OTHERS = (
    *("applypatch-msg", "pre-applypatch", "post-applypatch", "pre-merge-commit", "prepare-commit-msg", "commit-msg"),
    *("post-commit", "pre-rebase", "post-checkout", "post-merge", "post-rewrite", "post-index-change", "pre-auto-gc"),
    *("reference-transaction", "pre-receive", "update", "proc-receive", "post-receive", "post-update"),
    *("sendemail-validate", "p4-changelist", "p4-prepare-changelist", "p4-post-changelist", "p4-pre-submit"),
)
"""Git's other hooks, but for `push-to-checkout`: if there is one, git no longer updates the files itself."""

ASIDE = ".before-mcp-claims"
"""Ends the name of a hook that was there before ours, which runs it."""

BEGIN, BEGIN_OF_NEW, END = "# >>> mcp-claims >>>", "# >>> mcp-claims, which made this file >>>", "# <<< mcp-claims <<<"
_MARK = "# Written by `mcp-claims install git`"


@dataclass(frozen=True, slots=True)
class GitCheck:
    """How a hook starts the check: *launch* is `mcp-claims git-hook`, *options* choose the store."""

    launch: Launch
    options: Sequence[str] = ()
    strict: bool = False

    def words(self, name: str) -> list[str]:
        """Return the arguments of `git-hook` for the hook called *name*."""
        return [*self.options, *(["--strict"] if self.strict else []), name]


def script(name: str, check: GitCheck, *, chains_to_repository: bool) -> str:
    """Return the hook called *name*: it checks, if it is one of `GUARDED`, and runs the hook that it hides.

    That is the repository's own if it *chains_to_repository*, else the one beside it with the name in `ASIDE`.
    """
    find = _find_own(name) if chains_to_repository else f'before="${{0%/*}}/{name}{ASIDE}"\n'
    rest = '[ -x "$before" ] || exit 0\nexec "$before" "$@"\n'
    if name in GUARDED:
        rest = _check(name, check) + (_PRE_COMMIT if name == PRE_COMMIT else _PRE_PUSH)
    return f"#!/bin/sh\n{_MARK}; `mcp-claims uninstall git` undoes it.\n{find}{rest}"


def is_ours(data: bytes) -> bool:
    """Return whether *data* is a hook that `script` has made."""
    return data.startswith(f"#!/bin/sh\n{_MARK}".encode())


def with_block(data: bytes | None, name: str, check: GitCheck) -> bytes:
    """Return the hook *data* of a project, for any machine, with our lines in it; `None` is no hook yet.

    They stand before all that the project does there, which may end the script.
    """
    plain = None if data is None else without_block(data)
    command = shlex.join(["mcp-claims", "git-hook", *check.words(name)])
    block = (
        f"{BEGIN_OF_NEW if plain is None else BEGIN}\n"
        f"if command -v mcp-claims >/dev/null 2>&1; then\n{_lines(name, command)}fi\n{END}\n"
    )
    lines = (plain or b"").splitlines(keepends=True)
    # Husky's older versions start the script anew in a line of theirs.
    at = next((at + 1 for at, line in enumerate(lines) if b"husky.sh" in line), None)
    if at is None:
        at = 1 if lines and lines[0].startswith(b"#!") else 0
    return b"".join([*lines[:at], os.fsencode(block), *lines[at:]])


def without_block(data: bytes) -> bytes | None:
    """Return *data* without our lines; `None` if we have made the file, and nobody has written into it since."""
    for begin in (BEGIN, BEGIN_OF_NEW):
        before, found, rest = data.partition(f"{begin}\n".encode())
        _, end, after = rest.partition(f"{END}\n".encode())
        if found and end:
            return before + after or (b"" if begin == BEGIN else None)
    return data


def _find_own(name: str) -> str:
    """Return the lines that set `before` to the hook of the repository itself, which the user's `core.hooksPath` hides.

    They start no process where git has its usual layout: some hooks run at each change of a reference.
    """
    return f"""\
dir=${{GIT_COMMON_DIR:-${{GIT_DIR:-.git}}}}
[ -f "$dir" ] && read -r _ dir <"$dir"
if [ -f "$dir/commondir" ]; then
    read -r common <"$dir/commondir"
    case $common in /* | ?:*) dir=$common ;; *) dir=$dir/$common ;; esac
fi
[ -d "$dir" ] || dir=$(git rev-parse --git-common-dir)
before=$dir/hooks/{name}
[ "$before" -ef "$0" ] && before=
"""


def _check(name: str, check: GitCheck) -> str:
    """Return the lines that define `check`, which succeeds if git may go on."""
    command = check.launch.command.replace("\\", "/") if sys.platform == "win32" else check.launch.command
    outcome = "this hook is strict, so git stops" if check.strict else "git goes on"
    return f"""\
program={shlex.quote(command)}
claims() {{ "$program" {shlex.join(check.launch.arguments)} "$@"; }}
check() {{
    if [ -x "$program" ]; then
        claims {shlex.join(check.words(name))} "$@"
        code=$?
        [ "$code" -eq 0 ] && return
        # 1 denies; but so ends an interpreter that no longer finds the package.
        [ "$code" -eq 1 ] && claims --help >/dev/null 2>&1 && return 1
    fi
    echo "mcp-claims: the claims were not checked, {outcome}: $program does not run them. Run mcp-claims install git again." >&2
    return {int(check.strict)}
}}
"""


# What is committed is what is staged in the end, and the other hook may stage more.
_PRE_COMMIT = """\
if [ -x "$before" ]; then "$before" "$@" || exit; fi
check "$@" </dev/null || exit 1
"""
# The other hook may test for minutes, or send large files.
_PRE_PUSH = """\
refs=$(cat)
print_refs() { [ -z "$refs" ] || printf '%s\\n' "$refs" 2>/dev/null; }
print_refs | check "$@" || exit 1
if [ -x "$before" ]; then print_refs | "$before" "$@"; fi
"""


def _lines(name: str, command: str) -> str:
    """Return the lines that check inside a project's hook, which then reads the same standard input."""
    if name == PRE_COMMIT:
        return f"    {command} </dev/null || [ $? -ne 1 ] || exit 1\n"
    return f"""\
    mcp_claims_refs=$(cat)
    printf '%s\\n' "$mcp_claims_refs" | {command} "$@" || [ $? -ne 1 ] || exit 1
    if [ -n "$mcp_claims_refs" ]; then
        exec <<MCP_CLAIMS_REFS
$mcp_claims_refs
MCP_CLAIMS_REFS
    fi
"""
