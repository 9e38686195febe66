"""What `file:` and `branch:` keys name: each is resolved to the one text under which all sessions claim it.

Reads the file system and asks git, so it may block for seconds.  Nothing is locked: what a path leads to may change as soon as
it has been resolved.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import islice
from types import ModuleType

from mcp_claims.errors import InvalidInputError, shown_path
from mcp_claims.model.keys import BRANCH, FILE, PLACES, canonical_components, is_pattern
from mcp_claims.model.records import ScopedKey
from mcp_claims.model.validation import scoped_key

_GIT_TIMEOUT = 5.0  # s
# A hook of git sets these, and git would answer for the repository of the hook, not for the directory that it is asked about.
_REDIRECTIONS = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"})
_DEFAULT_PORTS = {"ssh": "22", "git+ssh": "22", "ssh+git": "22", "https": "443", "http": "80", "git": "9418"}
# As git completes the path of a repository on this machine.
_COMPLETIONS = ("/.git", "", "/.git/.git", ".git")
_ORIGIN = "origin"
_HOST = r"(?P<host>\[[^\]/]+\]|[^/@:\[\]]+)"
_MAX_ENTRIES = 1_000
"""Entries of a directory that are searched for one with a letter: it may have millions without."""

_WRITTEN_OUT = "must be written as `branch:HOST/OWNER/REPOSITORY:NAME`"


class Resolver:
    """Resolves the keys of one request: git is asked once, but a remote that is added later counts for the next request.

    *directory* is the absolute path of the project directory, `None` where the session has none.  *host* is this machine's
    name, without `/`, if several machines share the store.  *paths* has the rules of paths, *status_of* asks the file system.
    """

    def __init__(
        self,
        directory: str | None,
        host: str | None = None,
        *,
        paths: ModuleType = os.path,
        status_of: Callable[[str], os.stat_result] = os.lstat,
    ) -> None:
        self._directory, self._host = directory, host and host.lower()
        self._paths, self._status_of = paths, status_of
        self._windows = paths.sep == "\\"

    def resolve(self, scoped: ScopedKey) -> ScopedKey:
        """Return the key in `PLACES` that all sessions use for what *scoped* names; *scoped* itself if it is opaque.

        What is resolved already stays as it is.  Raises `InvalidInputError`.
        """
        if scoped.key.startswith(FILE):
            key = FILE + self._file(scoped.key.removeprefix(FILE))
        elif scoped.key.startswith(BRANCH):
            key = BRANCH + self._branch(scoped.key.removeprefix(BRANCH))
        else:
            return scoped
        try:
            # Links and git lead to names that nobody has checked: too long, or with what ends a line of somebody's prompt.
            return scoped_key(_composed(key), PLACES)
        except InvalidInputError as error:
            raise InvalidInputError("key", f"{error.rule} once it is resolved") from None

    # Files

    def _file(self, text: str) -> str:
        """Return the canonical form of what stands behind `file:`."""
        if not text or text[0].isspace() or "\0" in text:
            raise InvalidInputError("key", f"must have a path right after `{FILE}`")
        return self._on_host(text, self._here)

    def _on_host(self, text: str, resolve_here: Callable[[str], str]) -> str:
        """Return the canonical form of *text*, a path with or without `//HOST` before it."""
        named = re.match("//([^/]+)", text)
        # On Windows, `//SERVER/SHARE` is a path, unless the store is one whose keys have hosts.
        if named is None or (self._windows and self._host is None):
            return resolve_here(text)
        host, path = named[1].lower(), text[named.end() :] or "/"
        if self._host is None:
            raise InvalidInputError("key", f"must not name a host, since one machine uses this store: write `{path}`")
        return resolve_here(path) if host == self._host else _elsewhere(host, path)

    def _here(self, path: str) -> str:
        """Return the canonical form of *path* on this machine."""
        if self._windows:
            path = _with_slashes(path)
        if path == "~" or path.startswith("~/"):
            raise InvalidInputError("key", "must not begin with `~`: write the path of the home directory")
        names = path.split("/")
        literal = next((position for position, name in enumerate(names) if is_pattern(name)), len(names))
        _refuse_parents(names[literal:])
        # The slash at the end keeps the root what it is.
        return self._canonical("/".join([*names[:literal], ""]), names[literal:], is_directory=not names[-1])

    def _canonical(self, path: str, pattern: list[str], *, is_directory: bool) -> str:
        """Return the canonical form of *path*, whose links are followed, and *pattern* below it.

        It ends in a slash if it *is_directory*, whether there is one or not, and for a directory that is there.
        """
        path = self._paths.join(self._directory or "", path)
        if not self._is_absolute(path):
            why = ", since this session has no project directory" if self._directory is None else ""
            raise InvalidInputError("key", f"must have an absolute path after `{FILE}`{why}")
        real: str = self._paths.realpath(path)
        if self._paths.realpath(real) != real:
            # Behind links that lead in a circle, `..` is taken off the text, and may uncover a link.
            raise InvalidInputError("key", "must not go up from links that lead in a circle")
        if is_pattern(real):
            # Read as a pattern, it would name other files too, and the next resolution would follow no link below it.
            raise InvalidInputError("key", "must not lead to or through a name with `*` or `?`")
        drive, tail = self._paths.splitdrive(real)
        # Of two forms of its Unicode, which have one key, either may be there.
        is_directory = is_directory or (not pattern and any(map(self._is_directory, {real, _composed(real)})))
        names = canonical_components([*tail.split(self._paths.sep), *pattern], is_directory=is_directory)
        names = self._in_one_case(drive + self._paths.sep, names)
        if drive.endswith(":"):
            names = [drive.upper(), *names]
        elif drive:
            names = ["UNC", *map(_folded, drive.strip("\\").split("\\")), *names]
        if self._host is not None:
            names = [f"//{self._host}", *names]
        elif not self._windows:
            names = ["", *names]
        return "/".join(names) or "/"

    def _is_absolute(self, path: str) -> bool:
        """Return whether *path* is complete; on Windows, `\\a` and `C:a` need a current directory as well."""
        if self._windows:
            return re.match("(?:[A-Za-z]:|//[^/]+/[^/]+)/", path.replace("\\", "/")) is not None
        return path.startswith("/")

    def _in_one_case(self, root: str, names: list[str]) -> list[str]:
        """Return *names*, of which each lies in the one before it, composed, and folded where case does not count."""
        composed, folded = [_composed(name) for name in names], [_folded(name) for name in names]
        if composed == folded:
            return composed
        # Where nothing tells, a directory is as the one above it.
        directory, folds, result = root, self._windows or sys.platform == "darwin", list[str]()
        for name, exact, equal in zip(names, composed, folded, strict=True):
            if not name:  # The end of a directory.
                return [*result, name]
            folds = self._folds_case(directory, name, folds)
            result.append(equal if folds else exact)
            directory = self._paths.join(directory, name)
        return result

    def _folds_case(self, directory: str, name: str, default: bool) -> bool:
        """Return whether *name* in *directory* is found in another case too; if it is not there, whether others are."""
        for entry in self._entries(directory, name):
            swapped = os.fsdecode(os.fsencode(entry).swapcase())  # ASCII alone, on which all file systems agree.
            if swapped == entry:
                continue
            path = self._paths.join(directory, entry)
            while (found := self._identity(path)) is not None:
                same = found == self._identity(self._paths.join(directory, swapped))
                # An editor that saves puts a new file in the place of the old one: between two looks, each finds another.
                if same or found == self._identity(path):
                    return same
        return default

    def _entries(self, directory: str, name: str) -> Iterator[str]:
        yield name
        with suppress(OSError), os.scandir(directory) as entries:
            yield from (entry.name for entry in islice(entries, _MAX_ENTRIES))

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._status_of(path).st_mode)
        except (OSError, ValueError):
            return False

    def _identity(self, path: str) -> tuple[int, int] | None:
        """Return what identifies the entry at *path*; `None` if there is none."""
        try:
            status = self._status_of(path)
        except (OSError, ValueError):  # ValueError: no file system can have such a name.
            return None
        return status.st_dev, status.st_ino

    # Branches

    def _branch(self, text: str) -> str:
        """Return the canonical form of `NAME`, `REMOTE/NAME` or `REPOSITORY:NAME`."""
        repository, separator, name = text.rpartition(":")
        if separator:  # No name of a branch has a colon.
            repository = self._given_repository(repository)
        else:
            remote = self._remote_of(text)
            if remote is None:
                repository = self._local_repository(self._layout[0])
            else:
                repository, name = self.repository_at(self._remotes[remote]), text.removeprefix(f"{remote}/")
        name = name.removeprefix("refs/heads/")
        if name in ("HEAD", "@"):
            raise InvalidInputError("key", f"must name the branch, not `{name}`")
        if not _is_branch_name(name):
            raise InvalidInputError("key", "must end in a name that git allows for a branch")
        return f"{repository}:{name}"

    def _remote_of(self, text: str) -> str | None:
        """Return the remote that *text* (`REMOTE/NAME` or `NAME`) is about; `None` if the repository has none."""
        remotes = self._remotes
        if named := [remote for remote in remotes if text.startswith(f"{remote}/")]:
            return max(named, key=len)
        if _ORIGIN in remotes or len(remotes) < 2:
            return _ORIGIN if _ORIGIN in remotes else next(iter(remotes), None)
        choices = " or ".join(f"`{BRANCH}{remote}/{text}`" for remote in islice(remotes, 5))
        raise InvalidInputError("key", f"must name a remote, since the repository has several: {choices}")

    def _given_repository(self, text: str) -> str:
        """Return the canonical form of a repository that a caller wrote, most likely as an answer showed it."""
        if self._is_local(text):
            return self._on_host(text, self._local_repository)
        # Only in a canonical text are digits behind the host a port: in `git@HOST:2222/PATH` they are a directory.
        if found := re.fullmatch(rf"{_HOST}(?P<port>:\d+)?/(?P<path>.+)", text):
            return _on_server(found["host"], found["port"] or "", found["path"])
        if (repository := _parsed(text)) is not None:
            return repository
        raise InvalidInputError("key", _WRITTEN_OUT)

    def repository_at(self, url: str) -> str:
        """Return the canonical form of the repository at the *url* of a remote: what stands before the name in a key of a branch.

        Raises `InvalidInputError` if the URL cannot be read.
        """
        if self._is_local(url):
            return self._local_repository(url)
        if url.lower().startswith("file://"):
            from urllib.parse import unquote  # As rare as such URLs.

            return self._local_repository(unquote(url[len("file://") :]))
        if (repository := _parsed(url)) is not None:
            return repository
        if "://" in url:  # It may have a password, so it is not shown.
            raise InvalidInputError("key", f"{_WRITTEN_OUT}: the URL of the remote cannot be read")
        return self._local_repository(self._paths.join(self._layout[1], url))

    def _is_local(self, text: str) -> bool:
        """Return whether *text* is the absolute path of a repository."""
        return text.startswith("/") or (self._windows and re.match(r"[A-Za-z]:|\\|UNC/", text) is not None)

    def _local_repository(self, path: str) -> str:
        """Return the canonical form of the directory in which git finds the repository at *path*."""
        if self._windows:
            path = _with_slashes(path)
        for completion in _COMPLETIONS:
            if self._identity(self._paths.join(path + completion, "HEAD")) is not None:
                path += completion
                break
        return self._canonical(f"{path}/", [], is_directory=False).removesuffix("/") or "/"

    @cached_property
    def _remotes(self) -> dict[str, str]:
        """The remotes and the URLs from which git fetches, as `url.*.insteadOf` changes them."""
        listed = re.finditer(r"^(.+)\t(.+) \(fetch\)", self._git("remote", "--verbose"), re.MULTILINE)
        return {found[1]: found[2] for found in listed}

    @cached_property
    def _layout(self) -> tuple[str, str]:
        """The directory that all worktrees of the repository share, and the one to which relative URLs are relative."""
        # The second line is missing in a bare repository.
        common, _, up = self._git("rev-parse", "--git-common-dir", "--show-cdup").removesuffix("\n").partition("\n")
        here = self._directory or ""
        return self._paths.join(here, common), self._paths.join(here, up)

    def _git(self, *arguments: str) -> str:
        """Return what git prints about the project directory."""
        if self._directory is None:
            raise InvalidInputError("key", f"{_WRITTEN_OUT}, since this session has no project directory")
        import subprocess  # A tenth of the time of a short command, and most keys need no git.

        environment = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
        try:
            done = subprocess.run(
                ["git", "-C", self._directory, *arguments],
                env=environment | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GIT_TIMEOUT,
                check=False,
            )
        except OSError:
            why = "git is not installed here"
        except subprocess.TimeoutExpired:
            why = f"git did not answer within {_GIT_TIMEOUT:.0f} s"
        else:
            if not done.returncode:
                return os.fsdecode(done.stdout)
            if b"not a git repository" in done.stderr:
                why = f"{shown_path(self._directory)} is in no git repository"
            else:
                why = (
                    f"git cannot read the repository: see `git -C {shown_path(self._directory)} {' '.join(arguments)}`"
                )
        raise InvalidInputError("key", f"{_WRITTEN_OUT}, since {why}")


def _elsewhere(host: str, path: str) -> str:
    """Return the canonical form of *path* on another machine, whose files cannot be looked at from here."""
    if is_pattern(host):
        raise InvalidInputError("key", "must not have a wildcard in the name of a host")
    names = path.split("/")
    _refuse_parents(names)
    return "/".join([f"//{host}", *canonical_components(names, is_directory=not names[-1])])


def _refuse_parents(names: list[str]) -> None:
    if ".." in names:
        # Above a link, `..` is the directory of its target, so a text without it would name another file.
        raise InvalidInputError("key", "must not contain `..` after a wildcard or a host")


def _with_slashes(path: str) -> str:
    """Return a path of Windows with slashes, without what Windows ignores or does not count as part of a file's name.

    That is `\\\\?\\`, blanks and dots at the end of a name, and the stream of a file behind a colon.
    """
    path = re.sub("^//[?.]/(?i:UNC)/", "//", path.replace("\\", "/"))
    path = re.sub("^UNC/", "//", re.sub("^//[?.]/|^/+(?=[A-Za-z]:|UNC/)", "", path))
    drive, rest = (path[:2], path[2:] or "/") if re.match("[A-Za-z]:", path) else ("", path)
    names = (name if name in (".", "..") else name.partition(":")[0].rstrip(". ") for name in rest.split("/"))
    return drive + "/".join(names)


def _parsed(url: str) -> str | None:
    """Return the canonical form of the repository at *url*, without user and password; `None` if it is on no server."""
    if re.match(r"[\w.+-]+::", url):  # For a helper program, which alone can read the rest.
        return re.sub("//[^/]*@", "//", url)
    user = "(?:[^/]*@)?"
    if found := re.fullmatch(rf"(?!file:)(?P<scheme>[\w.+-]+)://{user}{_HOST}(?::(?P<port>\d*))?/(?P<path>.*)", url):
        default = _DEFAULT_PORTS.get(found["scheme"].lower())
        port = "" if found["port"] in (None, "", default) else f":{found['port']}"
        return _on_server(found["host"], port, found["path"])
    if (found := re.fullmatch(rf"{user}{_HOST}:(?P<path>.*)", url)) and not found["path"].startswith("//"):
        return _on_server(found["host"], "", found["path"])
    return None


def _on_server(host: str, port: str, path: str) -> str:
    """Return the canonical form of a repository, the same for ssh and https, and with and without `.git`.

    The large servers ignore the case of the path; where one does not, two repositories share their branches' keys.
    """
    path = re.sub(r"(?:/|\.git)+$", "", "/".join(filter(None, path.split("/"))))
    if not path:
        raise InvalidInputError("key", _WRITTEN_OUT)
    return f"{host.lower()}{port}/{path.casefold()}"


def _is_branch_name(name: str) -> bool:
    """Return whether a branch can have this name, by the rules of `git check-ref-format --branch`; no `refs/` of another kind."""
    wrong = r"^-|^refs/|\.\.|@\{|(?:^|/)(?:[./]|$)|\.lock(?:/|$)|\.$"
    return re.fullmatch(r"[^\x00-\x20\x7f~^:?*\[\\]+", name) is not None and not re.search(wrong, name)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(name: str) -> str:
    """Return *name* without the differences that a file system which folds case may ignore.

    Decomposed first: composed, some letters fold to other text than the letters that they are composed of.
    """
    return _composed(unicodedata.normalize("NFD", name).casefold())
