"""The file system below the claims: its kind, its space, and by trial whether locks exclude and renames replace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mcp_claims.doctor.directory import nearest_existing
from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.stores.files.filesystem import CREATE, CREATE_LOCK, FileSystem, last_change, write_all

_CHECK = "file system"
_OF_OTHER_MACHINES = frozenset(
    {
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
        "vboxsf",
    }
)
_LOW = 10 * 1024 * 1024
_CLOCK_SLACK = 60.0  # s
_REFUSED = 3
_TRIAL = (
    "import sys\n"
    "from mcp_claims.stores.files.filesystem import LOCK, FileSystem\n"
    "kernel = FileSystem()\n"
    f"sys.exit(0 if kernel.try_lock(kernel.open(sys.argv[1], LOCK)) else {_REFUSED})\n"
)


def examine_file_system(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Finding]:
    """Examine the file system on which *directory* is or will be."""
    place = nearest_existing(directory)
    kind = kind_of(place, mounts)
    if kind in _OF_OTHER_MACHINES:
        yield warning(
            _CHECK,
            f"{kind} is shared between machines; its locks may not exclude across them",
            "Use a directory on a disk of this machine.",
        )
    elif kind:
        yield ok(_CHECK, f"{kind}, of this machine")
    yield from _space(place)
    yield from _try(place)


def kind_of(place: Path, mounts: Path) -> str | None:
    """Return the kind of file system at *place* as Linux calls it, or `None` where that is not told, proc(5)."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    target = place.resolve()
    best: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        # The last one mounted at a place hides the others.
        if target.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), after.split()[0]
    return best[1] if best else None


def _space(place: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        free = shutil.disk_usage(place).free
    else:
        facts = os.statvfs(place)
        if facts.f_flag & os.ST_RDONLY:
            yield failure(
                "space", "the file system is mounted read-only", "Mount it for writing, or choose another directory."
            )
        if facts.f_files and not facts.f_favail:
            yield failure("space", "no inodes are free", "Remove files that nobody needs on that file system.")
        free = facts.f_bavail * facts.f_frsize
    if free < _LOW:
        yield warning("space", f"only {free // 1024:,} KiB are free", "Free some space on that file system.")
    else:
        yield ok("space", f"{free // 1024 // 1024:,} MiB are free")


def _try(place: Path) -> Iterator[Finding]:
    """Do what claims rely on, in a directory that no namespace is called like and that is removed again."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as trial:
            yield from _try_lock(Path(trial))
            yield from _try_rename(Path(trial))
    except OSError as error:
        yield failure(
            "trial",
            f"files cannot be made in {place}: {error.strerror}",
            "Make it writable for this user, with space to spare.",
        )


def _try_lock(trial: Path) -> Iterator[Finding]:
    fs, path = FileSystem(), str(trial / "lock")
    ours, other = fs.open(path, CREATE_LOCK), fs.open(path, CREATE_LOCK)
    try:
        locked, inside = fs.try_lock(ours), fs.try_lock(other)
        child = subprocess.run(
            [sys.executable, "-c", _TRIAL, path], capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        fs.close(other)
        fs.close(ours)
    remedy = "Choose a directory on another file system: without this lock a key can get two holders."
    if not locked:
        yield failure("lock", "the kernel's lock cannot be had here", remedy)
    elif inside or child.returncode == 0:
        yield failure(
            "lock", f"the kernel's lock keeps nobody out, in {'this process' if inside else 'another process'}", remedy
        )
    elif child.returncode != _REFUSED:
        yield warning(
            "lock", f"a second process could not try the lock: {child.stderr.strip()[-200:]}", "Run doctor again."
        )
    else:
        yield ok("lock", "the kernel's lock keeps out other openings and other processes")


def _try_rename(trial: Path) -> Iterator[Finding]:
    fs, source, target = FileSystem(), str(trial / "new"), str(trial / "old")
    for path, data in ((source, b"new"), (target, b"old")):
        fd = fs.open(path, CREATE)
        try:
            write_all(fs, fd, data)
        finally:
            fs.close(fd)
    written = fs.status_of(source)
    fs.replace(source, target)
    if Path(target).read_bytes() == b"new" and not Path(source).exists():
        yield ok("rename", "a rename replaces what is there")
    else:
        yield failure("rename", "a rename does not replace what is there", "Choose a directory on another file system.")
    skew = last_change(written) - time.time()
    if abs(skew) > _CLOCK_SLACK:
        yield warning(
            "rename",
            f"the file system's clock is {skew:+.0f} s off this machine's",
            "Set the clocks alike: damaged claims are freed by the age of their files.",
        )
