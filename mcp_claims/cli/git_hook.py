"""`mcp-claims git-hook`: what git runs before a commit and before a push; it stops what touches others' claims.

https://git-scm.com/docs/githooks.  Without `--strict` nothing but a claim of another session stops git.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from mcp_claims.cli.errors import NO, YES, UsageError, describe
from mcp_claims.cli.options import SESSION_VARIABLE, add_epilog, add_store_options, chosen_store, store_choice
from mcp_claims.cli.output import write_error
from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.guard.git import MAX_NAMES, STORE_TIMEOUT, Conflict, commit_conflicts, push_conflicts
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim
from mcp_claims.render import phrases
from mcp_claims.render.listed import listed_line
from mcp_claims.session.host_session import HostSession, host_session_of_environment
from mcp_claims.session.identity import named_session, person_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.config import choose_store

PRE_COMMIT, PRE_PUSH = "pre-commit", "pre-push"
# The pre-commit framework passes on neither arguments nor standard input of a push.
_FRAMEWORK_URL, _FRAMEWORK_BRANCH = "PRE_COMMIT_REMOTE_URL", "PRE_COMMIT_REMOTE_BRANCH"
# Whatever the user's configuration of git leaves out.
_STAGED = (
    "--cached",
    "--name-only",
    "-z",
    "--no-renames",
    "--no-relative",
    "--no-ext-diff",
    "--ignore-submodules=none",
)

_Find = Callable[[Session, HostSession], list[Conflict]]


def configure_git_hook(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `git-hook`."""
    add_epilog(
        parser,
        "  mcp-claims git-hook pre-commit\n  mcp-claims git-hook pre-push origin git@github.com:acme/web.git < refs",
        "0 git goes on, 1 git stops, since another session holds what it touches",
        trouble="2 wrong usage",
    )
    add_store_options(parser)
    parser.add_argument(
        "hook",
        choices=(PRE_COMMIT, PRE_PUSH),
        help="pre-commit: the staged files against file: claims; pre-push: what is pushed against branch: claims of that "
        "repository, by its URL and the refs on standard input",
    )
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="what git passes to the hook: REMOTE URL")
    parser.add_argument("--strict", action="store_true", help="also stop git where the claims cannot be checked")
    parser.set_defaults(run=_git_hook)


def _git_hook(options: argparse.Namespace) -> int:
    try:
        find = _staged() if options.hook == PRE_COMMIT else _pushed(options.arguments)
        us = host_session_of_environment(os.environ, local_machine())
        if not _is_agent(us):
            phrases.use_local_time()
        session = _session(options, us)
        return _answer(find(session, us), session, options)
    except TimeoutError:
        problem = f"the claims store has not answered within {STORE_TIMEOUT:g} s. `mcp-claims doctor` examines it."
        return _in_trouble(problem, options)
    except ClaimsError as error:
        return _in_trouble(describe(error, options), options)
    except Exception as error:  # noqa: BLE001 (a defect of ours is no reason to stop anybody's work)
        return _in_trouble(f"the hook itself failed ({type(error).__name__}: {error})", options)


def _staged() -> _Find:
    """Return what finds the claims on the staged files: both names of one that is renamed, and those that are deleted."""
    top = _git("rev-parse", "--show-toplevel").removesuffix("\n")
    names = _git("diff", *_STAGED).split("\0")[:-1]
    paths = [os.path.join(top, name) for name in names]
    return lambda session, us: commit_conflicts(session, us, paths)


def _pushed(arguments: Sequence[str]) -> _Find:
    """Return what finds the claims on the branches that are pushed, moved by force or deleted."""
    if arguments:
        url = arguments[-1]
        # LOCAL-REF LOCAL-ID REMOTE-REF REMOTE-ID.  The first may be any expression, with blanks.
        lines = sys.stdin.buffer.read().splitlines()
        refs = [os.fsdecode(words[-2]) for line in lines if len(words := line.rsplit(b" ", 2)) == 3]
    elif _FRAMEWORK_URL in os.environ:
        url, refs = os.environ[_FRAMEWORK_URL], [os.environ.get(_FRAMEWORK_BRANCH, "")]
    else:
        raise UsageError("pre-push needs what git passes: the remote and its URL, and the refs on standard input.")
    return lambda session, us: push_conflicts(session, us, url, refs)


def _git(*arguments: str) -> str:
    """Return what git prints.  The variables that it has set for its hook hold: the index may be a temporary one."""
    try:
        done = subprocess.run(["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    except OSError as error:
        raise UsageError(f"git cannot be run ({error.strerror}).") from error
    except subprocess.CalledProcessError as error:
        problem = phrases.shown(error.stderr.decode(errors="replace"))
        raise UsageError(f"`git {arguments[0]}` failed: {problem}") from error
    return os.fsdecode(done.stdout)


def _session(options: argparse.Namespace, us: HostSession) -> Session:
    """Return the session for which git runs: that of the environment; a person's, unless a host has started it."""
    store = chosen_store(options)
    if (name := os.environ.get(SESSION_VARIABLE)) is not None:
        return named_session(store, name)
    return process_session(store) if _is_agent(us) else person_session(store)


def _is_agent(us: HostSession) -> bool:
    return us.id is not None or bool(us.processes)


def _in_trouble(problem: str, options: argparse.Namespace) -> int:
    goes_on = "this hook is strict, so git stops" if options.strict else "git goes on"
    write_error(f"the claims were not checked, {goes_on}: {problem}")
    return NO if options.strict else YES


def _answer(conflicts: Sequence[Conflict], session: Session, options: argparse.Namespace) -> int:
    """Say on stderr what is in the way, and return whether git goes on."""
    denied = [each for each in conflicts if options.strict or not each.in_doubt]
    if not denied:
        if conflicts:
            doubt = "this may touch what another session holds; whose it is cannot be known here, so git goes on, unlike with --strict"
            write_error(f"{doubt}:\n{_lines(conflicts, session)}")
        return YES
    what, done = ("commit", "committed") if options.hook == PRE_COMMIT else ("push", "pushed")
    holds = "may hold" if all(each.in_doubt for each in denied) else "holds"
    text = [f"this {what} is refused, since another session {holds} what it changes:", _lines(denied, session)]
    text.append(f"Nothing was {done}. Leave it to its holder; go on with something else, or report who has it.")
    keys = [found.scoped.base.key for each in denied if isinstance(found := each.listed.found, Claim)]
    if keys:
        command = ["mcp-claims", "wait", *_store_words(options), *dict.fromkeys(keys[: phrases.SHOWN_KEYS])]
        text.append(f"To {what} after them, wait until it is free: {shlex.join(command)}")
    if what == "commit":
        text.append("To commit the rest now, unstage these files.")
    write_error("\n".join(text))
    return NO


def _lines(conflicts: Sequence[Conflict], session: Session) -> str:
    """Return a line about each of *conflicts*, at most some of them, and what each is about."""
    lines = []
    for each in conflicts[: phrases.SHOWN_KEYS]:
        names = [phrases.quoted(_shown(name)) for name in each.names[:MAX_NAMES]]
        more = " and more" if len(each.names) > MAX_NAMES else ""
        about = f" Here: {', '.join(names)}{more}." if names else ""
        lines.append(f"- {listed_line(each.listed, session.now())}{about}")
    if len(conflicts) > len(lines):
        lines.append(f"- and {len(conflicts) - len(lines)} more")
    return "\n".join(lines)


def _shown(name: str) -> str:
    """Return a path relative to where git runs its hook, or a branch as it is."""
    return os.path.relpath(name) if os.path.isabs(name) else name


def _store_words(options: argparse.Namespace) -> list[str]:
    """Return the options with which another command finds the store of this one; none if it does without."""
    chosen = store_choice(options)
    with suppress(InvalidInputError):
        default = choose_store()
        if (chosen.url, chosen.directory) == (default.url, default.directory):
            return []
    return ["--dir", chosen.directory] if chosen.url is None else ["--store", chosen.url]
