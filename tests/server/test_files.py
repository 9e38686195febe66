"""Files and branches over real servers: what a model passes, and what it is told."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from mcp_claims.model.validation import ClaimRequest
from mcp_claims.server.arguments import RELEASE, plain_arguments
from mcp_claims.server.registry import Caller, SessionRegistry
from mcp_claims.server.tools import Call, Runner, call_tool
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ReleaseResult
from mcp_claims.session.session import Session
from mcp_claims.stores.memory import MemoryStore
from tests.support.http_servers import RawHttp, http_server
from tests.support.machines import World
from tests.support.servers import BOTH_STAGES, raw_server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which servers are started: a repository with `src/a.py`."""
    directory = (tmp_path / "project").resolve()
    (directory / "src").mkdir(parents=True)
    (directory / "src" / "a.py").touch()
    subprocess.run(["git", "init", "-q", str(directory)], check=True)
    monkeypatch.chdir(directory)
    return directory


@BOTH_STAGES
@pytest.mark.rule("K1", "K11")
def test_two_sessions_of_one_project_exclude_each_other_where_files_overlap(
    claims_dir: Path, project: Path, options: list[str]
) -> None:
    with raw_server(claims_dir, *options) as ada, raw_server(claims_dir, *options) as ben:
        held = ada.call("try_claim", key="file:src", namespace="mine")
        assert (held["claimed"], held["key"], held["namespace"]) == (True, f"file:{project}/src/", "places")
        refused = ben.call("try_claim", key="file:src/a.py")
        assert (refused["status"], refused["holder"]) == ("held", held["holder"])
        assert f'"file:{project}/src/", which overlaps' in refused["advice"]
        seen = ben.call("is_claimed_by_other", key="file:**/*.py", generation=1)
        assert seen["claimed_by_other"] and not seen["in_force"]
        assert ada.call("release", key="file:src/", outcome="done", note="renamed")["released"]
        granted = ben.call("try_claim", key="file:src")
        assert granted["claimed"] and granted["previous"]["note"] == "renamed", "a directory is never done"
        ben.call("release", key="file:src")
        assert ben.call("try_claim", key="branch:main")["key"] == f"branch:{project}/.git:main"
        assert not ada.call("try_claim", key="branch:refs/heads/main")["claimed"]


@BOTH_STAGES
@pytest.mark.rule("K10")
def test_a_text_that_looks_like_files_is_granted_with_a_hint(
    claims_dir: Path, project: Path, options: list[str]
) -> None:
    with raw_server(claims_dir, *options) as server:
        for key in ("src", "src/*.py"):
            answer = server.call("try_claim", key=key)
            assert answer["claimed"] and "claim file:PATH" in answer["advice"]
        assert "file:PATH" not in server.call("try_claim", key="nightly")["advice"]
        for name in ("also", "or_else"):
            answer = server.call("try_claim", key=f"first, {name}", **{name: [f"{name}/*.py"]})
            assert answer["claimed"] and f'"{name}/*.py" is a text like any other' in answer["advice"]


@pytest.mark.rule("K11")
@pytest.mark.parametrize(
    ("claim", "scans"),
    [
        (ClaimRequest.parse("red", also=["branch:main"]), 1),
        (ClaimRequest.parse("red", or_else=["branch:main"]), 1),
        (ClaimRequest.parse("red", also=["blue"]), 0),
    ],
)
def test_git_is_asked_off_the_event_loop_for_each_key_of_a_call(project: Path, claim: ClaimRequest, scans: int) -> None:
    runner = Direct()
    session = World().session(MemoryStore())
    call = Call(cast("SessionRegistry", None), cast("Caller", None), {}, cast("Runner", runner))
    resolved = asyncio.run(call.resolved(session, claim))
    assert runner.scans == scans
    assert (f"branch:{project}/.git:main" in [key.key for key in resolved.keys]) == bool(scans)


class Direct:
    """A runner that runs everything at once, and counts what belongs off the event loop."""

    def __init__(self) -> None:
        self.scans = 0

    async def scan(self, session: Session, scan: Callable[[], ClaimRequest]) -> ClaimRequest:
        self.scans += 1
        return scan()

    async def change(self, session: Session, change: Callable[[float], ReleaseResult]) -> ReleaseResult:
        return change(0)


@pytest.mark.rule("C15")
def test_the_release_of_a_group_ends_the_renewals_of_each_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    world, store = World(), MemoryStore()
    machine = world.process()
    registry = SessionRegistry(store, own=process_session(store, machine), machine=machine)
    entry = registry.session_for(Caller(), None)
    session, request = entry.session, ClaimRequest.parse("red", also=["green"])
    result = session.try_request(request)
    assert registry.keep_alive(entry, result, request.ttl)
    freed = session.release("green")._replace(keys=request.keys)
    monkeypatch.setattr(session, "release_request", lambda _, lock_timeout: freed)
    arguments = plain_arguments(RELEASE, {"key": "green"})
    assert arguments is not None
    answer = asyncio.run(call_tool("release", Call(registry, Caller(), arguments, cast("Runner", Direct()))))
    assert answer.text.startswith('RELEASED: all of "red", "green".')
    assert entry.keep_alive.get(request.scoped) is None, "it would take a later claim on the key for a loss"


@pytest.mark.rule("K9")
def test_over_http_a_file_is_named_in_full(claims_dir: Path, project: Path) -> None:
    with http_server(claims_dir) as server:
        client = RawHttp(server.url, modern=False)
        assert client.call("try_claim", key=f"file:{project}/src")["claimed"]
        with closing(client.send("try_claim", {"key": "file:src"})) as connection:
            assert b"must have an absolute path" in connection.getresponse().read()


@BOTH_STAGES
@pytest.mark.rule("C16")
def test_a_list_of_work_is_shared_out(claims_dir: Path, project: Path, options: list[str]) -> None:
    with raw_server(claims_dir, *options) as ada, raw_server(claims_dir, *options) as ben:
        work = {"key": "issue-1", "or_else": ["issue-2", "issue-3"]}
        first, second = ada.call("try_claim", **work), ben.call("try_claim", **work)
        assert (first["key"], second["key"]) == ("issue-1", "issue-2")
        assert "2 more of the list are free" in first["advice"] and "1 more of the list is free" in second["advice"]
        again = ada.call("try_claim", **work)
        assert (again["status"], again["key"]) == ("renewed", "issue-1")
        assert "a call gets another one only after its release" in again["advice"]
        for server, key in ((ada, "issue-1"), (ben, "issue-2")):
            assert server.call("release", key=key, outcome="done")["released"]
        assert ada.call("try_claim", **work)["key"] == "issue-3"
        refused = ben.call("try_claim", **work)
        assert (refused["status"], refused["key"]) == ("held", "issue-3")
        ada.call("release", key="issue-3", outcome="done")
        done = ben.call("try_claim", **work)
        assert done["status"] == "done" and "All of the list is done" in done["advice"]


@BOTH_STAGES
@pytest.mark.rule("C15")
def test_several_keys_are_claimed_together_or_not_at_all(claims_dir: Path, project: Path, options: list[str]) -> None:
    with raw_server(claims_dir, *options) as ada, raw_server(claims_dir, *options) as ben:
        ada.call("try_claim", key="branch:main")
        ada.call("try_claim", key="nightly")
        refused = ben.call("try_claim", key="file:src/", also=["branch:main", "nightly"])
        assert (refused["status"], refused["key"]) == ("held", f"file:{project}/src/")
        for key in (f"branch:{project}/.git:main", "nightly"):
            assert f'"{key}" by {refused["holder"]}' in refused["advice"]
        assert not ada.call("is_claimed_by_other", key="file:src/")["claimed_by_other"]
        ada.call("release", key="nightly")
        ada.call("release", key="branch:main")
        # Some hosts write a list as text.
        granted = ben.call("try_claim", key="file:src/", also='["branch:main", "nightly"]')
        assert granted["claimed"]
        assert ada.call("is_claimed_by_other", key="nightly")["holder"] == granted["holder"]
        assert ben.call("release", key="nightly")["released"]
        assert ada.call("try_claim", key="branch:main", also=[])["claimed"]
