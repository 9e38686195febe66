"""The generation counter: no generation of a key is given twice, although nothing is kept per key."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import MAX_GENERATION, Claim, ScopedKey
from mcp_claims.stores.files.lock import LEAP, LockFile, NamespaceLock
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, OTHER_KEY, claim, grant, lock_file, place, renewed


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "claims")


def cycle(store: FileStore, *, boot: str | None = "boot-1", scoped: ScopedKey = KEY) -> int:
    """Claim and release; return the generation."""
    granted = grant(store, claim(scoped, boot=boot))
    assert store.swap(scoped, granted, None, lock_timeout=0).won
    return granted.generation


class Counting(HookedFileSystem):
    """Counts calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def before(self, call: str, where: str | int) -> None:
        self.calls[call] += 1

    def syncs(self) -> int:
        return self.calls["sync"] + self.calls["sync_directory"]


class Disk(HookedFileSystem):
    """Knows what a power cut would leave of the lock file: its content at the last sync."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._durable = b""
        self.failing = False

    def before(self, call: str, where: str | int) -> None:
        if call == "sync":
            if self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._durable = self._lock.read_bytes()

    def cut_power(self) -> None:
        """Undo what was not synced, the claims included."""
        self._lock.write_bytes(self._durable)
        for path in self._lock.parent.glob("*.json"):
            path.unlink()


def disk_and_store(tmp_path: Path) -> tuple[Disk, FileStore]:
    disk = Disk(lock_file(FileStore(tmp_path / "claims")))
    return disk, FileStore(tmp_path / "claims", fs=disk)


@pytest.mark.rule("G1")
def test_a_removed_claim_s_generation_is_remembered(store: FileStore) -> None:
    assert [cycle(store) for _ in range(4)] == [1, 2, 3, 4]
    assert cycle(FileStore(store.directory)) == 5


def test_two_grants_under_one_lock_have_different_numbers(store: FileStore) -> None:
    last = cycle(store)
    with LockFile(HookedFileSystem(), str(lock_file(store).parent)) as file, NamespaceLock(file, 0) as lock:
        assert [lock.next_generation(0, "boot-1") for _ in range(3)] == [last + 1, last + 2, last + 3]
    assert cycle(store) == last + 4


def test_a_discarded_claim_s_generation_is_remembered(store: FileStore) -> None:
    granted = grant(store, claim())
    assert store.discard(granted)
    assert grant(store, claim()).generation > granted.generation


def test_the_highest_generation_is_remembered_whichever_claim_goes_first(store: FileStore) -> None:
    low = grant(store, claim(KEY))
    high = [cycle(store, scoped=OTHER_KEY) for _ in range(5)][-1]
    assert high > low.generation
    assert store.swap(KEY, low, None).won
    assert cycle(store, scoped=OTHER_KEY) > high


def test_a_takeover_gets_a_higher_number_than_any_key_of_the_namespace(store: FileStore) -> None:
    low = grant(store, claim(session=1))
    high = [cycle(store, scoped=OTHER_KEY) for _ in range(5)][-1]
    taken = grant(store, claim(session=2), over=low)
    assert taken.generation > high
    assert grant(store, claim(session=1), over=taken).generation > taken.generation


def test_a_renewal_does_not_change_the_counter(store: FileStore) -> None:
    granted = grant(store, claim())
    before = lock_file(store).read_bytes()
    grant(store, renewed(granted), over=granted)
    assert lock_file(store).read_bytes() == before


def test_a_new_boot_leaps_over_the_numbers_that_the_last_one_may_have_given(store: FileStore) -> None:
    last = [cycle(store, boot="boot-1") for _ in range(3)][-1]
    assert cycle(store, boot="boot-2") == last + LEAP + 1
    assert cycle(store, boot="boot-2") == last + LEAP + 2
    assert cycle(store, boot="boot-3") == last + 2 * LEAP + 3


def test_a_new_boot_leaps_even_if_nothing_was_ever_removed(store: FileStore) -> None:
    granted = grant(store, claim(boot="boot-1"))
    place(store).unlink()  # As a power cut would: claims are not synced.
    assert cycle(store, boot="boot-2") > granted.generation


@pytest.mark.rule("G2")
@pytest.mark.parametrize("claims", [1, 20])
def test_no_generation_is_given_again_after_power_cuts(tmp_path: Path, claims: int) -> None:
    disk, store = disk_and_store(tmp_path)
    seen = []
    for boot in ("boot-1", "boot-2", "boot-3", "boot-4"):
        seen += [cycle(store, boot=boot) for _ in range(claims)]
        seen.append(grant(store, claim(boot=boot)).generation)
        disk.cut_power()
    assert seen == sorted(set(seen))


@pytest.mark.rule("G2")
@pytest.mark.parametrize("failing_boot", ["boot-1", "boot-2"])
def test_a_sync_that_failed_is_repeated(tmp_path: Path, failing_boot: str) -> None:
    disk, store = disk_and_store(tmp_path)
    seen = []
    for boot in ("boot-1", "boot-2", "boot-3"):
        if boot == failing_boot:
            disk.failing = True
            with pytest.raises(StoreUnavailableError):
                store.swap(KEY, None, claim(boot=boot))
            disk.failing = False
        seen += [cycle(store, boot=boot) for _ in range(3)]
        disk.cut_power()
    assert seen == sorted(set(seen))


@pytest.mark.rule("S9")
def test_the_disk_is_synced_once_per_boot_and_namespace_not_per_claim(tmp_path: Path) -> None:
    fs = Counting()
    store = FileStore(tmp_path / "claims", fs=fs)
    cycle(store, boot="boot-1")
    # The counter, the name of its file, and the name of the namespace.
    assert (fs.calls["sync"], fs.calls["sync_directory"]) == (1, 2)
    for _ in range(20):
        cycle(store, boot="boot-1")
        cycle(store, boot="boot-1", scoped=OTHER_KEY)
    assert fs.syncs() == 3
    cycle(store, boot="boot-2")
    cycle(store, boot="boot-2")
    assert fs.syncs() == 6
    cycle(store, boot="boot-2", scoped=ScopedKey("deploy", "red-check"))
    assert fs.syncs() == 9


def test_claims_are_numbered_even_if_the_boot_is_unknown(store: FileStore) -> None:
    assert [cycle(store, boot=None) for _ in range(3)] == [1, 2, 3]


def test_two_boots_that_take_turns_never_give_the_same_number(store: FileStore) -> None:
    # As containers on one directory, each with a boot name of its own.
    seen = [cycle(store, boot=boot) for _ in range(5) for boot in ("boot-1", "boot-2", None)]
    assert seen == sorted(set(seen))


def test_the_generation_of_an_unreadable_claim_is_not_given_again(store: FileStore) -> None:
    granted = grant(store, claim())
    place(store).write_bytes(b"{")
    found = store.read(KEY)
    assert found is not None
    assert store.discard(found)
    assert grant(store, claim()).generation > granted.generation


@pytest.mark.rule("G1")
def test_the_generation_of_a_claim_removed_by_hand_is_not_given_again(store: FileStore) -> None:
    granted = grant(store, claim())
    place(store).unlink()
    assert grant(store, claim()).generation > granted.generation


@pytest.mark.rule("G2")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"garbage", id="garbage"),
        pytest.param(bytes(range(128, 256)), id="binary"),
        pytest.param(b"\0" * 128, id="zeros"),
        pytest.param(b" " * 128, id="blanks"),
        pytest.param(b"-000000000000005 boot-1\n", id="negative"),
        pytest.param(b"1e5 boot-1\n", id="no-integer"),
        pytest.param("٣ boot-1\n".encode(), id="other-digits"),
        pytest.param(b"0000", id="truncated-in-the-number"),
        pytest.param(b"0000000000000000", id="truncated-after-the-number"),
        pytest.param(b"0000000000000000 bo", id="truncated-in-the-boot"),
        pytest.param(b"9999999999999999 boot-1\n", id="more-than-a-generation-can-be"),
        pytest.param(b"9" * 110 + b" boot-1\n", id="more-than-fits"),
    ],
)
def test_no_generation_is_given_again_after_the_counter_was_damaged(store: FileStore, damage: bytes) -> None:
    seen = [cycle(store) for _ in range(7)]
    lock_file(store).write_bytes(damage)
    seen += [cycle(store) for _ in range(2)]
    granted = grant(store, claim())
    assert store.read(KEY) == granted
    seen.append(granted.generation)
    assert seen == sorted(set(seen))
    assert seen[-1] <= MAX_GENERATION - LEAP


@pytest.mark.rule("G2")
def test_a_damaged_counter_continues_above_any_count_of_claims(store: FileStore) -> None:
    lock_file(store).parent.mkdir(mode=0o700, parents=True)
    lock_file(store).write_bytes(b"garbage")
    assert cycle(store) >= time.time_ns() // 1_000 - 60 * 1_000_000


class Crash(BaseException):
    """The end of the process, as far as the store can see."""


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), Crash()], ids=["error", "crash"])
def test_an_end_between_the_writes_of_counter_and_claim_wastes_a_number_at_most(
    store: FileStore, fault: BaseException
) -> None:
    class Ending(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "replace":
                raise fault

    last = cycle(store)
    with pytest.raises((StoreUnavailableError, Crash)):
        FileStore(store.directory, fs=Ending()).swap(KEY, None, claim())
    assert store.read(KEY) is None
    assert cycle(store) == last + 2


@pytest.mark.rule("G1")
def test_the_counter_is_written_before_the_claim(store: FileStore) -> None:
    written = []

    class Watching(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "replace":
                written.append(int(lock_file(store).read_bytes().split()[0]))

    granted = grant(FileStore(store.directory, fs=Watching()), claim())
    assert written == [granted.generation]


def test_a_counter_written_in_pieces_is_whole(store: FileStore) -> None:
    class Piecemeal(HookedFileSystem):
        def write(self, fd: int, data: bytes) -> int:
            return super().write(fd, data[:5])

    pieces = FileStore(store.directory, fs=Piecemeal())
    assert [cycle(pieces) for _ in range(12)] == list(range(1, 13))
    granted = grant(pieces, claim())
    assert isinstance(store.read(KEY), Claim)
    assert store.read(KEY) == granted


@pytest.mark.rule("G2")
@pytest.mark.parametrize("harm", [Path.unlink, lambda lock: lock.write_bytes(b"")], ids=["removed", "emptied"])
def test_no_generation_is_given_again_after_the_counter_was_removed_while_there_are_claims(
    store: FileStore, harm: Callable[[Path], None]
) -> None:
    granted, other = grant(store, claim()), grant(store, claim(OTHER_KEY))
    assert store.swap(OTHER_KEY, other, None, lock_timeout=0).won
    harm(lock_file(store))
    assert grant(store, claim(OTHER_KEY)).generation > max(granted.generation, other.generation)


def test_when_the_generations_are_used_up_nothing_is_granted_and_the_error_says_so(store: FileStore) -> None:
    granted = grant(store, claim())
    forged = granted._replace(generation=MAX_GENERATION)
    place(store).write_bytes(to_json(forged))
    with pytest.raises(StoreUnavailableError, match="the generations are used up"):
        store.swap(KEY, forged, claim(session=2), lock_timeout=0)
    assert store.read(KEY) == forged
    # Without that record the key continues where it was.
    assert store.discard(forged, lock_timeout=0)
    assert grant(store, claim(session=2)).generation == granted.generation + 1
