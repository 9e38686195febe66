"""The kernel of this layout, with a hook at each system call."""

from __future__ import annotations

from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem
from tests.stores.files.hooked import HookedFileSystem


class HookedLayoutKernel(HookedFileSystem, LayoutFileSystem):
    """Tells `before` of each call, those of lock directories included."""

    def make_lock(self, path: str) -> None:
        self.before("make_lock", path)
        super().make_lock(path)

    def remove_empty(self, path: str) -> None:
        self.before("remove_empty", path)
        super().remove_empty(path)

    def link(self, source: str, target: str) -> None:
        self.before("link", target)
        super().link(source, target)
