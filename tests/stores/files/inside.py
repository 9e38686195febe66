"""A process that stays inside the critical section of a file store until it reads a line.

Run as `python -m tests.stores.files.inside DIRECTORY`: it claims the sample key, prints `inside` before its claim
appears, and waits for the line.
"""

from __future__ import annotations

import sys

from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.stores.samples import KEY, claim


class Pausing(FileSystem):
    """Waits before the rename that makes a claim appear."""

    def replace(self, source: str, target: str) -> None:
        print("inside", flush=True)
        sys.stdin.readline()
        super().replace(source, target)


def main() -> None:
    swap = FileStore(sys.argv[1], fs=Pausing()).swap(KEY, None, claim(session=9))
    print("won" if swap.won else "lost", flush=True)


if __name__ == "__main__":
    main()
