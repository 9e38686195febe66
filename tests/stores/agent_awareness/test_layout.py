"""Paths and records in the original's directory, and files there that are not ours."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError, UnsafeDirectoryError
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim, Holder, OriginalHolder, ScopedKey, Unreadable
from mcp_claims.stores.agent_awareness.filenames import is_record_name, record_name
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.files.store import FileStore
from tests.stores.agent_awareness.samples import record, store_in
from tests.stores.samples import KEY, claim, grant
from tests.stores.samples import place as own_place

THEIRS = {
    "holder": "rig:4242",
    "pid": 4242,
    "claimedAt": "2026-11-23T12:00:00.000Z",
    "expiresAt": "2026-11-23T12:30:00.000Z",
}


@pytest.fixture
def store(tmp_path: Path) -> AgentAwarenessStore:
    return store_in(tmp_path / "claims")


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def write_original(path: Path, **changed: object) -> None:
    """Write a record as the original does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(THEIRS | changed, indent=2) + "\n")


@pytest.mark.rule("A2")
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("red-check", "red-check"),
        ("vercel/next.js#4521:checks_failed", "vercel_next.js_4521_checks_failed"),
        ("a\\b", "a_b"),
        ("..", ".."),
        ("Ünïcode 👀 %2f ~ .json", "Ünïcode 👀 %2f ~ .json"),
    ],
)
def test_a_key_has_the_file_name_that_the_original_gives_it(key: str, name: str) -> None:
    assert record_name(key) == name
    assert is_record_name(name)


def test_a_key_too_long_for_the_original_gets_a_hashed_name(store: AgentAwarenessStore) -> None:
    longest = "k" * (255 - len(".json.lock"))
    assert record_name(longest) == longest
    alike = [longest + "k", longest + "l", "👀" * 200]
    names = [record_name(key) for key in alike]
    assert len(set(names)) == 3
    assert all(len(name.encode()) + len(".json.lock") <= 255 for name in names)
    for key in alike:
        grant(store, claim(ScopedKey("ci", key)))
    assert len(list(store.scan())) == 3


@pytest.mark.parametrize(
    ("namespace", "directory"), [("ci", "ci"), ("My Plugin", "My Plugin"), ("@scope/plugin", "@scope/plugin")]
)
def test_a_namespace_is_the_directory_of_the_plugin_by_its_name(
    store: AgentAwarenessStore, namespace: str, directory: str
) -> None:
    granted = grant(store, claim(ScopedKey(namespace, "red")))
    assert Path(store.directory, directory, "red.json").is_file()
    assert list(store.scan()) == list(store.scan(namespace)) == [granted]


@pytest.mark.rule("A2")
@pytest.mark.parametrize(
    "namespace",
    ["..", ".", "a/../b", "a//b", "/etc", "a/", "red.json", "red.json.lock", "a/red.json.lock/b", ".lock", ".new"],
)
def test_a_namespace_that_cannot_be_a_plugin_directory_is_refused(store: AgentAwarenessStore, namespace: str) -> None:
    for use in (
        lambda: store.read(ScopedKey(namespace, "red")),
        lambda: store.swap(ScopedKey(namespace, "red"), None, claim(ScopedKey(namespace, "red"))),
        lambda: list(store.scan(namespace)),
    ):
        with pytest.raises(InvalidInputError, match="namespace must be the name of a plugin's directory"):
            use()
    assert not Path(store.directory).exists()


def test_the_original_can_read_what_we_write(store: AgentAwarenessStore) -> None:
    granted = grant(store, claim())
    fields = json.loads(record(store).read_bytes())
    assert list(fields)[:4] == list(THEIRS)
    # The original compares the beginning with `hostname:` and checks the PID.
    assert fields["holder"].startswith("rig:") and fields["pid"] == granted.holder.pid
    assert fields["expiresAt"] == "2026-11-23T12:30:00.123Z"


def test_a_record_of_the_original_is_a_claim_of_an_original_holder(store: AgentAwarenessStore) -> None:
    write_original(record(store))
    found = store.read(KEY)
    assert isinstance(found, Claim)
    assert found.holder == OriginalHolder("rig:4242", 4242)
    assert found.holder != Holder("rig:4242", 4242)
    assert (found.scoped, found.generation, found.expires.epoch) == (KEY, 0, None)


@pytest.mark.parametrize(
    "changed",
    [{"pid": "1"}, {"pid": 0}, {"pid": None}, {"holder": ""}, {"expiresAt": "soon"}, {"expiresAt": "2026-11-23T12:30"}],
)
def test_a_record_of_the_original_with_a_bad_field_is_unreadable(
    store: AgentAwarenessStore, changed: dict[str, object]
) -> None:
    write_original(record(store), **changed)
    assert isinstance(store.read(KEY), Unreadable)


@pytest.mark.parametrize("field", ["key", "namespace", "generation"])
def test_our_record_with_a_missing_field_is_unreadable_and_not_an_original_one(
    store: AgentAwarenessStore, field: str
) -> None:
    grant(store, claim())
    fields = json.loads(record(store).read_bytes())
    del fields[field]
    record(store).write_text(json.dumps(fields))
    assert isinstance(store.read(KEY), Unreadable)


@pytest.mark.rule("A4")
def test_the_file_store_never_reads_a_record_of_the_original_as_a_claim(tmp_path: Path) -> None:
    files = FileStore(tmp_path / "claims")
    grant(files, claim())
    write_original(own_place(files))
    assert isinstance(files.read(KEY), Unreadable)


def test_a_record_at_the_path_of_another_key_is_unreadable(store: AgentAwarenessStore) -> None:
    granted = grant(store, claim())
    for elsewhere in (ScopedKey("ci", "review"), ScopedKey("..", "x"), ScopedKey("deploy", "red-check")):
        record(store).write_bytes(to_json(granted._replace(scoped=elsewhere)))
        assert isinstance(store.read(KEY), Unreadable)
        assert isinstance(next(store.scan()), Unreadable)


@pytest.mark.rule("A12")
def test_our_generations_grow_across_claims_of_the_original(store: AgentAwarenessStore) -> None:
    seen = []
    for _ in range(3):
        granted = grant(store, claim())
        seen.append(granted.generation)
        # The original takes the key over, or prunes it, and its records have no generation.
        write_original(record(store))
        found = store.read(KEY)
        assert isinstance(found, Claim)
        seen.append(grant(store, claim(session=2), over=found).generation)
        record(store).unlink()
    assert seen == sorted(set(seen))


def test_a_scan_shows_the_claims_of_both(store: AgentAwarenessStore) -> None:
    granted = grant(store, claim(ScopedKey("ci", "a/b")))
    write_original(Path(store.directory, "other-plugin", "red_check.json"))
    theirs = store.read(ScopedKey("other-plugin", "red/check"))
    ours, found = store.scan()
    assert ours == granted
    # A scan sees only the file name, so the key is `red_check`; the claim is the same.
    assert isinstance(theirs, Claim) and found == theirs._replace(scoped=ScopedKey("other-plugin", "red_check"))
    assert store.discard(found)
    assert list(store.scan()) == [granted]


@pytest.mark.rule("A13")
@pytest.mark.skipif(sys.platform != "linux", reason="not every system allows such names")
def test_other_files_are_neither_listed_nor_changed(store: AgentAwarenessStore) -> None:
    granted = grant(store, claim())
    plugin = record(store).parent
    things = [
        plugin / "notes.txt",
        plugin / "a:b.json",
        plugin / "\udcff.json",
        plugin / ".json",
        plugin / "folder" / "package.json",
        Path(store.directory, "state.json"),
        Path(store.directory, "README"),
    ]
    for thing in things:
        thing.parent.mkdir(exist_ok=True)
        thing.write_text("mine")
    plugin.joinpath("elsewhere").symlink_to("/")
    assert list(store.scan()) == [granted]
    assert store.swap(KEY, granted, None).won
    assert all(thing.read_text() == "mine" for thing in things)


@pytest.mark.rule("A2")
def test_a_very_deep_directory_tree_hides_no_claim(store: AgentAwarenessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = ScopedKey("/".join("d" * 500), "red-check")
    granted = [grant(store, claim()), grant(store, claim()._replace(scoped=deep))]
    monkeypatch.chdir(store.directory)
    for _ in range(1_200):
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(store.directory)
    assert sorted(store.scan(), key=str) == sorted(granted, key=str)
    # pytest removes temporary directories recursively and would exceed the recursion limit.
    subprocess.run(["rm", "-rf", "deep", "d"], check=True)


@pytest.mark.rule("A13")
def test_the_original_ignores_our_own_files(store: AgentAwarenessStore) -> None:
    assert store.swap(KEY, grant(store, claim()), None).won
    names = [path.name for path in record(store).parent.iterdir()]
    assert names == [".lock"]
    assert not any(name.endswith((".json", ".json.lock")) for name in names)


@pytest.mark.usefixtures("umask")
def test_directories_are_private_whatever_the_umask(store: AgentAwarenessStore) -> None:
    grant(store, claim(ScopedKey("@scope/plugin", "red")))
    for path in (store.directory, f"{store.directory}/@scope", f"{store.directory}/@scope/plugin"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


@pytest.mark.rule("A1")
def test_a_plugin_directory_that_others_can_write_is_refused_with_the_remedy(store: AgentAwarenessStore) -> None:
    grant(store, claim())
    record(store).parent.chmod(0o775)
    with pytest.raises(UnsafeDirectoryError, match="chmod 700"):
        store_in(store.directory).swap(KEY, None, claim())
    record(store).parent.chmod(0o755)
    assert store_in(store.directory).read(KEY) is not None


@pytest.mark.rule("A1")
def test_a_scope_that_others_can_write_is_refused_as_well(store: AgentAwarenessStore) -> None:
    scoped = ScopedKey("@scope/plugin", "red")
    grant(store, claim(scoped))
    (scope := Path(store.directory, "@scope")).chmod(0o775)
    with pytest.raises(UnsafeDirectoryError) as refused:
        store_in(store.directory).read(scoped)
    assert refused.value.where == str(scope)


@pytest.mark.rule("A1")
def test_a_plugin_directory_that_others_can_write_does_not_hide_the_others(store: AgentAwarenessStore) -> None:
    for namespace in ("a", "b", "c"):
        grant(store, claim(ScopedKey(namespace, "red")))
    (Path(store.directory) / "b").chmod(0o775)
    one, unsafe, other = (found := list(store_in(Path(store.directory)).scan()))
    assert isinstance(unsafe, Unreadable) and unsafe.where == f"{store.directory}/b"
    assert "can be written by others" in unsafe.problem
    assert unsafe.remedy == f"Make it yours alone (`chmod 700 {store.directory}/b`)."
    assert isinstance(one, Claim) and isinstance(other, Claim)
    assert [one.scoped.namespace, other.scoped.namespace] == ["a", "c"]
    # Pages of a listing depend on the order of positions.
    assert [store.position(each) for each in found] == sorted(store.position(each) for each in found)
    with pytest.raises(UnsafeDirectoryError):
        list(store_in(Path(store.directory)).scan("b"))


@pytest.mark.rule("A11")
def test_only_our_records_carry_the_age_of_their_file(
    store: AgentAwarenessStore,
) -> None:
    # The original accepts any TTL, so a far expiry in its record is no damage.
    grant(store, claim())
    ours = store.read(KEY)
    assert isinstance(ours, Claim)
    assert ours.stored == record(store).stat().st_ctime
    write_original(record(store))
    theirs = store.read(KEY)
    assert isinstance(theirs, Claim)
    assert theirs.stored is None


@pytest.mark.rule("A4")
def test_a_claim_of_the_original_past_the_year_9999_is_a_claim(store: AgentAwarenessStore) -> None:
    # `tryClaim(key, 1e10)` writes this.  As an unreadable record it would be free after a day, while its holder lives.
    write_original(record(store), expiresAt="+021039-12-15T02:40:00.000Z")
    found = store.read(KEY)
    assert isinstance(found, Claim) and isinstance(found.holder, OriginalHolder)
    assert found.expires.wall.year == 9999
