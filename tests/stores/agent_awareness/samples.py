"""Stores in the original's layout, and where they put things."""

from __future__ import annotations

from pathlib import Path

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import OriginalHolder, ScopedKey
from mcp_claims.stores.agent_awareness import filenames
from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.samples import KEY

_machine = local_machine()


def is_gone(pid: int) -> bool:
    """Tell whether nothing runs under *pid*."""
    return _machine.provably_dead(OriginalHolder(f"{_machine.host()}:{pid}", pid))


def store_in(directory: Path | str, fs: LayoutFileSystem | None = None) -> AgentAwarenessStore:
    """Return a store of this machine's in *directory*."""
    return AgentAwarenessStore(directory, is_gone, fs=fs)


def record(store: AgentAwarenessStore, scoped: ScopedKey = KEY) -> Path:
    """Return the file in which *store* keeps *scoped*."""
    return Path(filenames.place(store.directory, scoped)[1])


def lock(store: AgentAwarenessStore, scoped: ScopedKey = KEY) -> Path:
    """Return the lock directory under which *store* and the original change *scoped*."""
    return Path(f"{record(store, scoped)}.lock")
