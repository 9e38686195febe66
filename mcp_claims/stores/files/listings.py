"""Lists the names in directories, in order; keeps those of large directories while a client reads page after page.

Otherwise each page of 100,000 claims would list all names again, which takes 0.1 s a page and minutes in all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from math import inf

from mcp_claims.stores.files.directories import unavailable
from mcp_claims.stores.files.filesystem import FileSystem

_KEPT_FOR = 30.0  # s since the last page
_MIN_KEPT = 1_000  # names; fewer are listed within a millisecond
_MAX_KEPT = 2_000_000  # names of all directories: 150 MB if they have 20 characters, 370 MB if they have 125
_RUN = 2_000  # names; sorting a million at once would stop all other threads for half a second


class _Listing:
    """The names in a directory, as sorted *runs*; listed at `began`, last used at `used` (`FileSystem.monotonic`)."""

    def __init__(self, runs: list[list[str]], began: float) -> None:
        self.runs, self.count = runs, sum(map(len, runs))
        self.began = self.used = began


class Listings:
    """Lists directories; holds at most two million names in all, those used last."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        # Replaced, never changed: scans in several threads share it.  If two replace it at once, one listing is made again.
        self._kept: dict[str, _Listing] = {}

    def names(self, directory: str, start: str = "", since: float = inf) -> Iterator[str]:
        """Return the names in *directory* from *start* on, in order; none where it does not exist.

        A kept listing serves if it began at *since* or later (`FileSystem.monotonic`); by default none does.  Raises
        `StoreUnavailableError` if the directory cannot be listed.
        """
        self.drop_unused()
        now = self._fs.monotonic()
        listing = self._kept.get(directory)
        # A claim that was made before the walk began must be in the listing, or the walk would pass over it.
        if listing is None or listing.began < since:
            listing = _Listing(_sorted_runs(self._fs, directory), now)
            if since < inf and _MIN_KEPT <= listing.count <= _MAX_KEPT:
                self._keep(directory, listing)
        listing.used = now
        rests = (map(run.__getitem__, range(bisect_left(run, start), len(run))) for run in listing.runs)
        # Some file systems list a file twice if it is replaced meanwhile.
        return (name for name, _ in groupby(merge(*rests)))

    def drop_unused(self) -> None:
        """Drop the names that no page has needed for 30 s."""
        if kept := self._kept:
            now = self._fs.monotonic()
            self._kept = {at: listing for at, listing in kept.items() if now - listing.used <= _KEPT_FOR}

    def _keep(self, directory: str, listing: _Listing) -> None:
        """Keep *listing*, and of the others those used last, as far as there is room."""
        kept, room = {directory: listing}, _MAX_KEPT - listing.count
        for at, other in sorted(self._kept.items(), key=lambda item: item[1].used, reverse=True):
            room -= other.count if at != directory else 0
            if at != directory and room >= 0:
                kept[at] = other
        self._kept = kept


def list_names(fs: FileSystem, directory: str) -> list[str]:
    """Return the names in *directory* in order; none where it does not exist."""
    return list(merge(*_sorted_runs(fs, directory)))


def _sorted_runs(fs: FileSystem, directory: str) -> list[list[str]]:
    try:
        names = fs.names(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unavailable(directory, error) from error
    return [sorted(names[at : at + _RUN]) for at in range(0, len(names), _RUN)]
