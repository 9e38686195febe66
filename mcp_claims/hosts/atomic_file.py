"""Reads and replaces a host's file: a reader sees the old or the new file, and a backup is kept beside it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_claims.hosts.errors import (
    HostFileChangedError,
    HostFileUneditableError,
    HostFileUnwritableError,
    UneditableTextError,
)

if sys.platform != "win32":
    import fcntl

_BOM = "\ufeff"
_BACKUP_SUFFIX = ".mcp-claims.bak"
_NEW_FILE_MODE = 0o600  # Hosts keep tokens in such files.


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file.  *path* has its links resolved; *data* is `None` if the file does not exist."""

    path: Path
    data: bytes | None

    def text(self) -> str:
        """Return the text without a byte order mark.  Raises `HostFileUneditableError` if it is not UTF-8."""
        try:
            return (self.data or b"").decode().removeprefix(_BOM)
        except UnicodeDecodeError as error:
            raise HostFileUneditableError(self.path, f"is not UTF-8 text (byte {error.start})") from error

    def encode(self, text: str) -> bytes:
        """Return *text* as the bytes of this file: with a byte order mark if it has one now."""
        mark = _BOM if (self.data or b"").decode().startswith(_BOM) else ""
        return (mark + text).encode()


@dataclass(frozen=True, slots=True)
class Change:
    """A planned change of a file; *after* is `None` to remove it.  False if nothing changes."""

    before: Content
    after: bytes | None

    @property
    def path(self) -> Path:
        """The file."""
        return self.before.path

    @property
    def backup(self) -> Path:
        """The backup that `write` makes; it overwrites that of the change before."""
        return backup_path(self.path)

    def __bool__(self) -> bool:
        return self.before.data != self.after

    def diff(self) -> str:
        """Return the change as a unified diff."""
        old, new = ((data or b"").decode().splitlines(keepends=True) for data in (self.before.data, self.after))
        old_name, new_name = (
            "/dev/null" if data is None else str(self.path) for data in (self.before.data, self.after)
        )
        return "".join(
            line.replace("\r", "") if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(old, new, old_name, new_name)
        )

    def write(self) -> None:
        """Back up the file and replace or remove it.

        Raises `HostFileUnwritableError` if that fails or the file is read-only, and `HostFileChangedError` if the file
        has changed since it was read.  After an error the file is as it was.
        """
        path, old = self.path, self.before.data
        try:
            mode, owner = _NEW_FILE_MODE, None
            if old is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            else:
                status = path.stat()
                mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
                # A rename needs write permission on the directory only; but somebody made the file read-only on purpose.
                if not mode & 0o222:
                    raise PermissionError(errno.EACCES, "it is read-only")
            with _locked(path):
                if old is not None:
                    with _written(self.backup, old, mode, owner) as new:
                        os.replace(new, self.backup)
                if self.after is None:
                    self._check_unchanged()
                    path.unlink()
                else:
                    with _written(path, self.after, mode, owner) as new:
                        self._check_unchanged()
                        _put(new, self.after, self.before)
        except OSError as error:
            raise HostFileUnwritableError(path, error) from error

    def _check_unchanged(self) -> None:
        # Hosts rewrite their files while they run: what they wrote since we read the file must not be lost.
        if read(self.path).data != self.before.data:
            raise HostFileChangedError(self.path)


def backup_path(path: Path) -> Path:
    """Return where the backup of *path* is."""
    return path.with_name(path.name + _BACKUP_SUFFIX)


def read(path: Path) -> Content:
    """Read the file at *path*, through links.

    Raises `HostFileUneditableError` if *path* is relative, is not a file or cannot be read.
    """
    real = path
    if not path.is_absolute():
        # Hosts start in other directories than we do.
        raise HostFileUneditableError(path, "is a relative path: correct HOME or the variable of the host")
    try:
        real = path.resolve()
        if real.exists() and not real.is_file():
            raise HostFileUneditableError(path, "is not a file")
        return Content(real, real.read_bytes())
    except FileNotFoundError:
        return Content(real, None)
    except (OSError, RuntimeError) as error:
        # RuntimeError: links that form a circle.
        reason = getattr(error, "strerror", None) or "its links lead nowhere"
        raise HostFileUneditableError(path, f"cannot be read ({reason})") from error


def restore(content: Content, edit: Callable[[Content], bytes | None]) -> Change | None:
    """Return the change back to the backup, or to no file, if *edit* makes exactly *content* of it; else `None`."""
    for data in dict.fromkeys((read(backup_path(content.path)).data, None)):
        original = Content(content.path, data)
        with contextlib.suppress(UneditableTextError, HostFileUneditableError):
            if edit(original) == content.data:
                return Change(content, data)
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other installs from the directory of *path*, and remove what killed ones left of the file there.

    Raises `HostFileChangedError` if another install is writing there.
    """
    if sys.platform == "win32":
        yield
    else:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HostFileChangedError(path) from error
            except OSError:
                pass  # NFS locks no directories: there, two installs at once must be told apart by the comparison alone.
            else:
                for name in os.listdir(fd):
                    if re.fullmatch(rf"\.{re.escape(path.name)}({re.escape(_BACKUP_SUFFIX)})?\.[0-9a-f]{{8}}", name):
                        with contextlib.suppress(OSError):  # What cannot be removed is no reason to refuse the install.
                            os.unlink(name, dir_fd=fd)  # It may hold the tokens of the host's file.
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def _written(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None) -> Iterator[Path]:
    """Write *data* to a new file beside *path*, to be renamed to it; what was not renamed is removed.

    After the rename a reader sees the old or the new data, never a part, even after a power cut.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), _NEW_FILE_MODE)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if sys.platform != "win32":
                if owner is not None and owner != (os.geteuid(), os.getegid()):
                    os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            os.fsync(fd)
        yield new
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def _put(new: Path, data: bytes, before: Content) -> None:
    """Rename *new*, which has *data*, to the file; overwrite the file where a rename would split or cannot move it."""
    path = before.path
    try:
        if before.data is None or path.stat().st_nlink == 1:
            os.replace(new, path)
            return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    # It has another name, a hard link, or is a mount of its own, as in a container.  The backup is there already.
    try:
        path.write_bytes(data)
    except BaseException:  # Ctrl-C, too, must not leave half of it.
        path.write_bytes(before.data or b"")
        raise
