"""A long list, read in pages: first small ones, of ranges that end where they did the last time, then large ones, read ahead.

etcd walks over all keys of the range that a request is for, however few it returns.  So what a page costs is bounded by where
the range ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.threads import BackgroundCall

# Keys of one request, twice as many in each further one as long as they come within `_SLOW` seconds.  Few at first, since most
# callers want one page; many later, since each request walks over the whole rest of the list.
_MIN_SIZE, _MAX_SIZE = 64, 8_192
_SLOW = 0.5

_AHEAD = 1_024
"""Keys of a page from which on the next one is read ahead: whoever comes this far wants the whole list."""

_MAX_ENDS = 256


class _Page(NamedTuple):
    keys: list[KeyValue]
    more: bool
    took: float


class Pages:
    """Lists by *ask*, which sends the request for a range and returns the response, by a deadline."""

    def __init__(self, ask: Callable[[dict[str, Any], float], dict[str, Any]]) -> None:
        self._ask = ask
        # Where the page of a size from a key on has ended; a hint, since keys come and go.
        self._ends: dict[tuple[bytes, int], bytes] = {}

    def read(self, start: bytes, end: bytes) -> Iterator[list[KeyValue]]:
        """Yield what is stored from *start* to before *end*, page by page; raise what *ask* raises."""
        if start >= end:
            return  # A caller may have made the position up.
        size = _MIN_SIZE
        deadline: float | None = deadline_in(CALL_TIMEOUT)
        while size < _AHEAD:
            page, after = self._read_small(start, end, size, deadline)
            yield page.keys
            if after is None:
                return
            start, size, deadline = after, _next_size(size, page), None
        page = self._read_one(start, end, size)
        while page.more:
            start, size = page.keys[-1].key + b"\0", _next_size(size, page)
            read: Callable[[], _Page] = partial(self._read_one, start, end, size)
            # etcd puts the next page together while this one is parsed, unless no thread is left.
            with suppress(RuntimeError):
                read = BackgroundCall(read).result
            yield page.keys
            page = read()
        yield page.keys

    def _read_small(self, start: bytes, end: bytes, size: int, deadline: float | None) -> tuple[_Page, bytes | None]:
        """Return the page from *start* on, up to where it ended the last time, and where the next one begins, if there is one."""
        stop = min(self._ends.pop((start, size), end), end)
        page = self._read_one(start, stop, size, deadline)
        if not page.more and stop == end:
            return page, None
        after = page.keys[-1].key + b"\0" if page.more else stop
        # Fewer than a page are left before that end: the next time it looks for another one.
        if len(page.keys) == size:
            if len(self._ends) >= _MAX_ENDS:
                self._ends.clear()
            self._ends[start, size] = after
        return page, after

    def _read_one(self, start: bytes, end: bytes, size: int, deadline: float | None = None) -> _Page:
        asked = time.monotonic()
        # Each further page has its own deadline: a long list is no reason to fail while the cluster answers.
        by = asked + CALL_TIMEOUT if deadline is None else deadline
        response = self._ask(messages.range_request(start, end, size), by)
        return _Page(messages.key_values(response), bool(response.get("more")), time.monotonic() - asked)


def _next_size(size: int, page: _Page) -> int:
    return min(2 * size, _MAX_SIZE) if page.took < _SLOW else max(size // 2, _MIN_SIZE)
