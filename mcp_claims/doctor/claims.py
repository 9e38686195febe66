"""Checks the claims in the store: how they stand, what is unreadable, foreign files, and locks that are not released."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, Unreadable
from mcp_claims.model.text import one_line
from mcp_claims.stores.agent_awareness.location import other_providers, providers_in, successors
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import NEVER, Store
from mcp_claims.stores.files.filenames import may_be_file_name
from mcp_claims.stores.files.filesystem import LOCK, FileSystem
from mcp_claims.stores.files.lock import COUNTER_BYTES, LOCK_FILE, is_counter
from mcp_claims.stores.files.store import FileStore

_SHOWN = 5
_LOCK_TIMEOUT = 0.5  # s
_CLOCK_TOLERANCE = timedelta(minutes=1)


def check_claims_directory(directory: Path, store: Store, machine: Machine) -> Iterator[Finding]:
    """Check the claims that *store* has in *directory* and, if it is a `FileStore`, the other files there.

    Other stores share the directory with another program, so its files are not foreign.
    """
    if isinstance(store, AgentAwarenessStore):
        yield from _check_provider(store.directory)
    if not os.path.isdir(directory):  # Not `Path.is_dir`, which raises where this user may not look.
        return
    yield from check_claims(store, machine)
    if isinstance(store, FileStore):
        yield from _check_entries(directory)
    elif isinstance(store, AgentAwarenessStore):
        yield from _check_lock_directories(store)


def check_claims(store: Store, machine: Machine) -> Iterator[Finding]:
    """Check the claims in *store*; reads all of them."""
    states: Counter[ClaimState] = Counter()
    unreadable: list[Unreadable] = []
    wrong_times: list[str] = []
    try:
        for found in store.scan():
            now = machine.now()
            if isinstance(found, Unreadable):
                unreadable.append(found)
                if found.changed != NEVER and found.changed > now.wall + _CLOCK_TOLERANCE:
                    wrong_times.append(f"{one_line(found.where)} was changed in the future")
            elif not found.members:  # The claims of those whom a head lists are there, too.
                states[expiry.state_of(found, now, machine.provably_dead)] += 1
                wrong_times += _wrong_times(found, now)
    except ClaimsError as error:
        yield failure("claims", one_line(str(error)), "Correct that and run `mcp-claims doctor` again.")
        return
    free = states[ClaimState.EXPIRED] + states[ClaimState.ORPHANED]
    held = states[ClaimState.HELD] + states[ClaimState.RESERVED]
    yield ok("claims", f"{held} held, {free} expired or orphaned (free to take)")
    for found in unreadable[:_SHOWN]:
        state, remedy = "held", found.remedy
        if remedy is None:
            remedy = "Delete it if nobody works on that event; otherwise a file becomes free after a day."
        if expiry.is_past_any_ttl(found, machine.now()):
            state, remedy = "expired", "Nothing to do: the next claim replaces it; `mcp-claims prune` removes it."
        yield warning(
            "claims", f"unreadable, counts as {state}: {one_line(found.where)} ({one_line(found.problem)})", remedy
        )
    if len(unreadable) > _SHOWN:
        yield warning("claims", f"{len(unreadable) - _SHOWN} more are unreadable", "As above.")
    for problem in wrong_times[:_SHOWN]:
        yield warning("clocks", problem, "Correct the clock; delete the file of the claim if nobody holds it.")
    if len(wrong_times) > _SHOWN:
        yield warning("clocks", f"{len(wrong_times) - _SHOWN} more claims have wrong times", "As above.")


def _check_provider(directory: str) -> Iterator[Finding]:
    """Check which sessions of agent-awareness look into *directory*."""
    remedy = "Use the provider whose sessions you run, for all your agents."
    if moved := successors(directory):
        yield failure("provider", f"{directory} is not where sessions of {' or '.join(moved)} look", remedy)
    elif others := other_providers(directory):
        yield warning(
            "provider", f"sessions of {' and '.join(others)} have claims of their own, not excluded here", remedy
        )
    elif os.path.basename(os.path.dirname(directory)) == "agent-awareness":
        what = (
            f"{directory} is that of agent-awareness before version 0.5; the first start of a newer one moves it away"
        )
        yield warning("provider", what, "Start the newer version once, and then the agents again.")
    elif providers_in(os.path.dirname(os.path.dirname(directory))):
        yield ok("provider", f"claims are shared with the sessions of {os.path.basename(os.path.dirname(directory))}")


def _check_lock_directories(store: AgentAwarenessStore) -> Iterator[Finding]:
    """Check for locks that block a key; one that a session is using is gone after milliseconds."""
    try:
        locks = list(store.locks())
    except ClaimsError:
        return  # `check_claims` has reported it.
    kept = [(path, lock) for path, lock in locks if not lock.in_use]
    for path, lock in kept[:_SHOWN]:
        report = ok("locks", f"{one_line(path)} {lock.state}; {lock.remedy}")
        yield report if lock.goes else warning("locks", f"{one_line(path)} {lock.state}", lock.remedy)
    if len(kept) > _SHOWN:
        yield warning("locks", f"{len(kept) - _SHOWN} more locks are there", "As above.")


def _wrong_times(claim: Claim, now: Moment) -> list[str]:
    name = f"the claim on {one_line(claim.scoped.base.key)!r}"
    if expiry.remaining(claim.expires, now) > validation.MAX_TTL + _CLOCK_TOLERANCE:
        return [f"{name} expires later than the longest TTL allows"]
    if claim.claimed.epoch != now.epoch and claim.claimed.wall > now.wall + _CLOCK_TOLERANCE:
        return [f"{name} was made in the future"]
    return []


def _check_entries(directory: Path) -> Iterator[Finding]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        yield failure(
            "entries", f"{directory} cannot be listed: {error.strerror}", f"As its owner: chmod 700 {directory}"
        )
        return
    foreign = []
    for name in names:
        path = directory / name
        if may_be_file_name(name) and _may_be_namespace(path):
            yield from _check_namespace(path)
        elif not name.startswith("."):
            foreign.append(one_line(repr(name)))
    if foreign:
        more = len(foreign) - _SHOWN
        shown = ", ".join(foreign[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        yield warning("entries", f"not made by mcp-claims, and ignored: {shown}", "Keep other files elsewhere.")


def _may_be_namespace(path: Path) -> bool:
    try:
        os.lstat(path / LOCK_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # This user may not enter the directory; opening the lock file shows the problem.
    return True


def _check_namespace(path: Path) -> Iterator[Finding]:
    """Check that this user can make claims in a namespace.  `check_claims` reports one that others can write."""
    if os.path.islink(path):
        yield failure("entries", f"{path} is a link, and claims are not made through links", "Remove that link.")
    elif not os.access(path, os.W_OK | os.X_OK):
        yield failure("entries", f"{path} cannot be written by this user", f"As its owner: chmod 700 {path}")
    else:
        yield from _check_lock_file(str(path / LOCK_FILE))


def _check_lock_file(path: str) -> Iterator[Finding]:
    """Check that the lock can be acquired, and that the generation counter in its file is intact."""
    fs = FileSystem()
    try:
        fd = fs.open(path, LOCK)
    except OSError as error:
        yield failure("locks", f"{path} cannot be opened: {error.strerror}", f"As its owner: chmod 600 {path}")
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            yield failure("locks", f"{path} is not a file", "Move it away.")
            return
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while not fs.try_lock(fd):
            if time.monotonic() > deadline:
                remedy = "End that process, or let it continue (kill -CONT)."
                yield failure("locks", f"{path} is locked by {_lock_holders(fd)}", remedy)
                return
            time.sleep(0.01)
        counter = fs.read(fd, COUNTER_BYTES)
        fs.unlock(fd)
    finally:
        fs.close(fd)
    if counter and not is_counter(counter):
        remedy = "Nothing to do: the next grant gets a sequence number above all that were given out."
        yield warning("locks", f"the generation counter in {path} is damaged", remedy)


def _lock_holders(fd: int) -> str:
    """Return the processes that hold the lock on *fd*, where the system lists them, proc_locks(5)."""
    status = os.fstat(fd)
    pids: list[str] = []
    if sys.platform == "linux":
        inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        try:
            lines = Path("/proc/locks").read_text().splitlines()
        except OSError:
            lines = []
        pids = [line.split()[4] for line in lines if inode in line.split() and "->" not in line]
    return f"process {', '.join(pids)}" if pids else "another process"
