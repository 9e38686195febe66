"""Claims to store, and where a file store puts them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Holder, Moment, Proof, ScopedKey
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.filenames import file_name
from mcp_claims.stores.files.store import FileStore

KEY = ScopedKey("ci", "red-check")
OTHER_KEY = ScopedKey("ci", "review")


def claim(scoped: ScopedKey = KEY, *, session: int = 1, boot: str | None = "boot-1") -> Claim:
    """Return what *session* would like to have stored; no store has numbered it yet."""
    pid = 100 + session
    holder = Holder(f"rig:{pid}:{session:012x}", pid, Proof(boot, "pid:[1]", "time:[1]", session))
    now = Moment(datetime(2026, 11, 23, 12, 0, 0, 123_000, tzinfo=UTC), 1_000.1 + 0.2, boot)
    return Claim(scoped, holder, now, expiry.later(now, timedelta(minutes=30)))


def renewed(granted: Claim) -> Claim:
    """Return *granted* with an hour more to live."""
    return granted._replace(expires=expiry.later(granted.expires, timedelta(hours=1)))


def grant(store: Store, new: Claim, over: Claim | None = None) -> Claim:
    """Store *new* in place of *over* and return what the store made of it."""
    swap = store.swap(new.scoped, over, new, lock_timeout=0)
    assert swap.won, swap
    assert isinstance(swap.found, Claim)
    return swap.found


def place(store: FileStore, scoped: ScopedKey = KEY) -> Path:
    """Return the file in which *store* keeps *scoped*."""
    return Path(store.directory, file_name(scoped.namespace), f"{file_name(scoped.key)}.json")


def fresh(store: FileStore) -> Path:
    """Return where the records of the sample key's namespace are written, before they appear in their places."""
    return Path(store.directory, f".new-{file_name(KEY.namespace)}")


def lock_file(store: FileStore, scoped: ScopedKey = KEY) -> Path:
    """Return the lock file under which *store* changes *scoped*."""
    return place(store, scoped).with_name(".lock")
