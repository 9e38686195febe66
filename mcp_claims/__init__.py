"""Claims for agents that run side by side: of all that see an event, exactly one acts.

The core, without MCP:

    with process_session(FileStore(claims_directory())) as session:
        if session.try_claim("vercel/next.js#4521:checks_failed").claimed:
            ...
"""

from mcp_claims.errors import (
    ClaimsError,
    ForkedError,
    InvalidInputError,
    LockDirectoryBusyError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.model.records import (
    Claim,
    Ended,
    Holder,
    Moment,
    OriginalHolder,
    Outcome,
    Proof,
    ScopedKey,
    Unreadable,
)
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult, Inspection, PruneResult, ReleaseResult, Status, TakenOver
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import Store, Swap
from mcp_claims.stores.config import claims_directory, open_store
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore

__version__ = "0.1.0"

__all__ = [
    "AgentAwarenessStore",
    "Claim",
    "ClaimResult",
    "ClaimsError",
    "Ended",
    "FileStore",
    "ForkedError",
    "Holder",
    "Inspection",
    "InvalidInputError",
    "LockDirectoryBusyError",
    "MemoryStore",
    "Moment",
    "OriginalHolder",
    "Outcome",
    "Proof",
    "PruneResult",
    "ReleaseResult",
    "ScopedKey",
    "Session",
    "SessionEndedError",
    "Status",
    "Store",
    "StoreBusyError",
    "StoreUnavailableError",
    "Swap",
    "TakenOver",
    "Unreadable",
    "UnsafeDirectoryError",
    "claims_directory",
    "open_store",
    "process_session",
]
