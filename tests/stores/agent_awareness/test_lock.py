"""The original's lock directories: how we make, check, release, judge and remove them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_claims.doctor.claims import check_claims_directory
from mcp_claims.doctor.finding import Level
from mcp_claims.errors import LockDirectoryBusyError, StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim, Moment, ScopedKey, Unreadable
from mcp_claims.stores.agent_awareness.lock import try_lock
from mcp_claims.stores.agent_awareness.store import LOCK_PAUSE, AgentAwarenessStore
from mcp_claims.stores.agent_awareness.swap import SETTLE_TIMEOUT
from mcp_claims.stores.base import LOCK_TIMEOUT
from mcp_claims.stores.files.lock import LockFile, NamespaceLock
from tests.stores.agent_awareness.hooked import HookedAgentAwarenessFileSystem
from tests.stores.agent_awareness.samples import lock, record, store_in
from tests.stores.agent_awareness.test_broken_locks import Breaker
from tests.stores.samples import KEY, claim, grant, renewed

NOBODY = 2**22 + 1  # No Linux has such PIDs.


@pytest.fixture
def store(tmp_path: Path) -> AgentAwarenessStore:
    """A store whose namespace directory exists."""
    store = store_in(tmp_path / "claims")
    assert store.swap(KEY, grant(store, claim()), None).won
    return store


def put_lock(store: AgentAwarenessStore, meta: str | None = None, *, age: float = 0, **owner: object) -> Path:
    """Make a lock of another process, with *meta* or the fields of *owner* in its meta.json."""
    path = lock(store)
    path.mkdir()
    if owner:
        meta = json.dumps({"createdAt": datetime.now(UTC).isoformat(), **owner})
    if meta is not None:
        (path / "meta.json").write_text(meta)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def entries(store: AgentAwarenessStore) -> list[str]:
    return sorted(path.name for path in record(store).parent.iterdir())


class FakeClock(HookedAgentAwarenessFileSystem):
    """A clock that only `sleep` advances; `while_asleep` is called with the number of sleeps so far."""

    def __init__(self, while_asleep: Callable[[int], object] = lambda slept: slept) -> None:
        self.sleeps: list[float] = []
        self._while_asleep = while_asleep

    def monotonic(self) -> float:
        return 50.0 + sum(self.sleeps)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._while_asleep(len(self.sleeps))


def test_our_lock_names_its_owner_and_time_as_the_original_expects(store: AgentAwarenessStore) -> None:
    seen = []

    class Watching(HookedAgentAwarenessFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "link" and where == str(record(store)):
                seen.append(json.loads((lock(store) / "meta.json").read_text()))

    grant(store_in(store.directory, Watching()), claim())
    assert seen[0]["pid"] == os.getpid()
    assert abs(datetime.fromisoformat(seen[0]["createdAt"]).timestamp() - time.time()) < 60


def test_a_change_leaves_only_the_record_and_the_kernel_lock_file(store: AgentAwarenessStore) -> None:
    granted = grant(store, claim())
    grant(store, renewed(granted), over=granted)
    assert entries(store) == [".lock", "red-check.json"]


@pytest.mark.rule("A5")
def test_under_the_original_lock_we_only_compare_and_write(store: AgentAwarenessStore) -> None:
    # Everything slow comes before, above all numbering, which may sync the disk.
    calls: list[str] = []

    class Watching(HookedAgentAwarenessFileSystem):
        def before(self, call: str, where: str | int) -> None:
            calls.append(call)

    grant(store_in(store.directory, Watching()), claim(boot="boot-2"))
    inside = calls[calls.index("make_lock_directory") : calls.index("remove_directory")]
    assert "sync" in calls
    assert not {"sync", "sync_directory", "seek", "try_lock"} & set(inside)
    assert len(inside) < 30


@pytest.mark.rule("A6")
@pytest.mark.parametrize("age", [0, 3_600])
def test_the_lock_of_a_dead_process_is_removed_at_once(store: AgentAwarenessStore, age: float) -> None:
    put_lock(store, pid=NOBODY, age=age)
    grant(store, claim())
    assert entries(store) == [".lock", "red-check.json"]


@pytest.mark.rule("A6")
@pytest.mark.parametrize("age", [0, 11, 365 * 86_400])
def test_the_lock_of_a_live_process_is_never_removed_whatever_its_age(store: AgentAwarenessStore, age: float) -> None:
    path = put_lock(store, pid=os.getppid(), age=age)
    with pytest.raises(LockDirectoryBusyError) as busy:
        store.swap(KEY, None, claim(), lock_timeout=0)
    assert busy.value.where == str(path)
    assert (path / "meta.json").is_file()
    assert store.read(KEY) is None


@pytest.mark.parametrize(("age", "broken"), [(0, False), (9, False), (11, True)])
def test_our_lock_with_a_recycled_pid_is_removed_after_10_s(
    store: AgentAwarenessStore, age: float, broken: bool
) -> None:
    # Its owner would hold the kernel lock, which we hold.
    put_lock(store, pid=os.getppid(), by="mcp-claims", age=age)
    if broken:
        grant(store, claim())
    else:
        with pytest.raises(LockDirectoryBusyError):
            store.swap(KEY, None, claim(), lock_timeout=0)


@pytest.mark.rule("A6")
@pytest.mark.parametrize(
    "meta", [None, "", "{", "[]", "{}", '{"pid": "1"}', '{"pid": 0}', '{"pid": -1}', '{"pid": true}', "[" * 5_000]
)
@pytest.mark.parametrize(("age", "broken"), [(0, False), (9, False), (11, True), (-3_600, False)])
def test_a_lock_without_an_owner_is_removed_after_10_s(
    store: AgentAwarenessStore, meta: str | None, age: float, broken: bool
) -> None:
    put_lock(store, meta, age=age)
    if broken:
        grant(store, claim())
        assert entries(store) == [".lock", "red-check.json"]
    else:
        with pytest.raises(LockDirectoryBusyError):
            store.swap(KEY, None, claim(), lock_timeout=0)
        assert entries(store) == [".lock", "red-check.json.lock"]


def test_a_pid_out_of_range_counts_as_alive(store: AgentAwarenessStore) -> None:
    put_lock(store, pid=2**80, age=3_600)
    with pytest.raises(LockDirectoryBusyError):
        store.swap(KEY, None, claim(), lock_timeout=0)


def directory_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "work").write_text("mine")


def file(path: Path) -> None:
    path.write_text("mine")


def link(path: Path) -> None:
    path.symlink_to(path.parent)


def lock_with_a_file(path: Path) -> None:
    directory_with_a_file(path)
    (path / "meta.json").write_text(json.dumps({"pid": NOBODY}))


@pytest.mark.rule("A7")
@pytest.mark.parametrize("make", [directory_with_a_file, lock_with_a_file, file, link])
def test_a_path_that_is_not_a_lock_is_never_removed(store: AgentAwarenessStore, make: Callable[[Path], None]) -> None:
    make(lock(store))
    os.utime(lock(store), (0, 0), follow_symlinks=False)
    with pytest.raises(LockDirectoryBusyError):
        store.swap(KEY, None, claim(), lock_timeout=0)
    assert os.path.lexists(lock(store))
    assert make in (file, link) or (lock(store) / "work").read_text() == "mine"
    assert make is not lock_with_a_file or (lock(store) / "meta.json").is_file()


@pytest.mark.rule("A7")
@pytest.mark.parametrize("call", ["replace", "remove_directory"])
@pytest.mark.parametrize("dead", [True, False], ids=["of-a-dead-process", "without-meta"])
def test_a_lock_made_after_the_stale_one_was_judged_is_kept(store: AgentAwarenessStore, dead: bool, call: str) -> None:
    class Overtaken(HookedAgentAwarenessFileSystem):
        done = False

        def before(self, called: str, where: str | int) -> None:
            if called == call and not self.done:
                self.done = True
                shutil.rmtree(lock(store))
                put_lock(store, pid=os.getppid())

    if dead:
        put_lock(store, pid=NOBODY)
    else:
        put_lock(store, age=60)
    fs = Overtaken()
    with pytest.raises(LockDirectoryBusyError):
        store_in(store.directory, fs).swap(KEY, None, claim(), lock_timeout=0)
    assert fs.done
    assert json.loads((lock(store) / "meta.json").read_text())["pid"] == os.getppid()
    assert entries(store) == [".lock", "red-check.json.lock"]


@pytest.mark.rule("A7")
def test_a_new_lock_without_meta_is_distinguished_from_the_stale_one_by_its_inode(store: AgentAwarenessStore) -> None:
    class Overtaken(HookedAgentAwarenessFileSystem):
        judging = done = False

        def before(self, call: str, where: str | int) -> None:
            self.judging = self.judging or (call == "names" and where == str(lock(store)))
            if call == "status" and self.judging and not self.done:
                self.done = True
                lock(store).rmdir()
                lock(store).mkdir()

    put_lock(store, age=60)
    fs = Overtaken()
    with pytest.raises(LockDirectoryBusyError):
        store_in(store.directory, fs).swap(KEY, None, claim(), lock_timeout=0)
    assert fs.done
    assert lock(store).is_dir()


def half_written(store: AgentAwarenessStore) -> Callable[[int], None]:
    """Write half a record, as the original does; return a callback that finishes it after two sleeps."""
    put_lock(store, pid=os.getppid())
    whole = to_json(claim(session=2)._replace(generation=7))
    record(store).write_bytes(whole[:50])

    def write_the_rest_and_unlock(slept: int) -> None:
        if slept == 2:
            record(store).write_bytes(whole)
            shutil.rmtree(lock(store))

    return write_the_rest_and_unlock


@pytest.mark.rule("A10")
def test_a_reader_reads_a_half_written_record_again(store: AgentAwarenessStore) -> None:
    clock = FakeClock(half_written(store))
    found = store_in(store.directory, clock).read(KEY)
    assert isinstance(found, Claim)
    assert len(clock.sleeps) == 2


def test_a_reader_gives_up_on_a_half_written_record_after_milliseconds(store: AgentAwarenessStore) -> None:
    half_written(store)
    clock = FakeClock()
    assert isinstance(store_in(store.directory, clock).read(KEY), Unreadable)
    assert 0.01 < sum(clock.sleeps) < 0.05


def test_a_change_waits_for_a_half_written_record(store: AgentAwarenessStore) -> None:
    clock = FakeClock(half_written(store))
    swap = store_in(store.directory, clock).swap(KEY, None, claim())
    assert not swap.won
    assert isinstance(swap.found, Claim)
    assert swap.found.generation == 7


@pytest.mark.rule("A5")
def test_a_taken_lock_is_tried_every_20_ms_until_the_timeout(store: AgentAwarenessStore) -> None:
    put_lock(store, pid=os.getppid())
    clock = FakeClock()
    with pytest.raises(LockDirectoryBusyError) as busy:
        store_in(store.directory, clock).swap(KEY, None, claim())
    assert sum(clock.sleeps) == pytest.approx(LOCK_TIMEOUT)
    assert max(clock.sleeps) == LOCK_PAUSE
    assert busy.value.waited == LOCK_TIMEOUT


@pytest.mark.rule("A5")
def test_other_keys_can_be_changed_while_one_waits_for_its_lock(store: AgentAwarenessStore) -> None:
    other = ScopedKey("ci", "review")
    put_lock(store, pid=os.getppid())
    clock = FakeClock(lambda slept: grant(store, claim(other)) if slept == 1 else None)
    with pytest.raises(LockDirectoryBusyError):
        store_in(store.directory, clock).swap(KEY, None, claim())
    assert store.read(other) is not None


def test_after_waiting_for_the_lock_the_record_is_compared_again(store: AgentAwarenessStore) -> None:
    put_lock(store, pid=os.getppid())

    def claim_and_unlock(slept: int) -> None:
        if slept == 2:
            shutil.rmtree(lock(store))
            grant(store, claim(session=2))

    swap = store_in(store.directory, FakeClock(claim_and_unlock)).swap(KEY, None, claim(session=1))
    assert not swap.won
    assert swap.found == store.read(KEY) is not None


@pytest.mark.rule("A8")
def test_nothing_is_written_after_the_lock_was_broken(store: AgentAwarenessStore) -> None:
    class Broken(HookedAgentAwarenessFileSystem):
        written = False

        def before(self, call: str, where: str | int) -> None:
            if call == "open" and where == str(record(store)) and lock(store).exists():
                # The last read before the check of the lock.
                shutil.rmtree(lock(store))
                put_lock(store, pid=os.getppid())
            self.written = self.written or (call in ("link", "replace", "remove") and where == str(record(store)))

    fs = Broken()
    with pytest.raises(LockDirectoryBusyError):
        store_in(store.directory, fs).swap(KEY, None, claim(), lock_timeout=0)
    assert not fs.written
    assert store.read(KEY) is None


@pytest.mark.rule("A8")
def test_a_claim_whose_write_is_uncertain_is_neither_renewed_nor_released_before_it_expires(
    store: AgentAwarenessStore,
) -> None:
    class Breaking(FakeClock):
        late = 0.0

        def wall_clock(self) -> float:
            return super().wall_clock() + self.late

        def before(self, call: str, where: str | int) -> None:
            if call == "link" and where == str(record(store)):
                shutil.rmtree(lock(store))
                put_lock(store, pid=os.getppid())

    mine = claim()._replace(
        expires=Moment(datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1), 2_000.0, "boot-1")
    )
    ours = store_in(store.directory, fs := Breaking())
    with pytest.raises(StoreUnavailableError, match="broken by a session of agent-awareness"):
        ours.swap(KEY, None, mine)
    assert sum(fs.sleeps) == pytest.approx(SETTLE_TIMEOUT, abs=0.01)
    shutil.rmtree(lock(store))
    # The breaker may have claimed the key, so it counts as held, but not by us.
    held = ours.read(KEY)
    assert isinstance(held, Claim)
    for new in (renewed(held), None):
        with pytest.raises(StoreUnavailableError, match="broke the lock while this claim was written"):
            ours.swap(KEY, held, new)
    assert store.read(KEY) == held
    # After its expiry anybody may remove it.
    fs.late = 3_601.0
    assert ours.discard(held)


def test_a_lock_that_cannot_be_made_is_a_clear_error_and_leaves_no_files(store: AgentAwarenessStore) -> None:
    class Full(HookedAgentAwarenessFileSystem):
        def write(self, fd: int, data: bytes) -> int:
            if b"createdAt" in data:
                super().write(fd, data[:9])
                raise OSError(28, os.strerror(28))
            return super().write(fd, data)

    with pytest.raises(StoreUnavailableError, match="No space left"):
        store_in(store.directory, Full()).swap(KEY, None, claim(), lock_timeout=0)
    assert entries(store) == [".lock"]
    grant(store, claim())


def test_a_lock_that_cannot_be_released_does_not_change_the_result(store: AgentAwarenessStore) -> None:
    class Stuck(HookedAgentAwarenessFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "remove_directory":
                raise OSError(5, os.strerror(5))

    assert store_in(store.directory, Stuck()).swap(KEY, None, claim()).won
    assert entries(store) == [".lock", "red-check.json", "red-check.json.lock"]


def test_release_keeps_a_lock_that_somebody_else_made(store: AgentAwarenessStore) -> None:
    fs = HookedAgentAwarenessFileSystem()
    with LockFile(fs, str(record(store).parent)) as file, NamespaceLock(file, 0):
        ours = try_lock(fs, str(lock(store)))
        assert ours is not None and ours.still_held()
        shutil.rmtree(lock(store))
        put_lock(store, pid=os.getppid())
        assert not ours.still_held()
        ours.release()
    assert json.loads((lock(store) / "meta.json").read_text())["pid"] == os.getppid()
    assert entries(store) == [".lock", "red-check.json.lock"]


def test_the_breaker_of_these_tests_claims_a_free_key(store: AgentAwarenessStore) -> None:
    breaker = Breaker(store, dead=False)
    for _ in breaker.steps():
        pass
    assert breaker.claimed
    found = store.read(KEY)
    assert isinstance(found, Claim)
    assert found.holder.name == "rig:4242"


def put_things(store: AgentAwarenessStore, *, age: float) -> None:
    (put_lock(store) / "notes").write_text("x")
    os.utime(lock(store), (0, time.time() - age))


WHAT_BLOCKS: dict[str, tuple[Callable[[AgentAwarenessStore], object], str]] = {
    "one without meta.json": (
        lambda store: put_lock(store, age=4),
        r"is 4 s old and names no owner.*It is removed once it is 10 s old: try again then\.$",
    ),
    "one whose meta.json is half written": (
        lambda store: put_lock(store, '{"pid"', age=2),
        "is 2 s old and names no owner",
    ),
    "one of 40 minutes": (
        lambda store: put_lock(store, age=2_400, pid=os.getppid()),
        rf"is 40 min old, of process {os.getppid()}, which lives, but is probably stopped.*Let process .* If the process is no agent, remove the lock\.$",
    ),
    "one that is in use": (
        lambda store: put_lock(store, age=1, pid=os.getppid()),
        rf"is 1 s old, of process {os.getppid()}, which lives\..*Try again\.$",
    ),
    "a directory that is no lock": (
        lambda store: put_things(store, age=60),
        r"is 60 s old and contains what no lock does \(notes\).*Remove it if no agent works on that key\.$",
    ),
    "a file": (lambda store: lock(store).write_text(""), "is no directory, so no session has made it"),
}


@pytest.mark.rule("A6")
@pytest.mark.parametrize(("put", "says"), WHAT_BLOCKS.values(), ids=WHAT_BLOCKS)
def test_the_error_says_how_old_the_lock_is_whose_it_is_and_when_it_goes(
    store: AgentAwarenessStore, put: Callable[[AgentAwarenessStore], object], says: str
) -> None:
    class Still(HookedAgentAwarenessFileSystem):
        """A wall clock that stands still, so that no age depends on the load of this machine."""

        def __init__(self) -> None:
            self._now = time.time()

        def wall_clock(self) -> float:
            return self._now

    still = store_in(store.directory, Still())
    put(store)
    with pytest.raises(LockDirectoryBusyError, match=says) as busy:
        still.swap(KEY, None, claim(), lock_timeout=0)
    assert "Nothing was changed" in str(busy.value) and "5.0 s" not in str(busy.value)


def test_doctor_shows_a_lock_that_nobody_is_using_just_now(store: AgentAwarenessStore) -> None:
    def doctor() -> list[tuple[Level, str]]:
        found = check_claims_directory(Path(store.directory), store_in(store.directory), local_machine())
        return [(finding.level, finding.what) for finding in found if finding.check == "locks"]

    assert doctor() == []
    put_lock(store, age=1, pid=os.getppid())
    assert doctor() == [], "a session is using it"
    shutil.rmtree(lock(store))
    put_lock(store, age=3)
    ((level, what),) = doctor()
    assert level is Level.OK and "names no owner" in what and "removed once it is 10 s old" in what
    shutil.rmtree(lock(store))
    put_lock(store, age=2_400, pid=os.getppid())
    ((level, what),) = doctor()
    assert level is Level.WARNING and "is 40 min old" in what
    shutil.rmtree(lock(store))
    put_lock(store, age=5, pid=NOBODY)
    ((level, what),) = doctor()
    assert level is Level.OK and "which has ended; The next claim of that key removes it" in what
