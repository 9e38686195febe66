"""What `mcp-claims doctor` looks at: each finding says what is the case and, where it is not well, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_claims.doctor.claims import examine_claims, examine_stored
from mcp_claims.doctor.directory import examine_directory
from mcp_claims.doctor.filesystem import examine_file_system
from mcp_claims.doctor.finding import Finding, Level
from mcp_claims.doctor.liveness import examine_identity
from mcp_claims.liveness import local_machine
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.store import FileStore

if TYPE_CHECKING:
    from mcp_claims.stores.etcd.store import EtcdStore

__all__ = ["Finding", "Level", "diagnose", "diagnose_cluster"]


def diagnose(directory: Path, chosen_by: str, store: Store | None = None) -> Iterator[Finding]:
    """Examine the claims *directory*, which *chosen_by* chose, and this machine; changes no claim and makes no directory.

    *store* is what reads the claims there, a `FileStore` unless given.  Never raises for what it finds: that is a finding.
    """
    machine = local_machine()
    yield from examine_directory(directory, chosen_by)
    yield from examine_file_system(directory)
    yield from examine_stored(directory, store or FileStore(directory), machine)
    yield from examine_identity(machine)


def diagnose_cluster(store: EtcdStore, chosen_by: str) -> Iterator[Finding]:
    """Examine the cluster of *store*, which *chosen_by* chose, and this machine; changes no claim.

    Never raises for what it finds: that is a finding.
    """
    # Here, as it needs an optional dependency.
    from mcp_claims.doctor.etcd import examine_cluster

    machine = local_machine()
    yield from examine_cluster(store.config, chosen_by)
    yield from examine_claims(store, machine)
    yield from examine_identity(machine)
