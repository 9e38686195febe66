"""Checks the claims directory and its file system: who could replace it, and do locks and renames work as claims need?"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.errors import ReplaceableDirectoryError
from mcp_claims.stores.files.ancestors import find_replaceable
from mcp_claims.stores.files.directories import unsafe
from mcp_claims.stores.files.filesystem import CREATE_LOCK, FileSystem, create_file, last_change

_DIRECTORY, _FILE_SYSTEM = "directory", "file system"
_CHOOSE_ANOTHER = "choose another directory with --dir or MCP_CLAIMS_DIR."
# Of these one machine alone has the locks.  A list of shared ones would never be whole: each virtual machine brings its
# own (virtiofs, drvfs, grpcfuse).
_LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
)
_LITTLE_SPACE = 10 * 1024 * 1024  # bytes
_CLOCK_TOLERANCE = 60.0  # s
_LOCKED_OUT = 3
_TRY_LOCK_PROGRAM = (
    "import sys\n"
    "from mcp_claims.stores.files.filesystem import LOCK, FileSystem\n"
    "fs = FileSystem()\n"
    f"sys.exit(0 if fs.try_lock(fs.open(sys.argv[1], LOCK)) else {_LOCKED_OUT})\n"
)


def check_directory(directory: Path, chosen_by: str) -> Iterator[Finding]:
    """Check the owner and the permissions of *directory* and of the directories above it."""
    name = f"{directory} (chosen by {chosen_by})"
    try:
        status = directory.stat()
    except FileNotFoundError:
        yield _check_missing(directory, name)
    except OSError as error:
        yield failure(
            _DIRECTORY, f"{name} cannot be examined: {error.strerror}", f"Correct the path, or {_CHOOSE_ANOTHER}"
        )
        return
    else:
        if not stat.S_ISDIR(status.st_mode):
            yield failure(_DIRECTORY, f"{name} is not a directory", f"Move it away, or {_CHOOSE_ANOTHER}")
            return
        yield _check_permissions(directory, name, status)
    yield _check_parents(directory)


def _check_missing(directory: Path, name: str) -> Finding:
    parent = _nearest_existing(directory)
    missing = parent / directory.relative_to(parent).parts[0]
    if os.path.islink(missing):
        return failure(
            _DIRECTORY,
            f"{name} cannot be made: {missing} is a link that leads nowhere",
            f"Remove that link, or {_CHOOSE_ANOTHER}",
        )
    if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
        return ok(_DIRECTORY, f"{name} does not exist yet; the first claim makes it")
    return failure(
        _DIRECTORY,
        f"{name} does not exist, and nothing can be made in {parent}",
        f"Make {parent} writable for this user, or {_CHOOSE_ANOTHER}",
    )


def _check_permissions(directory: Path, name: str, status: os.stat_result) -> Finding:
    if problem := unsafe(status):
        foreign = sys.platform != "win32" and status.st_uid != os.geteuid()
        return failure(
            _DIRECTORY,
            f"{name} {problem}: others could forge or remove claims",
            f"Have its owner move it away, or {_CHOOSE_ANOTHER}" if foreign else f"As its owner: chmod 700 {directory}",
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        return failure(
            _DIRECTORY, f"{name} cannot be written by this user", f"chmod 700 {directory}, or {_CHOOSE_ANOTHER}"
        )
    target = f", a link to {directory.resolve()}," if directory.is_symlink() else ""
    return ok(_DIRECTORY, f"{name}{target} is yours alone")


def _check_parents(directory: Path) -> Finding:
    """Check the way to *directory*, links on it included: could others put another directory there?"""
    try:
        found = find_replaceable(os.path.abspath(directory))
    except OSError as error:
        return failure(
            "parents", f"the way to {directory} cannot be examined: {error.strerror}", _CHOOSE_ANOTHER.capitalize()
        )
    if found is None:
        return ok("parents", "nobody else can replace the claims directory")
    refusal = ReplaceableDirectoryError(*found)
    return failure(
        "parents",
        f"others could replace the claims directory, so it is not used: {refusal.where} {refusal.problem}",
        f"{refusal.remedy}.",
    )


def check_file_system(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Finding]:
    """Check the file system that *directory* is on or will be on, and try there what claims rely on."""
    place = _nearest_existing(directory)
    kind = kind_of(place, mounts)
    if kind in _LOCAL_FILE_SYSTEMS:
        yield ok(_FILE_SYSTEM, f"{kind}, local to this machine")
    elif kind:
        yield warning(
            _FILE_SYSTEM,
            f"{kind} may be shared with other machines; its locks may not exclude processes of those",
            "Use a directory on a disk of this machine, or use it from this machine only.",
        )
    yield from _check_space(place)
    try:
        # No namespace has a name like this.
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as trial:
            yield _try_lock(Path(trial))
            yield from _try_rename(Path(trial))
    except OSError as error:
        yield failure(
            "trial",
            f"files cannot be made in {place}: {error.strerror}",
            "Make it writable for this user, and free some space.",
        )


def kind_of(place: Path, mounts: Path) -> str | None:
    """Return the type of the file system at *place* by Linux's name, from *mounts*; `None` on other systems, proc(5)."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    target = place.resolve()
    best: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        # The last file system mounted at a place hides those before it.
        if target.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), after.split()[0]
    return best[1] if best else None


def _check_space(place: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        free = shutil.disk_usage(place).free
    else:
        status = os.statvfs(place)
        if status.f_flag & os.ST_RDONLY:
            yield failure(
                "space", "the file system is mounted read-only", f"Mount it for writing, or {_CHOOSE_ANOTHER}"
            )
        if status.f_files and not status.f_favail:
            yield failure("space", "no inodes are free", "Remove files that nobody needs from that file system.")
        free = status.f_bavail * status.f_frsize
    if free < _LITTLE_SPACE:
        yield warning("space", f"only {free // 1024:,} KiB are free", "Free some space on that file system.")
    else:
        yield ok("space", f"{free // 1024 // 1024:,} MiB are free")


def _try_lock(trial: Path) -> Finding:
    fs, path = FileSystem(), str(trial / "lock")
    first, second = fs.open(path, CREATE_LOCK), fs.open(path, CREATE_LOCK)
    try:
        locked, locked_twice = fs.try_lock(first), fs.try_lock(second)
        child = subprocess.run(
            [sys.executable, "-c", _TRY_LOCK_PROGRAM, path], capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        fs.close(second)
        fs.close(first)
    remedy = "Choose a directory on another file system: without this lock a key can get two holders."
    if not locked:
        return failure("lock", "the kernel's lock cannot be acquired here", remedy)
    if locked_twice or child.returncode == 0:
        admitted = "this process" if locked_twice else "another process"
        return failure("lock", f"the kernel's lock keeps nobody out: {admitted} acquired it a second time", remedy)
    if child.returncode != _LOCKED_OUT:
        problem = child.stderr.strip()[-200:]
        return warning("lock", f"a second process could not try the lock: {problem}", "Run `mcp-claims doctor` again.")
    return ok("lock", "the kernel's lock keeps out this process and others while it is held")


def _try_rename(trial: Path) -> Iterator[Finding]:
    fs, source, target = FileSystem(), str(trial / "new"), str(trial / "old")
    for path, data in ((source, b"new"), (target, b"old")):
        create_file(fs, path, data)
    written = fs.status_of(source)
    fs.replace(source, target)
    if Path(target).read_bytes() == b"new" and not Path(source).exists():
        yield ok("rename", "a rename replaces an existing file")
    else:
        yield failure(
            "rename", "a rename does not replace an existing file", "Choose a directory on another file system."
        )
    skew = last_change(written) - time.time()
    if abs(skew) > _CLOCK_TOLERANCE:
        yield warning(
            "rename",
            f"the clock of the file system differs from this machine's by {skew:+.0f} s",
            "Synchronize the clocks: a damaged claim becomes free by the age of its file.",
        )


def _nearest_existing(path: Path) -> Path:
    """Return *path* or the closest directory above it that exists, as far as this user can see."""
    # Not `Path.exists`, which raises for names that are too long and in directories that this user may not enter.
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
