"""Claims for agents that run side by side: of all that see an event, exactly one acts.

The core, without MCP:

    with process_session(FileStore(claims_directory())) as claims:
        if claims.try_claim("vercel/next.js#4521:checks_failed").claimed:
            ...
"""

from mcp_claims.lazily import lazily
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_claims.answers import Attempt, Look, Release, Status, TakenOver
    from mcp_claims.claims import Claims
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
    from mcp_claims.opening import open_store
    from mcp_claims.overview import Pruned
    from mcp_claims.record import Claim, Ended, Holder, Moment, OriginalHolder, Outcome, Proof, ScopedKey, Unreadable
    from mcp_claims.sessions import process_session
    from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
    from mcp_claims.stores.base import Store, Swap
    from mcp_claims.stores.files import FileStore
    from mcp_claims.stores.location import claims_directory
    from mcp_claims.stores.memory import MemoryStore

__version__ = "0.1.0"

_WHERE = {
    "AgentAwarenessStore": "stores.agent_awareness.store",
    "Attempt": "answers",
    "Claim": "record",
    "Claims": "claims",
    "ClaimsError": "errors",
    "Ended": "record",
    "FileStore": "stores.files",
    "ForkedError": "errors",
    "Holder": "record",
    "InvalidInputError": "errors",
    "LockDirectoryBusyError": "errors",
    "Look": "answers",
    "MemoryStore": "stores.memory",
    "Moment": "record",
    "OriginalHolder": "record",
    "Outcome": "record",
    "Proof": "record",
    "Pruned": "overview",
    "Release": "answers",
    "ScopedKey": "record",
    "SessionEndedError": "errors",
    "Status": "answers",
    "Store": "stores.base",
    "StoreBusyError": "errors",
    "StoreUnavailableError": "errors",
    "Swap": "stores.base",
    "TakenOver": "answers",
    "Unreadable": "record",
    "UnsafeDirectoryError": "errors",
    "claims_directory": "stores.location",
    "open_store": "opening",
    "process_session": "sessions",
}


__getattr__ = lazily(__name__, _WHERE)

__all__ = [
    "AgentAwarenessStore",
    "Attempt",
    "Claim",
    "Claims",
    "ClaimsError",
    "Ended",
    "FileStore",
    "ForkedError",
    "Holder",
    "InvalidInputError",
    "LockDirectoryBusyError",
    "Look",
    "MemoryStore",
    "Moment",
    "OriginalHolder",
    "Outcome",
    "Proof",
    "Pruned",
    "Release",
    "ScopedKey",
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
