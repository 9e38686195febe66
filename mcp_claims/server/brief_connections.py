"""Which hosts have closed a connection right after their call: the claims of such a connection end with the call.

LangChain's default opens a connection for each call, and each starts a server of its own.  What one server has seen, the
next one has to know, so it is kept in files in the directory for temporary files: empty ones, named by a hash of the store
and the host.  Losing them costs a warning and no claim.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mcp_claims.liveness import Machine
from mcp_claims.stores.config import StoreChoice
from mcp_claims.stores.files.directories import unsafe

_REMEMBERED = 3_600.0  # s
_MOST_SWEPT = 1_000


class BriefConnections:
    """The hosts that close a connection to servers of *store* right after their call."""

    def __init__(self, store: StoreChoice, directory: Path | None = None) -> None:
        self._store = f"{store.url}\0{store.layout}\0{store.directory}"
        self._directory = directory or Path(tempfile.gettempdir()) / f"mcp-claims-{_user()}"

    def remember(self, host: str) -> None:
        """Note that *host* has just closed such a connection, for an hour."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if self._is_private():
                self._sweep()
                self._file(host).touch(mode=0o600)

    def remembers(self, host: str) -> bool:
        """Return whether *host* has closed such a connection within an hour."""
        with suppress(OSError):
            return self._is_private() and time.time() - self._file(host).lstat().st_mtime < _REMEMBERED
        return False

    def _file(self, host: str) -> Path:
        name = hashlib.sha256(f"{self._store}\0{host}".encode(errors="surrogateescape")).hexdigest()
        return self._directory / f"brief-{name[:32]}"

    def _is_private(self) -> bool:
        # Anybody can make a directory of that name, or a link to elsewhere.
        return unsafe(self._directory.lstat()) is None

    def _sweep(self) -> None:
        for number, path in enumerate(self._directory.glob("brief-*")):
            if number >= _MOST_SWEPT:
                return
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > _REMEMBERED:
                    path.unlink()


def _user() -> int:
    if sys.platform == "win32":
        return 0  # The directory for temporary files is the user's own there.
    return os.geteuid()


def host_of(machine: Machine) -> str | None:
    """Return a name for the process that has started this one, apart from shells; `None` if it is not known."""
    above = machine.program_above(machine.pid())
    proof = None if above is None else machine.proof(above)
    if proof is None or proof.start is None:
        return None
    return f"{proof.boot}/{proof.pid_namespace}/{above}/{proof.start}"
