"""What a board reads of its store, and when: everything that has changed, and little else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_claims import FileStore, open_session
from mcp_claims.board import live
from mcp_claims.board.live import Board, Snapshot
from mcp_claims.board.past import Past, past_of
from mcp_claims.board.site import changes
from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session

TIMEOUT = 60.0


class Watched(FileStore):
    """A store that notes which keys are read, and can stop answering."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.scans, self.fails = 0, False

    def scan(self, *arguments: object, **options: object) -> Iterator[Claim | Unreadable]:
        self.scans += 1
        if self.fails:
            raise StoreUnavailableError(self.directory, OSError(5, "Input/output error"))
        return super().scan(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def watched(claims_dir: Path) -> Watched:
    return Watched(claims_dir)


def board_of(store: FileStore) -> Board:
    machine = local_machine()
    return Board(store, process_session(store, machine), machine, where="", past=past_of(store))


def shown(snapshot: Snapshot) -> dict[str, str]:
    return {str(row["key"]): str(row["state"]) for row in snapshot.rows.values()}


def follow(board: Board, seen: Snapshot | None, expected: dict[str, str]) -> Snapshot:
    """Follow *board* until it shows *expected*."""
    while True:
        snapshot = board.wait(seen, TIMEOUT)
        assert snapshot is not None and snapshot is not seen, f"it shows {seen and shown(seen)}"
        if shown(snapshot) == expected:
            return snapshot
        seen = snapshot


@pytest.mark.rule("B7")
def test_of_many_claims_only_those_are_read_again_that_have_changed_without_a_history_too(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MANY", 1)
    monkeypatch.setattr(live, "_RATIO", 1e9)  # So that nothing is read but for a change.
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_DAYS", "0")
    watched = Watched(claims_dir)
    session, other = open_session(watched), open_session(watched)
    session.try_claim("renewed", ttl_minutes=5)
    session.try_claim("released")
    session.try_claim("shared", shared=True)
    board = board_of(watched)
    first = board.read()
    assert shown(first) == {"renewed": "held", "released": "held", "shared": "held"}
    session.try_claim("renewed", ttl_minutes=60)
    session.release("released")
    other.try_claim("new")
    other.try_claim("shared", shared=True)
    second = board.read()
    assert sorted(str(row["key"]) for row in second.rows.values()) == ["new", "renewed", "shared", "shared"]
    ends = {str(row["key"]): int(row["until"]) for row in second.rows.values()}
    assert ends["renewed"] > max(int(row["until"]) for row in first.rows.values())
    assert watched.scans == 1
    rows = dict(changes(first, second)["rows"])
    assert rows["default\0released"] is None, "what is gone is said"
    assert len(rows) == 4, "what has not changed is not sent again"


@pytest.mark.rule("B7")
def test_what_the_history_names_is_read_at_once_even_in_a_namespace_that_is_new(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MANY", 1)
    session = open_session(watched)
    session.try_claim("red")
    session.try_claim("shared", shared=True)
    board = board_of(watched)
    board.read()
    monkeypatch.setattr(live, "_RATIO", 1e9)
    fingerprint = watched.fingerprint

    def of_what_is_named(scoped: ScopedKey) -> object:
        assert scoped.key != "red", "the others are read later"
        return fingerprint(scoped)

    monkeypatch.setattr(watched, "fingerprint", of_what_is_named)
    session.try_claim("blue", "a new one")
    session.release("shared")
    assert shown(board.read()) == {"red": "held", "blue": "held"}
    assert watched.scans == 1


@pytest.mark.rule("B7")
def test_a_record_that_changes_right_after_it_was_read_is_read_again(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MANY", 1)
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_DAYS", "0")
    watched, session = Watched(claims_dir), open_session(FileStore(claims_dir))
    session.try_claim("red", note="first")
    board = board_of(watched)
    board.read()
    read = watched.read

    def and_then_it_changes(scoped: ScopedKey) -> Found:
        found = read(scoped)
        session.try_claim("red", note="second")  # Before its fingerprint is taken.
        return found

    monkeypatch.setattr(watched, "read", and_then_it_changes)
    assert [row["note"] for row in board.read().rows.values()] == ["first"]
    monkeypatch.setattr(watched, "read", read)
    assert [row["note"] for row in board.read().rows.values()] == ["second"]


@pytest.mark.rule("B7")
def test_a_scan_of_many_claims_stops_for_what_the_history_names(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MANY", 1)
    monkeypatch.setattr(live, "_SLICE", 0.0)
    session = open_session(watched)
    for number in range(20):
        session.try_claim(f"key {number}")
    board = board_of(watched)
    board.read()
    monkeypatch.setattr(live, "_RATIO", 0)  # So that the next scan begins at once.
    expected = {f"key {number}": "held" for number in range(20)}
    for number in (19, 0):  # In front of the scan, and behind it.
        assert shown(board._read_in_time(changed=True)) == expected
        assert board._scan is not None
        session.release(f"key {number}")
        session.try_claim(f"another {number}")
        del expected[f"key {number}"]
        expected[f"another {number}"] = "held"
        assert shown(board._read_in_time(changed=True)) == expected
    while board._scan is not None:
        assert shown(board._read_in_time(changed=False)) == expected


@pytest.mark.rule("B1")
def test_a_claim_whose_process_dies_or_whose_time_is_up_is_shown_so_although_nobody_acts(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(watched)
    session.try_claim("red")
    board = board_of(watched)
    seen = follow(board, None, {"red": "held"})
    monkeypatch.setattr(type(local_machine()), "provably_dead", lambda *_: True)
    follow(board, seen, {"red": "orphaned"})


def test_a_store_that_does_not_answer_is_said_and_what_was_read_stays(watched: Watched) -> None:
    session = open_session(watched)
    session.try_claim("red")
    board = board_of(watched)
    board.read()
    watched.fails = True
    failing = board.read()
    assert shown(failing) == {"red": "held"}
    assert failing.problem is not None and "Input/output error" in failing.problem
    watched.fails = False
    assert board.read().problem is None


def test_a_page_that_comes_later_gets_everything_and_the_others_what_is_new(store: FileStore, session: Session) -> None:
    session.try_claim("red")
    board = board_of(store)
    first = board.read()
    session.release("red", outcome="done")
    second = board.read()
    assert [event["kind"] for event in changes(None, second)["events"]] == ["granted", "released"]
    assert [event["kind"] for event in changes(first, second)["events"]] == ["released"]
    assert "events" not in changes(second, second)


def test_a_store_without_a_history_has_no_past(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_DAYS", "0")
    assert not past_of(FileStore(store.directory)).is_kept
    assert Past(None).read() == ()
