"""The secret that signs session handles: made once, for its owner alone, never replaced on our own account."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem


def place(directory: Path) -> Path:
    return directory / ".secrets" / "handles"


@pytest.mark.rule("I5")
def test_of_many_who_ask_first_all_get_the_same_secret(tmp_path: Path) -> None:
    ready = Barrier(8, timeout=20)

    def ask(number: int) -> bytes:
        store = FileStore(tmp_path / "claims")
        ready.wait()
        return store.secret()

    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(ask, range(8)))
    assert len(secrets) == 1
    assert FileStore(tmp_path / "claims").secret() in secrets


@pytest.mark.rule("I5")
def test_who_was_slower_takes_the_secret_of_who_was_faster(tmp_path: Path) -> None:
    faster: list[bytes] = []

    class Overtaken(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            # Between the look without the lock and the lock.
            if call == "make_directory" and not faster:
                faster.append(FileStore(tmp_path / "claims").secret())

    assert FileStore(tmp_path / "claims", fs=Overtaken()).secret() == faster[0]


def test_two_directories_have_secrets_of_their_own(tmp_path: Path) -> None:
    assert FileStore(tmp_path / "a").secret() != FileStore(tmp_path / "b").secret()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are those of POSIX")
def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    FileStore(tmp_path / "claims").secret()
    assert place(tmp_path / "claims").stat().st_mode & 0o777 == 0o600
    assert place(tmp_path / "claims").parent.stat().st_mode & 0o777 == 0o700


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "short": (lambda path: path.write_bytes(b"ab" * 31 + b"\n"), "is damaged"),
    "long": (lambda path: path.write_bytes(b"ab" * 64), "is damaged"),
    "binary": (lambda path: path.write_bytes(bytes(range(200, 256)) + b"xxxxxxx"), "is damaged"),
    "read by others": (lambda path: path.chmod(0o640), "can be read by others"),
}


@pytest.mark.rule("I5")
@pytest.mark.parametrize(("harm", "problem"), HARM.values(), ids=HARM)
def test_a_harmed_secret_is_an_error_with_the_remedy_and_stays_as_it_is(
    tmp_path: Path, harm: Callable[[Path], object], problem: str
) -> None:
    store = FileStore(tmp_path / "claims")
    store.secret()
    harm(place(tmp_path / "claims"))
    before = place(tmp_path / "claims").read_bytes()
    with pytest.raises(StoreUnavailableError, match=problem):
        store.secret()
    assert place(tmp_path / "claims").read_bytes() == before
