"""What `mcp-claims doctor` looks at: each finding says what is the case and, where it is not well, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mcp_claims.diagnosis.directory import examine_directory
from mcp_claims.diagnosis.file_system import examine_file_system
from mcp_claims.diagnosis.findings import Finding, Level
from mcp_claims.diagnosis.identity import examine_identity
from mcp_claims.diagnosis.stored import examine_stored
from mcp_claims.machine import local_machine
from mcp_claims.stores.base import Store
from mcp_claims.stores.files import FileStore

__all__ = ["Finding", "Level", "diagnose"]


def diagnose(directory: Path, chosen_by: str, store: Store | None = None) -> Iterator[Finding]:
    """Examine the claims *directory*, which *chosen_by* chose, and this machine; changes no claim and makes no directory.

    *store* is what reads the claims there, a `FileStore` unless given.  Never raises for what it finds: that is a finding.
    """
    machine = local_machine()
    yield from examine_directory(directory, chosen_by)
    yield from examine_file_system(directory)
    yield from examine_stored(directory, store or FileStore(directory), machine)
    yield from examine_identity(machine)
