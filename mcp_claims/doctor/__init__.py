"""The checks of `mcp-claims doctor`.  Each finding states a fact and, unless all is well, what to do.

`mcp_claims.doctor.hosts` is not imported here, since it imports the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_claims.doctor.claims import check_claims, check_claims_directory
from mcp_claims.doctor.etcd import examine_cluster
from mcp_claims.doctor.filesystem import check_directory, check_file_system
from mcp_claims.doctor.finding import Finding, Level
from mcp_claims.doctor.history import check_history
from mcp_claims.doctor.liveness import check_liveness
from mcp_claims.liveness import local_machine
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.store import FileStore

if TYPE_CHECKING:
    from mcp_claims.stores.etcd.store import EtcdStore

__all__ = ["Finding", "Level", "run_checks", "run_cluster_checks"]


def run_checks(directory: Path, chosen_by: str, store: Store | None = None) -> Iterator[Finding]:
    """Check the claims *directory*, which *chosen_by* chose, and this machine.

    *store* reads the claims in the directory; default a `FileStore`.  Changes no claim and does not make the directory.
    Problems are findings, never exceptions.
    """
    machine = local_machine()
    yield from check_directory(directory, chosen_by)
    yield from check_file_system(directory)
    store = store or FileStore(directory)
    yield from check_claims_directory(directory, store, machine)
    yield from check_history(store.history)
    yield from check_liveness(machine)


def run_cluster_checks(store: EtcdStore, chosen_by: str) -> Iterator[Finding]:
    """Check the cluster of *store*, which *chosen_by* chose, and this machine.

    Changes no claim.  Problems are findings, never exceptions.
    """
    machine = local_machine()
    yield from examine_cluster(store.config, chosen_by)
    yield from check_claims(store, machine)
    yield from check_history(store.history)
    yield from check_liveness(machine)
