"""Sessions: who is calling, how that is known and when it ends."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_claims.sessions.handles import OpenedSession
    from mcp_claims.sessions.identity import fixed_session, process_session
    from mcp_claims.sessions.registry import Caller, Session, Sessions

# Where each name is; imported when it is asked for, as in the package above.
_WHERE = {
    "Caller": "registry",
    "OpenedSession": "handles",
    "Session": "registry",
    "Sessions": "registry",
    "fixed_session": "identity",
    "process_session": "identity",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


__all__ = ["Caller", "OpenedSession", "Session", "Sessions", "fixed_session", "process_session"]
