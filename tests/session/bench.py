"""Stores under test, each with the means to damage what it holds and to list all of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.acquire import Wakeup, acquire
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness import filenames
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem
from mcp_claims.stores.base import Store
from mcp_claims.stores.etcd.keys import Keyspace, decode_key
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.filenames import file_name
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore
from tests.stores.agent_awareness.samples import store_in
from tests.support.etcd import fresh_config
from tests.support.etcd_keys import delete_raw, write_raw
from tests.support.machines import World

KEY = "vercel/next.js#4521:checks_failed"
HALF_AN_HOUR, DAY = 30 * 60.0, 24 * 60 * 60.0


def granted(
    session: Session,
    key: str = KEY,
    namespace: str = DEFAULT_NAMESPACE,
    *,
    ttl_minutes: float = 30,
    note: str | None = None,
) -> Claim:
    """Claim *key*, which has to be possible."""
    attempt = session.try_claim(key, namespace, ttl_minutes=ttl_minutes, note=note)
    assert attempt.claimed
    assert isinstance(attempt.found, Claim)
    return attempt.found


class Bench(ABC):
    """A world and a store in it."""

    store: Store

    def __init__(self) -> None:
        self.world = World()

    def session(self, store: Store | None = None) -> Session:
        """Open a session in a process of its own, on *store* if its view of the store is a special one."""
        return self.world.session(store or self.store)

    @abstractmethod
    def damage(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE, content: bytes = b"{") -> None:
        """Make the record of *key* unreadable, at the world's time."""

    @abstractmethod
    def place(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> str:
        """Return where people find the record of *key*."""

    @abstractmethod
    def contents(self) -> object:
        """Return all that is stored, in a form that differs after any change."""


class MemoryBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.store: MemoryStore = MemoryStore()

    def damage(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE, content: bytes = b"{") -> None:
        changed = self.world.wall
        damaged = Unreadable(self.place(key, namespace), "damaged", changed, (changed, content))
        self.store.corrupt(ScopedKey(namespace, key), damaged)

    def place(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> str:
        return f"{namespace}/{key}"

    def contents(self) -> object:
        return list(self.store.scan())


class FileBench(Bench):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self._fs = _DatingFileSystem()
        self.store = self._open()

    def _open(self) -> Store:
        return FileStore(self.directory, fs=self._fs)

    def damage(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE, content: bytes = b"{") -> None:
        path = Path(self.place(key, namespace))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path.parent / ".lock").touch()  # It makes the directory a namespace.
        path.write_bytes(content)
        self._fs.dated[path.stat().st_ino] = self.world.wall.timestamp()

    def place(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> str:
        return str(self.directory / file_name(namespace) / f"{file_name(key)}.json")

    def contents(self) -> object:
        return {
            str(path.relative_to(self.directory)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.directory.rglob("*"))
        }


class LayoutBench(FileBench):
    """Shared with the original, of which nobody runs here."""

    def _open(self) -> Store:
        return store_in(self.directory, self._fs)

    def place(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> str:
        return filenames.record_path(str(self.directory), ScopedKey(namespace, key))


class EtcdBench(Bench):
    """On a real node; a test cannot set its clock, so its leases are too long to end by themselves."""

    def __init__(self) -> None:
        super().__init__()
        here = self.world.process()
        self.store: EtcdStore = LongLeases(fresh_config(), here)

    def damage(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE, content: bytes = b"{") -> None:
        write_raw(self.store, ScopedKey(namespace, key), content)

    def end_lease(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Take away what is stored for *key*, as etcd does when its lease is over, and its trace too."""
        delete_raw(self.store, ScopedKey(namespace, key))

    def place(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> str:
        return decode_key(Keyspace(self.store.config.prefix).claim_key(ScopedKey(namespace, key)))

    def contents(self) -> object:
        return list(self.store.scan())


class LongLeases(EtcdStore):
    """Gives each claim a lease of a day at least, for worlds in which days pass in a moment."""

    min_claim_lease = 24 * 60 * 60


class _DatingFileSystem(AgentAwarenessFileSystem):
    """Dates chosen files by a world's clock, since nobody can set the time of an inode's last change."""

    def __init__(self) -> None:
        self.dated: dict[int, float] = {}

    def status(self, fd: int) -> os.stat_result:
        return self._date(super().status(fd))

    def status_of(self, path: str) -> os.stat_result:
        return self._date(super().status_of(path))

    def sync(self, fd: int) -> None:
        """Do nothing: no power is cut in these tests, and thousands of syncs take their time."""

    def sync_directory(self, path: str) -> None:
        """Do nothing, as `sync`."""

    def _date(self, status: os.stat_result) -> os.stat_result:
        changed = self.dated.get(status.st_ino)
        if changed is None:
            return status
        named = {name: getattr(status, name) for name in ("st_atime", "st_mtime", "st_mtime_ns")}
        return os.stat_result(tuple(status), {**named, "st_ctime": changed, "st_ctime_ns": round(changed * 1e9)})


class FreedWhileWaiting(Wakeup):
    """During the first wait *meanwhile* happens."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def wait(self, seconds: float, *others: object) -> bool:
        self._meanwhile()
        return True


def reserved_for(waiter: Session, holder: Session, key: str = KEY) -> ClaimResult:
    """Let *waiter* wait for *key* as a tool does, until *holder* releases it."""
    request = ClaimRequest.parse(key, wait_seconds=60)
    result = acquire(waiter, request, wakeup=FreedWhileWaiting(lambda: holder.release(key)), reserve=True)
    assert result.status is Status.YOUR_TURN
    return result
