"""Which hosts have closed a connection right after their call: the claims of such a connection end with the call.

LangChain's default opens a connection for each call, and each starts a server of its own.  What one server has seen, the
next one has to know, so it is kept in files in the directory for temporary files: empty ones, named by the host and
the store.  Losing them costs a warning and no claim.
"""

from __future__ import annotations

import os
import sys
import time
from binascii import crc32
from contextlib import suppress

from mcp_claims.liveness import Machine
from mcp_claims.stores.config import StoreChoice
from mcp_claims.stores.files.directories import unsafe
from mcp_claims.stores.files.filenames import file_name

_REMEMBERED = 3_600.0  # s
_MOST_SWEPT = 1_000
_PREFIX = "brief-"


class BriefConnections:
    """The hosts that close a connection to servers of *store* right after their call."""

    def __init__(self, store: StoreChoice, directory: str | os.PathLike[str] | None = None) -> None:
        # Short, so that the name of a file with a host over stdio is not cut: the hash of a cut name loads OpenSSL, which
        # takes a twentieth of a start.  Two stores with one number cost a warning.
        self._store = crc32(f"{store.url}\0{store.layout}\0{store.directory}".encode(errors="backslashreplace"))
        self._directory = os.fspath(directory or os.path.join(_temporary(), f"mcp-claims-{_user()}"))

    def remember(self, host: str) -> None:
        """Note that *host* has just closed such a connection, for an hour."""
        with suppress(OSError):
            with suppress(FileExistsError):
                os.mkdir(self._directory, 0o700)
            if self._is_private():
                self._sweep()
                path = self._file(host)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                os.utime(path)

    def remembers(self, host: str) -> bool:
        """Return whether *host* has closed such a connection within an hour."""
        with suppress(OSError):
            return self._is_private() and time.time() - os.lstat(self._file(host)).st_mtime < _REMEMBERED
        return False

    def _file(self, host: str) -> str:
        name = file_name(host.encode(errors="backslashreplace").decode())
        return os.path.join(self._directory, f"{_PREFIX}{self._store:08x}-{name}")

    def _is_private(self) -> bool:
        # Anybody can make a directory of that name, or a link to elsewhere.
        return unsafe(os.lstat(self._directory)) is None

    def _sweep(self) -> None:
        names = [name for name in os.listdir(self._directory) if name.startswith(_PREFIX)]
        for name in names[:_MOST_SWEPT]:
            path = os.path.join(self._directory, name)
            with suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > _REMEMBERED:
                    os.unlink(path)


def _temporary() -> str:
    # Not `tempfile`: its import takes as long as a claim, and a wrong directory costs only a warning.
    return os.environ.get("TEMP" if sys.platform == "win32" else "TMPDIR") or os.path.abspath(os.sep + "tmp")


def _user() -> int:
    if sys.platform == "win32":
        return 0  # The directory for temporary files is the user's own there.
    return os.geteuid()


def host_of(machine: Machine) -> str | None:
    """Return a name for the process that has started this one, apart from shells; `None` if it is not known."""
    above = next((each.pid for each in machine.programs_above(machine.pid()) if not each.is_launcher), 0)
    proof = machine.proof(above) if above > 1 else None
    if proof is None or proof.start is None:
        return None
    # In lower case, as each capital of the boots of macOS would take three characters in the name of a file.
    return f"{proof.boot}/{proof.pid_namespace}/{above}/{proof.start}".lower()
