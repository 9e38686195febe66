"""Sessions: who is calling, how that is known and when it ends."""

from mcp_claims.sessions.handles import OpenedSession
from mcp_claims.sessions.identity import fixed_session, process_session
from mcp_claims.sessions.registry import Caller, Session, Sessions

__all__ = ["Caller", "OpenedSession", "Session", "Sessions", "fixed_session", "process_session"]
