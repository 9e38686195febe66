"""Claims for agents that run side by side: of all that see an event, exactly one acts.

    from mcp_claims import open_session

    with open_session() as session, session.claim("vercel/next.js#4521:checks_failed@3f2a91c", wait=60) as claim:
        ...

`open_session` opens a session of this process on the user's store; `Session` has the operations.  `open_store`,
`FileStore` and `MemoryStore` choose another store.  Errors derive from `ClaimsError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_claims.errors import (
        ClaimsError,
        ContendedError,
        ForkedError,
        InvalidInputError,
        LockDirectoryBusyError,
        NotClaimedError,
        SessionEndedError,
        StoreBusyError,
        StoreUnavailableError,
        UnsafeDirectoryError,
    )
    from mcp_claims.model.expiry import ClaimState
    from mcp_claims.model.records import (
        Claim,
        Ended,
        Found,
        Holder,
        Leased,
        Moment,
        Outcome,
        Proof,
        ScopedKey,
        Unreadable,
    )
    from mcp_claims.session.identity import open_session
    from mcp_claims.session.results import (
        ClaimPage,
        ClaimResult,
        Inspection,
        ListedClaim,
        PruneResult,
        ReleaseResult,
        Status,
        TakenOver,
    )
    from mcp_claims.session.session import Session
    from mcp_claims.stores.base import Change, Store, Swap, Swaps
    from mcp_claims.stores.config import claims_directory, open_store
    from mcp_claims.stores.files.store import FileStore
    from mcp_claims.stores.memory import MemoryStore
else:
    # A host runs a hook before each edit: the package must not import more than its command needs.
    def __getattr__(name: str) -> object:
        if name in __all__:
            for module in map(import_module, _MODULES):
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


_MODULES = (
    "mcp_claims.errors",
    "mcp_claims.model.expiry",
    "mcp_claims.model.records",
    "mcp_claims.stores.base",
    "mcp_claims.stores.config",
    "mcp_claims.stores.files.store",
    "mcp_claims.stores.memory",
    "mcp_claims.session.results",
    "mcp_claims.session.session",
    "mcp_claims.session.identity",
)

__version__ = "0.2.0"

__all__ = [
    "Change",
    "Claim",
    "ClaimPage",
    "ClaimResult",
    "ClaimState",
    "ClaimsError",
    "ContendedError",
    "Ended",
    "FileStore",
    "ForkedError",
    "Found",
    "Holder",
    "Inspection",
    "InvalidInputError",
    "Leased",
    "ListedClaim",
    "LockDirectoryBusyError",
    "MemoryStore",
    "Moment",
    "NotClaimedError",
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
    "Swaps",
    "TakenOver",
    "Unreadable",
    "UnsafeDirectoryError",
    "claims_directory",
    "open_session",
    "open_store",
]
