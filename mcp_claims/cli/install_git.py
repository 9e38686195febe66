"""`mcp-claims install git` and `uninstall git`: hooks that keep what others hold from being committed and pushed."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from mcp_claims.cli.errors import NO, YES
from mcp_claims.cli.options import chosen_store, store_choice
from mcp_claims.cli.output import write_line
from mcp_claims.errors import InvalidInputError
from mcp_claims.hosts import Launch, UserEnvironment, find_installation
from mcp_claims.hosts.errors import HostFileUnwritableError
from mcp_claims.hosts.git_hooks import (
    Step,
    find_repository,
    install_globally,
    install_here,
    is_covered,
    uninstall_globally,
    uninstall_here,
)
from mcp_claims.hosts.git_scripts import GUARDED, GitCheck

GIT = "git"
# Options of `install` that mean nothing to git, and those that mean nothing to a host.
_FOR_HOSTS = ("print", "use_cli", "allow", "session", "keep_alive_hours", "retention_hours", "hooks", "guard")
_FOR_GIT = ("everywhere",)
_FRAMEWORK_HOOKS = """\
  - repo: local
    hooks:
      - id: mcp-claims-commit
        name: files that another session holds
        entry: mcp-claims git-hook pre-commit
        language: system
        stages: [pre-commit]
        always_run: true
        pass_filenames: false
      - id: mcp-claims-push
        name: branches that another session holds
        entry: mcp-claims git-hook pre-push
        language: system
        stages: [pre-push]
        always_run: true
        pass_filenames: false"""


def add_git_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `install` or `uninstall` for git alone."""
    group = parser.add_argument_group("git (without these, in the repository of this directory)")
    group.add_argument("--global", dest="everywhere", action="store_true", help="for all repositories of this user")


def check_options(options: argparse.Namespace) -> None:
    """Raise `InvalidInputError` for an option that HOST does not have."""
    wrong, who = (_FOR_HOSTS, "hosts") if options.host == GIT else (_FOR_GIT, "git")
    for name in wrong:
        if getattr(options, name, None) not in (None, False):
            option = "--global" if name == "everywhere" else f"--{name.replace('_', '-')}"
            raise InvalidInputError(option, f"is for {who} only")


def install_git(options: argparse.Namespace) -> int:
    """Run `install git`."""
    user = UserEnvironment.current()
    if not chosen_store(options).has_places:
        raise InvalidInputError("--layout", "must be mcp-claims: in the other, no session can claim files or branches")
    installed = find_installation(user.environment)
    launch = Launch(installed.command, (*installed.arguments, "git-hook"))
    check = GitCheck(launch, _store_words(options, given_only=False), options.strict)
    notes = [f"Warning: {installed.warning}"] if installed.warning else []
    if options.everywhere:
        steps = install_globally(user, check)
        notes.append(
            "A repository with a core.hooksPath of its own, as husky sets one, is not covered: run this there without "
            "--global. `pre-commit install` refuses to work while core.hooksPath is set."
        )
    else:
        repository = find_repository(Path.cwd())
        if is_covered(repository, user):
            write_line("`mcp-claims install git --global` covers this repository: nothing to do")
            return YES
        if repository.husky is not None:
            # The file belongs to the project, and is for other machines too.
            check = GitCheck(launch, _store_words(options, given_only=True), options.strict)
            missing = shutil.which("mcp-claims") is None
            notes = ["Warning: mcp-claims is not on the PATH, where these lines look for it."] if missing else []
        elif repository.framework is not None:
            write_line(
                f"{repository.framework}: this repository uses the pre-commit framework, so nothing was changed. Add to "
                f"`repos` there:\n{_FRAMEWORK_HOOKS}\nThen run: pre-commit install -t pre-commit -t pre-push"
            )
            return NO
        steps = install_here(repository, check)
    if _carry_out(steps, dry_run=options.dry_run):
        write_line(
            f"git now refuses to commit files and to push branches that another session holds ({' and '.join(GUARDED)})."
        )
        for note in notes:
            write_line(note)
    return YES


def uninstall_git(options: argparse.Namespace) -> int:
    """Run `uninstall git`."""
    user = UserEnvironment.current()
    steps = uninstall_globally(user) if options.everywhere else uninstall_here(find_repository(Path.cwd()))
    _carry_out(steps, dry_run=options.dry_run)
    return YES


def _store_words(options: argparse.Namespace, *, given_only: bool) -> list[str]:
    """Return the options that lead a hook to the store, as for hosts; if *given_only*, only those that were given."""
    choice = store_choice(options)
    if choice.url is not None:
        return [] if given_only and options.store is None else ["--store", choice.url]
    return [] if given_only and options.dir is None else ["--dir", choice.directory]


def _carry_out(steps: Sequence[Step], *, dry_run: bool) -> bool:
    """Carry out *steps*, or only print them; return whether anything was changed."""
    if not steps:
        write_line("git's hooks: nothing to do")
    for step in steps:
        if not dry_run:
            try:
                step.do()
            except OSError as error:
                raise HostFileUnwritableError(step.path, error) from error
        write_line(f"{step.path}: {step.text}{' (dry run: not done)' if dry_run else ''}")
    return bool(steps) and not dry_run
