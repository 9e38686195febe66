"""What happens to a change whose lock is no longer what it was: its directory replaced, its process forked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.lock import namespace_lock
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, fresh, grant, renewed

ROOT = Path(__file__).parents[3]


@pytest.mark.rule("S2")
@pytest.mark.parametrize("renewal", [False, True], ids=["claim", "renewal"])
def test_what_is_written_while_somebody_replaces_the_directory_does_not_reach_the_new_one(
    tmp_path: Path, renewal: bool
) -> None:
    store = FileStore(tmp_path / "claims")
    granted = grant(store, claim())
    if not renewal:
        assert store.swap(KEY, granted, None).won
    successors: list[Claim] = []

    class Replaced(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            # Inside, after the comparison: the new record is about to be written.
            if call == "open" and where == str(fresh(store)) and not successors:
                shutil.rmtree(store.directory)
                successors.append(grant(FileStore(store.directory), claim(session=2)))

    slow = FileStore(store.directory, fs=Replaced())
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        slow.swap(KEY, granted if renewal else None, renewed(granted) if renewal else claim(), lock_timeout=0)
    assert [store.read(KEY)] == successors


@pytest.mark.rule("S2")
def test_what_is_released_while_somebody_replaces_the_directory_stays_in_the_new_one(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    granted = grant(store, claim())
    successors: list[Claim] = []

    class Replaced(HookedFileSystem):
        inside = False

        def before(self, call: str, where: str | int) -> None:
            self.inside = self.inside or call == "try_lock"
            # The record has just been read for the comparison.
            if call == "close" and self.inside and not successors:
                shutil.rmtree(store.directory)
                successors.append(grant(FileStore(store.directory), claim(session=2)))

    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        FileStore(store.directory, fs=Replaced()).swap(KEY, granted, None, lock_timeout=0)
    assert [store.read(KEY)] == successors


@pytest.mark.rule("P5")
def test_a_child_forked_inside_does_not_keep_the_lock_when_its_parent_is_killed(tmp_path: Path) -> None:
    directory = str(tmp_path / "claims" / "ci")
    # A process of its own forks while it is inside; the child says so and lives on.
    program = (
        "import os, signal, sys\n"
        "from mcp_claims.stores.files.filesystem import FileSystem\n"
        "from mcp_claims.stores.files.lock import namespace_lock\n"
        f"with namespace_lock(FileSystem(), {directory!r}, 0):\n"
        "    if not os.fork():\n"
        "        print(os.getpid(), flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            parent.wait()
            with namespace_lock(FileSystem(), directory, 5):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
