"""Sessions that claim files: what overlaps excludes, waits in order, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import Claim, Mode, Outcome, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import Bench, FileBench, LayoutBench, MemoryBench, granted


@pytest.fixture(params=[MemoryBench, FileBench])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store can hold files."""
    return MemoryBench() if request.param is MemoryBench else FileBench(tmp_path / "claims")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a directory with `src/a.py` and `src/b.py`."""
    directory = (tmp_path / "project").resolve()
    (directory / "src").mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (directory / "src" / name).touch()
    monkeypatch.chdir(directory)
    return directory


def wait(bench: Bench, session: Session, key: str) -> None:
    """Let *session* take a ticket for *key*, and grow older than a stranger may overtake."""
    scoped = session.resolve(ScopedKey("default", key))
    assert session.queue.join(scoped, 300) is not None
    bench.world.pass_time(2)


def attempt(session: Session, key: str, *, reserve: bool = False) -> ClaimResult:
    return session.try_request(session.resolved(ClaimRequest.parse(key)), reserve=reserve)


@pytest.mark.rule("K1")
def test_a_key_is_claimed_and_echoed_as_resolved_in_one_namespace(bench: Bench, project: Path) -> None:
    session = bench.session()
    claim = granted(session, "file:src/", "whatever")
    assert claim.scoped == ScopedKey(PLACES, f"file:{project}/src/")
    again = session.try_claim(f"file:{project}/src/../src/**", PLACES)
    assert again.status is Status.RENEWED and again.found.scoped == claim.scoped  # type: ignore[union-attr]
    assert session.inspect("file:src").held_by_you
    assert session.release("file:src").released


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("file:src", "file:src/a.py"),
        ("file:src/a.py", "file:src"),
        ("file:**/*.py", "file:src/a.py"),
        ("file:.", "file:new"),
    ],
)
def test_whoever_wants_what_overlaps_is_refused_and_told_which_claim_is_in_the_way(
    bench: Bench, held: str, wanted: str
) -> None:
    first, second = bench.session(), bench.session()
    claim = granted(first, held)
    refused = second.try_claim(wanted)
    assert (refused.status, refused.found) == (Status.HELD, claim)
    seen = second.inspect(wanted)
    assert seen.claimed_by_other and seen.found == claim
    assert first.try_claim(wanted).claimed, "its own claim is in nobody's way"
    first.release(wanted)
    first.release(held)
    assert not second.inspect(wanted).claimed_by_other
    assert second.try_claim(wanted).claimed


@pytest.mark.rule("K11")
def test_a_dead_session_is_not_in_the_way(bench: Bench) -> None:
    first, second = bench.session(), bench.session()
    granted(first, "file:src")
    bench.world.kill(first)
    assert second.try_claim("file:src/a.py").claimed


@pytest.mark.rule("K11")
def test_a_session_that_expired_cannot_renew_what_now_overlaps(bench: Bench) -> None:
    first, second = bench.session(), bench.session()
    old = granted(first, "file:src", ttl_minutes=1)
    bench.world.pass_time(61)
    new = granted(second, "file:src/a.py")
    refused = first.try_claim("file:src")
    assert (refused.status, refused.found) == (Status.HELD, new)
    assert first.renew(old, old.expires.wall - old.claimed.wall) is None
    second.release("file:src/a.py")
    assert first.try_claim("file:src").claimed


def test_work_on_a_file_is_never_done_and_the_next_one_is_told_of_it(bench: Bench) -> None:
    first, second = bench.session(), bench.session()
    granted(first, "file:src/a.py")
    first.release("file:src/a.py", outcome="done", note="renamed all")
    assert not second.inspect("file:src/a.py").done
    result = second.try_claim("file:src/a.py")
    assert result.status is Status.ACQUIRED
    assert result.taken_over is not None and isinstance(result.taken_over.found, Claim)
    assert result.taken_over.found.note == "renamed all"
    assert result.taken_over.found.ended is not None and result.taken_over.found.ended.outcome is Outcome.DONE


@pytest.mark.rule("K11", "W2")
def test_whoever_waits_for_a_directory_is_served_before_those_who_come_later_for_its_files(bench: Bench) -> None:
    first, ada, ben = bench.session(), bench.session(), bench.session()
    held = granted(first, "file:src/a.py")
    wait(bench, ada, "file:src")
    refused = attempt(ben, "file:src/b.py")
    assert (refused.status, refused.found) == (Status.HELD, held), "nobody overtakes, though b.py is free"
    assert attempt(first, "file:src/b.py").claimed, "ada waits for this session: to make it wait for ada helps nobody"
    for key in ("file:src/a.py", "file:src/b.py"):
        first.release(key)
    kept = attempt(ben, "file:src/b.py").found
    assert isinstance(kept, Claim) and kept.mode is Mode.RESERVED
    assert kept.scoped == ada.resolve(ScopedKey("default", "file:src")) and kept.holder == ada.holder
    assert attempt(ada, "file:src").status is Status.ACQUIRED
    ada.release("file:src")
    assert attempt(ben, "file:src/b.py").claimed


@pytest.mark.rule("W3")
def test_a_turn_is_not_reserved_where_a_file_that_overlaps_is_held(bench: Bench) -> None:
    first, ada = bench.session(), bench.session()
    held = granted(first, "file:src/a.py")
    wait(bench, ada, "file:src")
    refused = attempt(ada, "file:src", reserve=True)
    assert (refused.status, refused.found) == (Status.HELD, held)
    first.release("file:src/a.py")
    assert attempt(ada, "file:src", reserve=True).status is Status.YOUR_TURN


@pytest.mark.rule("W6")
def test_a_wait_for_each_others_files_is_a_cycle(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    granted(ada, "file:src/a.py")
    granted(ben, "file:src/b.py")
    wait(bench, ada, "file:src")
    wait(bench, ben, "file:src/*.py")
    scoped = ben.resolve(ScopedKey("default", "file:src/*.py"))
    cycle = ben.queue.find_cycle(scoped)
    assert [each.holder for each in cycle] == [ada.holder, ben.holder]
    assert ada.queue.find_cycle(ada.resolve(ScopedKey("default", "file:src"))) == ()


@pytest.mark.rule("K1")
def test_only_files_and_branches_live_in_their_namespace(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="namespace"):
        bench.session().try_claim("nightly", PLACES)


@pytest.mark.rule("K9")
def test_a_session_that_works_elsewhere_names_files_in_full(bench: Bench, project: Path) -> None:
    session = bench.session()
    session.is_here = False
    with pytest.raises(InvalidInputError, match="key"):
        session.try_claim("file:src")
    assert session.try_claim(f"file:{project}/src").claimed


def test_the_layout_of_agent_awareness_has_no_files(tmp_path: Path) -> None:
    session = LayoutBench(tmp_path / "claims").session()
    for key in ("file:src", "branch:main"):
        with pytest.raises(InvalidInputError, match="layout"):
            session.try_claim(key)


@pytest.mark.rule("K10")
def test_a_text_that_looks_like_files_is_seen(bench: Bench, project: Path) -> None:
    session = bench.session()
    for key in ("src", "src/a.py", "src/*.py", str(project)):
        assert session.looks_like_files(ScopedKey("default", key)), key
    for key in ("nightly", "src/none.py", "acme/web#12:red"):
        assert not session.looks_like_files(ScopedKey("default", key)), key
    assert not session.looks_like_files(session.resolve(ScopedKey("default", "file:src/*.py")))
    session.is_here = False
    assert not session.looks_like_files(ScopedKey("default", "src"))
