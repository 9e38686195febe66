"""The files and functions that one `try_claim` runs through, from the SDK's in-memory client to the file store.

python -m benchmarks trace       # the counts
python -m benchmarks.trace       # the counts and the path itself, one line for each change of file
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from mcp import Client

import mcp_claims
from benchmarks.measure import Bar, Effort, Figure
from mcp_claims import FileStore
from mcp_claims.server.app import build_server
from tests.support.servers import one_client

_PACKAGE = f"{Path(mcp_claims.__file__).parent}/"
_MAX_FILES, _MAX_CHANGES = 20, 90


class Trace:
    """Records calls and returns in files of the package, in every thread that starts after `install`."""

    def __init__(self) -> None:
        self.recording = False
        self.functions: set[CodeType] = set()
        self.calls = 0
        self.path: list[str] = []
        """Where control went: a new item whenever it passes to another file of the package, by call or by return."""

    @property
    def files(self) -> set[str]:
        """The files of the package that ran, relative to it."""
        return {_file(code) for code in self.functions}

    @property
    def changes(self) -> int:
        """How often control passed from one file of the package to another."""
        return max(0, len(self.path) - 1)

    def install(self) -> None:
        """Begin in this thread and in later ones; nothing is recorded before `recording` is set."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def remove(self) -> None:
        """Undo `install`."""
        sys.setprofile(None)
        threading.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.recording:
            return
        if event == "call" and _is_ours(frame.f_code):
            self.functions.add(frame.f_code)
            self.calls += 1
            self._enter(frame.f_code)
        elif event == "return" and frame.f_back is not None and _is_ours(frame.f_back.f_code):
            self._enter(frame.f_back.f_code)

    def _enter(self, code: CodeType) -> None:
        file = _file(code)
        if not self.path or self.path[-1] != file:
            self.path.append(file)


def measure(_: Effort) -> Iterator[Figure]:
    """Trace one granted `try_claim`, after warm-up."""
    trace = trace_try_claim()
    yield Figure("trace", "files of mcp_claims in one try_claim", "", len(trace.files), bar=Bar(_MAX_FILES, "value"))
    yield Figure("trace", "changes of file in it", "", trace.changes, bar=Bar(_MAX_CHANGES, "value"))
    yield Figure("trace", "functions in it", "", len(trace.functions))
    yield Figure("trace", "calls in it", "", trace.calls)


def trace_try_claim() -> Trace:
    """Return the trace of one granted `try_claim` of a new key, after two claims and releases of another one."""
    trace = Trace()
    trace.install()
    try:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(_try_claim(trace, FileStore(directory)))
    finally:
        trace.remove()
    return trace


async def _try_claim(trace: Trace, store: FileStore) -> None:
    async with Client(build_server(lambda: one_client(store))) as client:
        for _ in range(2):
            await client.call_tool("try_claim", {"key": "red"})
            await client.call_tool("release", {"key": "red"})
        trace.recording = True
        result = await client.call_tool("try_claim", {"key": "a new key"})  # Not in any cache.
        trace.recording = False
    assert result.structured_content is not None and result.structured_content["claimed"]


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


def _file(code: CodeType) -> str:
    return code.co_filename.removeprefix(_PACKAGE)


if __name__ == "__main__":
    traced = trace_try_claim()
    print("\n".join(traced.path))
    print(
        f"{len(traced.files)} files, {len(traced.functions)} functions, {traced.calls} calls, {traced.changes} changes"
    )
