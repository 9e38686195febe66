"""Puts our hooks where git looks for them, for one repository or for all of a user, and takes them away again.

A hook that is there stays: it is moved aside and run by ours.  What is not ours is never overwritten.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_claims.errors import ClaimsError
from mcp_claims.hosts import atomic_file
from mcp_claims.hosts.catalog import UserEnvironment
from mcp_claims.hosts.git_scripts import (
    ASIDE,
    BEGIN,
    END,
    GUARDED,
    OTHERS,
    GitCheck,
    is_ours,
    script,
    with_block,
    without_block,
)

_EXECUTABLE = 0o755
_SCOPES = ("--global", "--system")
_FRAMEWORK = ".pre-commit-config.yaml"


class GitHooksError(ClaimsError):
    """Git's hooks cannot be installed without harm to what is there; nothing was changed.  `problem` says what to do."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem} Nothing was changed."


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a file: `text` says what happens to `path`."""

    path: Path
    text: str
    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Repository:
    """Where git, run in a directory, has its hooks.

    With `is_shared` a configuration of the user or the system leads git to `hooks`, for other repositories too; `own_hooks`
    are those that the repository would have without any.  `husky` is the directory with the project's hooks, if it uses
    husky, and `framework` the file of the pre-commit framework, if it uses that.
    """

    hooks: Path
    own_hooks: Path
    is_shared: bool
    husky: Path | None
    framework: Path | None


def find_repository(directory: Path) -> Repository:
    """Return the repository of *directory*; raise `GitHooksError` if there is none."""
    found = _git(directory, "rev-parse", "--git-path", "hooks", "--git-common-dir", "--show-cdup")
    if found is None:
        raise GitHooksError(f"{directory} is in no git repository, or git is not installed.")
    # The last line is missing in a bare repository.
    hooks, common, top = (Path(os.path.abspath(directory / line)) for line in (*found.split("\n"), "")[:3])
    scopes = [_git(directory, "config", *scope, "core.hooksPath") for scope in (("--worktree",), ("--local",), ())]
    is_shared = scopes[:2] == [None, None] and scopes[2] is not None
    husky = hooks.parent if (hooks / "h").is_file() else hooks if (hooks / "_" / "husky.sh").is_file() else None
    config = top / _FRAMEWORK
    return Repository(hooks, common / "hooks", is_shared, husky, config if config.is_file() else None)


def is_covered(repository: Repository, user: UserEnvironment) -> bool:
    """Return whether the hooks that `install_globally` has made are those of *repository*."""
    return repository.is_shared and repository.hooks == _global_directory(user)


def install_here(repository: Repository, check: GitCheck) -> list[Step]:
    """Return what puts our hooks into *repository*; raise `GitHooksError` if that would harm what is there."""
    if repository.is_shared:
        raise GitHooksError(_foreign(repository.hooks))
    steps: list[Step] = []
    for name in GUARDED:
        if repository.husky is None:
            steps += _put(repository.hooks / name, script(name, check, chains_to_repository=False))
        else:
            path = (repository.husky / name).resolve()
            data = _read(path)
            steps += _edit(path, data, with_block(data, name, check), "our lines written, before the project's")
    return steps


def uninstall_here(repository: Repository) -> list[Step]:
    """Return what takes our hooks from *repository*, wherever they are, and puts back what was there before."""
    steps: list[Step] = []
    own = repository.own_hooks
    for name in GUARDED:
        for directory in {own} if repository.is_shared else {own, repository.hooks}:
            steps += _take(directory / name)
        if repository.husky is not None:
            path = (repository.husky / name).resolve()
            if (data := _read(path)) is not None:
                steps += _edit(path, data, without_block(data), "our lines removed")
    return steps


def install_globally(user: UserEnvironment, check: GitCheck) -> list[Step]:
    """Return what makes git run our hooks in all repositories of *user* that set no `core.hooksPath` themselves.

    Raises `GitHooksError` if the user or the system has set one already.
    """
    directory, config = _global_directory(user), atomic_file.read(_global_config(user))
    there = {scope: _git(user.home, "config", scope, "--includes", "--path", "core.hooksPath") for scope in _SCOPES}
    for path in there.values():
        if path is not None and Path(path) != directory:
            raise GitHooksError(_foreign(Path(path)))
    hooks: list[Step] = []
    for name in (*OTHERS, *GUARDED):
        hooks += _put(directory / name, script(name, check, chains_to_repository=True))
    steps = [_together(directory, f"{len(hooks)} hooks written", hooks)] if hooks else []
    if there["--global"] is None:
        # Last, or git would for a moment find no hook at all, not even the repository's own.
        change = atomic_file.Change(config, config.encode(config.text() + _block(directory)))
        steps.append(Step(config.path, f"core.hooksPath set to {directory}", change.write))
    return steps


def uninstall_globally(user: UserEnvironment) -> list[Step]:
    """Return what takes away all that `install_globally` has put there."""
    directory, config = _global_directory(user), atomic_file.read(_global_config(user))
    steps: list[Step] = []
    if (block := _block(directory)) in config.text():
        text = config.text().replace(block, "", 1)
        # The backup tells a file that was empty from one that we have made.
        gone = not text and not atomic_file.backup_path(config.path).exists()
        change = atomic_file.Change(config, None if gone else config.encode(text))
        steps.append(Step(config.path, "core.hooksPath removed", change.write))
    elif _git(user.home, "config", "--global", "--includes", "--path", "core.hooksPath") == str(directory):
        # Without our hooks there, git would find none at all.
        raise GitHooksError(
            f"{config.path} was changed. Run git config --global --unset core.hooksPath, then this again."
        )
    hooks = [step for name in (*OTHERS, *GUARDED) for step in _take(directory / name)]
    if hooks:
        steps.append(
            _together(directory, f"{len(hooks)} hooks removed", [*hooks, Step(directory, "", directory.rmdir)])
        )
    return steps


def _together(path: Path, text: str, steps: list[Step]) -> Step:
    def do() -> None:
        for step in steps:
            step.do()

    return Step(path, text, do)


def _foreign(hooks: Path) -> str:
    """Return why a `core.hooksPath` for many repositories is left alone, and what to do."""
    lines = "; ".join(f'in {name}: mcp-claims git-hook {name} "$@" || exit 1' for name in GUARDED)
    return (
        f"core.hooksPath in git's configuration for all repositories leads to {hooks}, which is not ours. Add to the hooks "
        f"there ({lines}), or unset it and install again."
    )


def _put(path: Path, text: str) -> Iterator[Step]:
    """Yield what makes *text* the hook at *path*, and keeps one that is there."""
    data, current, aside = os.fsencode(text), _read(path), path.with_name(path.name + ASIDE)
    if current is None and os.path.lexists(path):
        raise GitHooksError(f"{path} is a link that leads nowhere, or no file: move it away.")
    if current is None or is_ours(current):
        is_right = current == data and os.access(path, os.X_OK)
        if not is_right:
            yield Step(path, "written", lambda: _write(path, data, _EXECUTABLE))
        return
    if os.path.lexists(aside):
        raise _two_hooks(path, aside)

    def replace() -> None:
        os.rename(path, aside)
        try:
            _write(path, data, _EXECUTABLE)
        except BaseException:
            os.rename(aside, path)
            raise

    yield Step(path, f"written; it runs the hook that was there, now {aside.name}", replace)


def _take(path: Path) -> Iterator[Step]:
    """Yield what removes our hook at *path*, and puts back the one that was there before."""
    current, aside = _read(path), path.with_name(path.name + ASIDE)
    if current is None and not os.path.lexists(path) and not os.path.lexists(aside):
        return
    if current is not None and not is_ours(current):
        if os.path.lexists(aside):
            raise _two_hooks(path, aside)
    elif os.path.lexists(aside):
        yield Step(path, f"the former hook is back, from {aside.name}", lambda: os.replace(aside, path))
    elif current is not None:
        yield Step(path, "removed", path.unlink)


def _two_hooks(path: Path, aside: Path) -> GitHooksError:
    return GitHooksError(f"{path} is not ours, and {aside.name} beside it is kept from before: put one of them away.")


def _edit(path: Path, before: bytes | None, after: bytes | None, text: str) -> Iterator[Step]:
    """Yield what makes *after* of the file at *path*, whose content is *before*."""
    if after is None and before is not None:
        yield Step(path, "removed", path.unlink)
    elif after is not None and after != before:
        mode = _EXECUTABLE if before is None else stat.S_IMODE(path.stat().st_mode)
        yield Step(path, text, lambda: _write(path, after, mode))


def _read(path: Path) -> bytes | None:
    """Return the content of the file at *path*; `None` if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Make *data* the content of *path*: git sees the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        new.write_bytes(data)
        new.chmod(mode)
        os.replace(new, path)
    finally:
        with suppress(FileNotFoundError):
            new.unlink()


def _global_directory(user: UserEnvironment) -> Path:
    return user.xdg_config() / "mcp-claims" / "git-hooks"


def _global_config(user: UserEnvironment) -> Path:
    """Return the file into which `git config --global` writes."""
    if (chosen := user.environment.get("GIT_CONFIG_GLOBAL")) is not None:
        return Path(chosen)
    usual, other = user.home / ".gitconfig", user.xdg_config() / "git" / "config"
    return other if other.exists() and not usual.exists() else usual


def _block(directory: Path) -> str:
    # The line end before it belongs to it: the text may end without one, and gets its bytes back.
    value = re.sub(r'(["\\])', r"\\\1", directory.as_posix())
    return f'\n{BEGIN}\n[core]\n\thooksPath = "{value}"\n{END}\n'


def _git(directory: Path, *arguments: str) -> str | None:
    """Return what git prints, run in *directory*; `None` if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return os.fsdecode(done.stdout).removesuffix("\n")
