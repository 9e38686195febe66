"""Sessions: who is calling, how that is known and when it ends."""

from mcp_claims.lazily import lazily
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_claims.sessions.handles import OpenedSession
    from mcp_claims.sessions.identity import fixed_session, process_session
    from mcp_claims.sessions.registry import Caller, Session, Sessions

_WHERE = {
    "Caller": "registry",
    "OpenedSession": "handles",
    "Session": "registry",
    "Sessions": "registry",
    "fixed_session": "identity",
    "process_session": "identity",
}


__getattr__ = lazily(__name__, _WHERE)

__all__ = ["Caller", "OpenedSession", "Session", "Sessions", "fixed_session", "process_session"]
