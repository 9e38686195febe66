"""A change of several keys: all of it or nothing, although files are renamed one by one.

Before the first rename, the lock file of each namespace gets the *intent*, the list of what the change does, behind its
generation counter.  Then the new records are written beside those in place, and one more byte behind the intent in the first
namespace, in the order of the locks, commits the change.  The process can die at any moment:

- Before that byte the change is not made, and what was written for it is removed.
- After it the change is made, and what is left of it is done.  The new records are whole by then, so it needs no room.

Whoever takes the lock of one of these namespaces settles the change first, under the locks of all of them.  So no record is
compared, and none is changed, while it belongs to a change half made.  The owner settles its change in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from mcp_claims.stores.files.filenames import may_be_file_name
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.lock import NamespaceLock
from mcp_claims.stores.files.writing import remove, write_new

_COMMITTED = b"\n"
_NEW = ".new-"
"""Begins the names of the new records.  They lie in the namespace: a rename to another file system fails, after the commit."""

Locks = Mapping[str, NamespaceLock]
"""The locks that are held, by the directory of the namespace."""


class FurtherLocksNeededError(Exception):
    """A change that has to be settled first has keys in *directories* too."""

    def __init__(self, directories: set[str]) -> None:
        super().__init__(directories)
        self.directories = directories


class _Intent(NamedTuple):
    """What a change does: it puts records at some paths and removes those at others, relative to the claims directory."""

    puts: tuple[str, ...]
    removals: tuple[str, ...]

    def directories(self, root: str) -> list[str]:
        """Return the directories of the namespaces, in the order of their locks; the first has the commit."""
        return sorted({_directory_of(root, path) for path in self.puts + self.removals})

    def new_records(self, root: str) -> list[str]:
        """Return where the records of `puts` are before they are renamed."""
        return [f"{_directory_of(root, path)}/{_NEW}{number}" for number, path in enumerate(self.puts)]


def commit(fs: FileSystem, root: str, locks: Locks, records: Mapping[str, bytes | None]) -> None:
    """Commit to put *records* at their paths in the claims directory *root*, `None` for none; `settle` does it.

    Raises `OSError` as the system does; the change is then not made.
    """
    relative = {path.removeprefix(f"{root}/"): data for path, data in records.items()}
    puts = {path: data for path, data in relative.items() if data is not None}
    intent = _Intent(tuple(puts), tuple(path for path in relative if path not in puts))
    held = [locks[directory] for directory in intent.directories(root)]
    try:
        for lock in held:
            lock.append_intent(json.dumps(intent).encode())
        for path, data in zip(intent.new_records(root), puts.values(), strict=True):
            write_new(fs, path, data, locks[os.path.dirname(path)])
        for lock in held:
            # Else nobody would complete what we commit in a lock file that was removed.
            lock.check_in_place()
        held[0].append_intent(_COMMITTED)
    except OSError:
        # The next owner of the locks does so if this fails; the error that matters is the first one.
        with suppress(OSError):
            settle(fs, root, locks)
        raise


def settle(fs: FileSystem, root: str, locks: Locks) -> None:
    """Complete the changes that are committed in the namespaces of *locks*, and undo those that are not.

    Raises `FurtherLocksNeededError` before it does so for one with keys in other namespaces, `OSError` as the system does.
    """
    for lock in locks.values():
        if not lock.has_intent:
            continue
        written = lock.read_intent().removesuffix(_COMMITTED)
        intent = _parse(written)
        if intent is None:
            # Torn, so nothing else was written for it.
            lock.remove_intent()
            continue
        directories = intent.directories(root)
        if further := set(directories) - locks.keys():
            raise FurtherLocksNeededError(further)
        held = [locks[directory] for directory in directories]
        if held[0].read_intent() == written + _COMMITTED:
            _complete(fs, root, locks, intent)
        else:
            _undo(fs, root, locks, intent)
        # That of the first namespace first: were it to stay alone, the change would be made again.
        for each in held:
            if each.has_intent and each.read_intent().removesuffix(_COMMITTED) == written:
                each.remove_intent()


def _complete(fs: FileSystem, root: str, locks: Locks, intent: _Intent) -> None:
    # What is missing was renamed or removed before a crash.  Removals come last: a reader must not find a directory free
    # while it passes from the claim on it to claims on its files.
    for new, path in zip(intent.new_records(root), intent.puts, strict=True):
        locks[os.path.dirname(new)].check_in_place()
        with suppress(FileNotFoundError):
            fs.replace(new, f"{root}/{path}")
    for path in intent.removals:
        locks[_directory_of(root, path)].check_in_place()
        with suppress(FileNotFoundError):
            fs.remove(f"{root}/{path}")


def _undo(fs: FileSystem, root: str, locks: Locks, intent: _Intent) -> None:
    for new in intent.new_records(root):
        with suppress(FileNotFoundError):
            remove(fs, new, locks[os.path.dirname(new)])


def _parse(written: bytes) -> _Intent | None:
    """Return the intent in a lock file, `None` if it is torn: no proper beginning of JSON in brackets is JSON."""
    try:
        puts, removals = json.loads(written)
        intent = _Intent(tuple(puts), tuple(removals))
        paths = [path.split("/") for path in intent.puts + intent.removals]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    # Nothing outside a namespace is ever renamed or removed.
    is_intent = paths and all(len(path) == 2 and all(map(may_be_file_name, path)) for path in paths)
    return intent if is_intent else None


def _directory_of(root: str, path: str) -> str:
    return f"{root}/{path.partition('/')[0]}"
