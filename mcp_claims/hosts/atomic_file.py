"""Reading and replacing a host's file: whole or not at all, with a copy of what was there beside it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import secrets
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from mcp_claims.hosts.errors import HostFileChangedError, HostFileUnfitError, HostFileUnwritableError

_BOM = "\ufeff"
_BACKUP = ".mcp-claims.bak"
_NEW = 0o600  # of a file that we make: such files hold tokens


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file: *path* is the real one, behind links; *data* is `None` if there is none."""

    path: Path
    data: bytes | None

    def text(self) -> str:
        """Return the text, without a byte order mark.  Raises `HostFileUnfitError` if it is no UTF-8."""
        try:
            return (self.data or b"").decode().removeprefix(_BOM)
        except UnicodeDecodeError as error:
            raise HostFileUnfitError(self.path, f"is no text in UTF-8 (byte {error.start})") from error

    def encoded(self, text: str) -> bytes:
        """Return *text* as it is written here: with a byte order mark if there was one."""
        mark = _BOM if (self.data or b"").decode().startswith(_BOM) else ""
        return (mark + text).encode()


@dataclass(frozen=True, slots=True)
class Change:
    """What a file is to become: *after* is `None` if it is to be removed; nothing to do if both are the same."""

    before: Content
    after: bytes | None

    @property
    def path(self) -> Path:
        """The file."""
        return self.before.path

    @property
    def backup(self) -> Path:
        """Where a copy of what was there before is kept: one for each file, of the last change."""
        return backup_of(self.path)

    def __bool__(self) -> bool:
        return self.before.data != self.after

    def diff(self) -> str:
        """Return what changes, as a unified diff."""
        old, new = ((data or b"").decode().splitlines(keepends=True) for data in (self.before.data, self.after))
        name = str(self.path)
        was, will = ("/dev/null" if data is None else name for data in (self.before.data, self.after))
        lines = difflib.unified_diff(old, new, was, will)
        return "".join(
            line.replace("\r", "") if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )

    def write(self) -> None:
        """Make it so, with a copy of what was there.

        Raises `HostFileUnwritableError` if that is not permitted or fails, and `HostFileChangedError` if the file is no
        longer as it was read; either way it is then as it was.
        """
        path, old = self.path, self.before.data
        try:
            mode, owner = _NEW, None
            if old is not None:
                status = path.stat()
                mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
                # To replace a file takes no permission to write to it; but somebody meant something by that.
                if not mode & 0o222:
                    raise PermissionError(errno.EACCES, "it is read-only")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            if old is not None:
                _replace(self.backup, old, mode, owner)
            # Hosts rewrite their files while they run.  What they wrote since ours was read must not be lost.
            if read(path).data != old:
                raise HostFileChangedError(path)
            if self.after is None:
                path.unlink()
            else:
                _replace(path, self.after, mode, owner)
        except OSError as error:
            raise HostFileUnwritableError(path, error) from error


def backup_of(path: Path) -> Path:
    """Return where the copy of *path* is."""
    return path.with_name(path.name + _BACKUP)


def read(path: Path) -> Content:
    """Read what is at *path*, behind any links.  Raises `HostFileUnfitError` if that is no file or cannot be read."""
    real = path
    if not path.is_absolute():
        # Hosts start in other directories than we do.
        raise HostFileUnfitError(path, "is a relative path, so HOME or a variable of the host has to be corrected")
    try:
        real = path.resolve()
        if real.exists() and not real.is_file():
            raise HostFileUnfitError(path, "is no file")
        return Content(real, real.read_bytes())
    except FileNotFoundError:
        return Content(real, None)
    except (OSError, RuntimeError) as error:
        # RuntimeError: links that lead in a circle.
        reason = getattr(error, "strerror", None) or "its links lead nowhere"
        raise HostFileUnfitError(path, f"cannot be read ({reason})") from error


def _replace(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Put *data* at *path*: whoever reads it sees the old or the new, never half, also after a power cut."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), _NEW)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if sys.platform != "win32":
                if owner is not None and owner != (os.geteuid(), os.getegid()):
                    os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise
