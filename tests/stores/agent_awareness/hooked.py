"""The real system calls of this layout, with a hook before each."""

from __future__ import annotations

from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem
from tests.stores.files.hooked import HookedFileSystem


class HookedAgentAwarenessFileSystem(HookedFileSystem, AgentAwarenessFileSystem):
    """Calls `before` with the name of each call, those of lock directories included."""

    def make_lock_directory(self, path: str) -> None:
        self.before("make_lock_directory", path)
        super().make_lock_directory(path)

    def remove_directory(self, path: str) -> None:
        self.before("remove_directory", path)
        super().remove_directory(path)

    def link(self, source: str, target: str) -> None:
        self.before("link", target)
        super().link(source, target)
