"""`mcp-claims board` as a process: who may look, who may release, and what is left of it."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model.records import Claim
from mcp_claims.session.session import Session
from tests.cli.commands import Commands, eventually
from tests.support.boards import RunningBoard, answering, ask, first, running_board


def release(board: RunningBoard, message: dict[str, Any], **headers: str | None) -> tuple[int, str]:
    """Ask for the release of the only row of *message*; return the status and the problem."""
    ((row, facts),) = message["rows"]
    body = {"row": row, "session": facts["session"], "generation": facts["generation"], "reason": "it hangs"}
    answer = board.ask("/board/release", "POST", body, **({"origin": f"http://{board.host}"} | headers))
    return answer.status, str(answer.facts.get("problem"))


def shown(board: RunningBoard) -> dict[str, Any]:
    """Return what a page that begins to look gets, once a claim has been read."""
    eventually(lambda: bool(board.ask("/board/stream").facts["rows"]))
    return board.ask("/board/stream").facts


@pytest.mark.rule("B4")
def test_the_page_needs_no_token_and_has_nothing_in_it_and_everything_else_needs_one(
    board: RunningBoard, session: Session
) -> None:
    session.try_claim("red-check")
    page = ask(board.url, "/")
    assert page.status == 200 and "red-check" not in page.text and board.token not in page.text
    for header in (None, "Bearer", "Bearer ", "Bearer wrong", f"Basic {board.token}", f"Bearer {board.token}x"):
        refused = ask(board.url, "/board/stream", authorization=header)
        assert (refused.status, "red-check" in refused.text) == (401, False)
    message = shown(board)
    assert message["rows"][0][1]["key"] == "red-check"
    assert release(board, message, authorization=None)[0] == 401
    assert session.inspect("red-check").held_by_you


@pytest.mark.rule("B4")
def test_a_website_reaches_it_neither_by_a_name_of_its_own_nor_by_a_request_from_its_page(
    board: RunningBoard, session: Session
) -> None:
    session.try_claim("red-check")
    message = shown(board)
    port = board.host.rpartition(":")[2]
    for name in (f"attacker.example:{port}", "127.0.0.1:1", "127.0.0.1", ""):
        assert board.ask("/board/stream", host=name).status == 403
        assert ask(board.url, "/", host=name).status == 403
        assert release(board, message, host=name, origin=f"http://{name}")[0] == 403
    assert board.ask("/board/stream", host=f"LOCALHOST:{port}").facts["rows"]
    assert board.ask("/board/stream", **{"sec-fetch-site": "cross-site"}).status == 403
    for origin in (None, "null", "https://attacker.example", f"http://localhost:{port}", f"http://127.0.0.1.x:{port}"):
        assert release(board, message, origin=origin)[0] == 403
    assert release(board, message, **{"sec-fetch-site": "same-site"})[0] == 403
    assert session.inspect("red-check").held_by_you
    allowed = board.ask("/board/stream", "OPTIONS", origin="https://attacker.example")
    assert allowed.status == 501 or "access-control-allow-origin" not in allowed.headers
    assert release(board, message) == (200, "None")
    assert not session.inspect("red-check").held_by_you


@pytest.mark.rule("B6")
def test_only_the_grant_that_the_person_saw_is_released(board: RunningBoard, session: Session) -> None:
    session.try_claim("red-check")
    message = shown(board)
    session.release("red-check")
    again = session.try_claim("red-check").found
    assert isinstance(again, Claim)
    eventually(lambda: [row["generation"] for _, row in shown(board)["rows"]] == [again.generation])
    assert release(board, message)[0] == 409
    assert session.inspect("red-check").held_by_you
    wrong: list[object] = [None, [], "x", {}, {"row": 1}, {"row": "default\0other"}]
    for body in wrong:
        answer = board.ask("/board/release", "POST", body, origin=f"http://{board.host}")
        assert answer.status in (400, 409)
    assert session.inspect("red-check").held_by_you


@pytest.mark.rule("B4")
def test_the_browser_runs_the_script_of_the_page_alone_and_asks_no_other_server(board: RunningBoard) -> None:
    policy = dict(part.split(" ", 1) for part in ask(board.url, "/").headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["script-src"])
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    headers = board.ask("/board/stream").headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.rule("B11")
def test_the_token_is_in_no_command_line_and_what_leads_to_it_is_the_persons_alone_and_goes(
    claims_dir: Path, tmp_path: Path
) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}.part && mv {seen}.part {seen}\n')
    browser.chmod(0o755)
    env = {"BROWSER": f"{browser} %s", "TMPDIR": str(tmp_path)}
    with running_board(claims_dir, "--port", "0", env=env) as board:
        eventually(seen.exists)
        address = seen.read_text().strip()
        assert address.startswith("file://") and board.token not in address
        file = Path(address.removeprefix("file://"))
        assert board.url in file.read_text()
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        board.process.send_signal(signal.SIGINT)
        assert board.process.wait(60) == 0
        assert not file.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_though_somebody_looks(
    board: RunningBoard, session: Session, number: signal.Signals
) -> None:
    session.try_claim("red-check")
    with answering(board.url, "/board/stream", authorization=f"Bearer {board.token}") as stream:
        assert "red-check" in first(stream)
        board.process.send_signal(number)
        assert board.process.wait(60) == 0
    assert session.inspect("red-check").held_by_you


def test_a_port_that_is_taken_or_wrong_is_said(board: RunningBoard, claims_dir: Path) -> None:
    commands = Commands(claims_dir)
    taken = commands("board", "--no-open", "--port", board.host.rpartition(":")[2])
    assert taken.returncode == 2 and "--port" in taken.stderr and "cannot be listened on" in taken.stderr
    assert commands("board", "--port", "70000").returncode == 2


def test_no_browser_is_opened_that_would_take_the_terminal(claims_dir: Path) -> None:
    without = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), "")
    with running_board(claims_dir, "--port", "0", env=os.environ | without) as board:
        assert ask(board.url, "/").status == 200


def test_it_makes_nothing_where_nothing_is_claimed(board: RunningBoard, claims_dir: Path) -> None:
    assert board.ask("/board/stream").facts["rows"] == []
    assert not claims_dir.exists()
