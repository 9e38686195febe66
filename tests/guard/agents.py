"""Agents of a host, as its hooks see them: each event is answered by a guard in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp_claims.guard.dialects import DIALECTS, Answer, read_event
from mcp_claims.guard.guard import Guard, GuardSettings, Mode
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import scoped_key
from mcp_claims.session.handles import Handles
from mcp_claims.session.host_session import HostSession
from mcp_claims.session.identity import guarded_session, handle_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store


class Agent:
    """One agent of Claude Code in its session *session*: *agent* is the id of a sub-agent."""

    def __init__(
        self,
        store: Store,
        directory: Path,
        session: str,
        agent: str | None = None,
        *,
        mode: Mode = Mode.CLAIM,
        strict: bool = False,
        machine: Machine | None = None,
    ) -> None:
        self.store, self.directory, self.settings = store, directory, GuardSettings(mode, strict)
        self.us = HostSession(session, agent)
        self.machine = machine or local_machine()
        self._ids = {"session_id": session, **({"agent_id": agent} if agent else {})}

    @property
    def session(self) -> Session:
        """The session for which the hooks of this agent act: a new one for each event."""
        nonce = None
        if self.us.agent is not None:
            nonce = Handles(self.store.secret()).of_agent(self.us.id or "", self.us.agent).nonce
        return guarded_session(self.store, self.machine, nonce, self.us)

    def server(self) -> Session:
        """Return the session that the claims server of this agent's host opens for it."""
        if self.us.agent is None:
            session = process_session(self.store, self.machine)
        else:
            opened = Handles(self.store.secret()).of_agent(self.us.id or "", self.us.agent)
            session = handle_session(self.store, self.machine, 0, opened.nonce, bound=True, of_agent=True)
        session.act_in(self.us)
        return session

    def event(self, name: str, **data: Any) -> Answer:
        """Return the answer to the event *name*."""
        described = {"hook_event_name": name, "cwd": str(self.directory), **self._ids, **data}
        event = read_event("claude-code", described)
        assert event is not None
        handles = Handles(self.store.secret())
        handle = handles.issue_for_agent(self.us.id or "", self.us.agent)[0] if self.us.agent else None
        guard = Guard(self.session, self.us, self.machine, DIALECTS["claude-code"], self.settings, handle)
        return guard.answer(event)

    def edits(self, path: str, call: str = "call") -> str | None:
        """Begin an edit of *path*; return why it is denied, if it is."""
        return self._tool("PreToolUse", path, call).denial

    def has_edited(self, path: str, call: str = "call") -> None:
        """End the edit *call* of *path*."""
        self._tool("PostToolUse", path, call)

    def runs(self, command: str, call: str = "call") -> str | None:
        """Begin the shell command *command*; return why it is denied, if it is."""
        return self.event("PreToolUse", tool_name="Bash", tool_input={"command": command}, tool_use_id=call).denial

    def _tool(self, event: str, path: str, call: str) -> Answer:
        asked = {"file_path": str(self.directory / path)}
        return self.event(event, tool_name="Edit", tool_input=asked, tool_use_id=call)

    def claim(self, path: str) -> Claim | None:
        """Return the claim that is stored for *path*, whoever holds it."""
        found = self.store.read(self.session.resolve(_key(self.directory / path)))
        assert found is None or isinstance(found, Claim)
        return found


def _key(path: Path) -> ScopedKey:
    return scoped_key(f"file:{path}")
