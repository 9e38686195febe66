"""Stores in the original's layout, and the paths in them."""

from __future__ import annotations

from pathlib import Path

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import OriginalHolder, ScopedKey
from mcp_claims.stores.agent_awareness.filenames import lock_path, record_path
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.samples import KEY

_machine = local_machine()


def pid_is_gone(pid: int) -> bool:
    """Return whether nothing runs under *pid*."""
    return _machine.provably_dead(OriginalHolder(f"{_machine.host()}:{pid}", pid))


def store_in(directory: Path | str, fs: AgentAwarenessFileSystem | None = None) -> AgentAwarenessStore:
    """Return a store in *directory*."""
    return AgentAwarenessStore(directory, pid_is_gone, fs=fs)


def record(store: AgentAwarenessStore, scoped: ScopedKey = KEY) -> Path:
    """Return the path of the record of *scoped*."""
    return Path(record_path(store.directory, scoped))


def lock(store: AgentAwarenessStore, scoped: ScopedKey = KEY) -> Path:
    """Return the path of the lock directory of *scoped*."""
    return Path(lock_path(record_path(store.directory, scoped)))
