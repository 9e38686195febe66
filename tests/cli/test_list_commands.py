"""`mcp-claims list` and `show`: as a table, as JSON, and followed as it changes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.cli.holders import branch_in
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim, Outcome
from mcp_claims.model.text import one_line
from mcp_claims.render.lists import decode_cursor, encode_cursor
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, TIMEOUT, Commands, at_terminal
from tests.session.bench import granted
from tests.support.servers import raw_server

COLUMNS = ["NAMESPACE", "KEY", "STATE", "SINCE", "AGE", "LEFT", "GEN", "HOLDER", "PID", "WHERE", "NOTE"]


def test_a_table_has_a_line_for_each_claim_with_its_state(commands: Commands, claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    session.try_claim("red", "ci", note="[bold]on it[/bold]\n|")
    session.try_claim("old", "ci")
    session.release("old", "ci", outcome=Outcome.DONE)
    session.try_claim("blue")
    (claims_dir / "default" / "blue.json").write_text("{")
    header, *lines = commands("list").stdout.splitlines()
    assert header.split() == COLUMNS
    assert [line.split()[:3] for line in lines[:2]] == [["ci", "old", "done"], ["ci", "red", "held"]]
    assert "[bold]on it[/bold] |" in lines[1], "other people's words are never markup"
    assert "blue.json" in lines[2] and " held " in lines[2] and "cannot be read" in lines[2]
    assert [line.split()[1] for line in commands("list", "-n", "ci").stdout.splitlines()[1:]] == ["old", "red"]


def test_nothing_claimed_is_an_empty_table_and_an_empty_list(commands: Commands) -> None:
    assert "Nothing is claimed." in commands("list").stdout
    assert commands.json("list") == {"claims": []}
    assert not commands.directory.exists()


def test_json_has_the_keys_as_they_are(commands: Commands) -> None:
    key = "vercel/next.js#4521:checks_failed 👀"
    commands("try", key, "--session", "ci")
    commands("try", "other", "--session", "cd")
    assert [each["key"] for each in commands.json("list")["claims"]] == ["other", key]
    assert [each["key"] for each in commands.json("list", "--mine", "--session", "ci")["claims"]] == [key]
    assert commands.json("show", key)["key"] == key


def test_show_of_what_nobody_holds_says_so(commands: Commands) -> None:
    assert commands("show", "red").returncode == 1
    assert commands.json("show", "red") == {"key": "red", "namespace": "default", "state": "free"}


@pytest.mark.rule("L7")
def test_what_the_limit_leaves_out_is_said_and_the_cursor_leads_to_it(commands: Commands, claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    for number in range(1_005):
        session.try_claim(f"event {number:04}", "ci" if number % 2 else "a/b")
    assert "There are more than 1,000: --all lists all of them" in commands("list").stdout
    everything = commands.json("list", "--all")
    assert "cursor" not in everything and len(everything["claims"]) == 1_005
    assert len(commands("list", "--all").stdout.splitlines()) == 1_006
    seen: list[str] = []
    page: dict[str, Any] = {}
    while "cursor" in page or not seen:
        page = commands.json("list", "--limit", 400, *(["--cursor", page["cursor"]] if page else []))
        seen += [each["key"] for each in page["claims"]]
    assert seen == [each["key"] for each in everything["claims"]]


def test_no_cursor_looks_like_an_option() -> None:
    positions = [f"\1{number}.5\0a/b\0event {number}.json" for number in range(1_000)]
    cursors = [encode_cursor(each) for each in [*positions, "default\0\0\0x", ""]]
    assert not [each for each in cursors if each.startswith("-")]
    assert [decode_cursor(each) for each in cursors[:1_000]] == positions


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--limit", "0"], "--limit must be a number from 1 up"),
        (["--cursor", "zzz"], "--cursor must be exactly what `list --json` printed"),
        (["--cursor", "x", "--watch"], "--cursor is for a list without --watch"),
    ],
)
def test_a_wrong_page_is_refused(commands: Commands, options: list[str], rule: str) -> None:
    done = commands("list", *options)
    assert (done.returncode, done.stdout) == (2, "") and rule in done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory in a worktree of a repository with a branch, at a home."""
    git, worktree = tmp_path / "repository" / ".git" / "worktrees" / "web", tmp_path / "home" / "web"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/fix/red\n")
    (worktree / "src").mkdir(parents=True)
    (worktree / ".git").write_text(f"gitdir: {git}\n")
    return worktree / "src"


@pytest.mark.rule("L8")
def test_two_sessions_of_one_client_are_told_apart_by_label_directory_branch_and_pid(
    commands: Commands, repository: Path, tmp_path: Path
) -> None:
    commands.environment |= {"HOME": str(tmp_path / "home"), "PWD": ""}
    with sleeping() as one, sleeping() as two:
        for pid, directory, label in ((one, repository, ["--label", "front\nend"]), (two, tmp_path, [])):
            command = [*COMMAND, "try", f"key of {pid}", "--for-pid", str(pid), *label]
            subprocess.run(command, env=commands.environment, cwd=directory, check=True, capture_output=True)
        by_pid = {each["pid"]: each for each in commands.json("list", "--for-pid", one)["claims"]}
        assert {name: by_pid[one][name] for name in ("yours", "label", "directory", "branch")} == {
            "yours": True,
            "label": "front end",
            "directory": "~/web/src",
            "branch": "fix/red",
        }
        assert by_pid[two]["directory"] == str(tmp_path) and by_pid[two]["yours"] is False
        assert not {"label", "branch"} & set(by_pid[two])
        lines = {line.split()[3]: line for line in commands("list", "--for-pid", one).stdout.splitlines()[1:]}
        assert (
            "yours" in lines[str(one)] and "front end" in lines[str(one)] and "~/web/src (fix/red)" in lines[str(one)]
        )
        assert "held" in lines[str(two)] and f" {two} " in lines[str(two)]
        # What others are told is sufficient too.
        refused = commands("try", f"key of {one}", "--session", "ci")
        assert '("front end, in ~/web/src")' in refused.stdout
        # The branch is the one that is checked out now, not the one of the claim.
        (tmp_path / "repository" / ".git" / "worktrees" / "web" / "HEAD").write_text("3f2a91c0\n")
        assert "branch" not in commands.json("show", f"key of {one}")
        assert commands.json("show", f"key of {one}", "--for-pid", one)["yours"] is True


@contextmanager
def sleeping() -> Iterator[int]:
    """Run a process that does nothing; yields its PID."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_label_comes_from_the_environment_too_and_is_bounded(commands: Commands) -> None:
    commands.environment["MCP_CLAIMS_LABEL"] = "blue terminal"
    commands("try", "red", "--session", "ci")
    assert commands.json("show", "red")["label"] == "blue terminal"
    commands("try", "red", "--session", "ci", "--label", "the other")
    assert commands.json("show", "red")["label"] == "the other"
    for command in (["try", "blue", "--session", "ci"], ["run", "blue", "--", "touch", commands.directory / "ran"]):
        done = commands(command[0], "--label", "é" * 31, *command[1:])
        assert (done.returncode, done.stdout) == (2, "") and "--label must be at most 60 bytes" in done.stderr
    assert not (commands.directory / "ran").exists()
    assert commands("show", "blue").returncode == 1
    done = commands("serve", "--http", "--label", "x")
    assert done.returncode == 2 and "--label is for stdin and stdout" in done.stderr


def test_a_server_shows_where_its_host_works_for_handles_too(claims_dir: Path, commands: Commands) -> None:
    commands.environment["MCP_CLAIMS_LABEL"] = "left"
    with raw_server(claims_dir, "--label", "right", env={"HOME": "/nowhere"}) as server:
        server.call("try_claim", key="red")
        handle = server.call("open_session", label="tests")["session"]
        server.call("try_claim", key="blue", session=handle)
        blue, red = commands.json("list")["claims"]
        assert (red["label"], red["directory"]) == ("right", os.getcwd())
        assert (blue["label"], blue["directory"]) == ("tests", os.getcwd())


@pytest.mark.rule("L8")
def test_sessions_that_look_alike_in_all_else_are_told_apart_by_a_part_of_their_names(
    claims_dir: Path, commands: Commands
) -> None:
    # As over HTTP: one process, no directory, and a client that opens two connections.
    sessions = [process_session(FileStore(claims_dir)) for _ in range(2)]
    for number, session in enumerate(sessions):
        session.describe_client("codex 0.171")
        session.try_claim(f"red {number}")
        session.try_claim(f"blue {number}")
    lines = commands("list").stdout.splitlines()[1:]
    for line in lines:
        session = sessions[int(line.split()[2])]
        assert f" {session.holder.name[-12:-6]} codex 0.171 " in line
    (claims_dir / "default" / "red%201.json").unlink()
    (claims_dir / "default" / "blue%201.json").unlink()
    assert all(re.search(r"\d +codex 0\.171 ", line) for line in commands("list").stdout.splitlines()[1:])


def test_run_has_a_label_and_a_directory(commands: Commands, tmp_path: Path) -> None:
    commands.environment["HOME"] = "/nowhere"
    show = [*COMMAND, "show", "nightly", "--json"]
    command = [*COMMAND, "run", "nightly", "--label", "cron", "--", *show]
    done = subprocess.run(
        command, env=commands.environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    shown = json.loads(done.stdout)
    assert (shown["label"], shown["directory"]) == ("cron", str(tmp_path))


@pytest.mark.rule("L8")
@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\u202eb", "x" * 5_000, "\ud800"])
def test_a_directory_is_one_line_of_bounded_length_that_no_reader_trips_over(claims_dir: Path, hostile: str) -> None:
    session = process_session(FileStore(claims_dir))
    session.describe(directory=f"/work/{hostile}")
    session.try_claim("red")
    (listed,) = process_session(FileStore(claims_dir)).list_claims().claims
    assert isinstance(listed.found, Claim) and listed.found.holder.directory is not None
    assert len(listed.found.holder.directory) <= 200
    assert one_line(listed.found.holder.directory) == listed.found.holder.directory


def test_a_git_directory_that_is_no_repository_is_no_branch(tmp_path: Path) -> None:
    assert branch_in(str(tmp_path / "gone")) is None
    assert branch_in("…/cut") is None
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert branch_in(str(tmp_path)) is None, "nobody waits for a pipe"
    (tmp_path / ".git" / "HEAD").unlink()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert branch_in(str(tmp_path)) == branch_in(str(tmp_path / "below" / "it")) == "main"


def test_times_are_local_and_spans_short(claims_dir: Path, commands: Commands) -> None:
    session = process_session(FileStore(claims_dir))
    claim = granted(session, "red", ttl_minutes=90)
    early = claim.claimed._replace(wall=claim.claimed.wall - timedelta(days=3), ticks=0.0)
    (claims_dir / "default" / "red.json").write_bytes(to_json(claim._replace(claimed=early)))
    commands.environment["TZ"] = "Pacific/Kiritimati"  # 14 hours ahead of UTC
    line = commands("list").stdout.splitlines()[1].split()
    assert line[3:5] == (early.wall + timedelta(hours=14)).strftime("%b %d").split()
    assert re.fullmatch(r"1h(29|30)m", line[6]), line


@contextmanager
def watching(commands: Commands, *options: str) -> Iterator[Iterator[str]]:
    """Start `list --watch`; yields its lines."""
    with commands.start("list", "--watch", *options, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield iter(process.stdout)


def test_a_script_that_watches_gets_a_line_of_json_for_each_change(commands: Commands, claims_dir: Path) -> None:
    with watching(commands, "--json") as lines:
        assert json.loads(next(lines)) == {"claims": []}
        session = process_session(FileStore(claims_dir))
        session.try_claim("red")
        assert [each["state"] for each in json.loads(next(lines))["claims"]] == ["held"]
        session.release("red", outcome=Outcome.FAILED)
        assert [each["state"] for each in json.loads(next(lines))["claims"]] == ["failed"]
        session.try_claim("blue")
        assert len(json.loads(next(lines))["claims"]) == 2


def test_in_a_pipe_watch_prints_the_table_again_after_each_change(commands: Commands, claims_dir: Path) -> None:
    with watching(commands) as lines:
        assert next(lines).startswith("NAMESPACE") and "Nothing" in next(lines)
        process_session(FileStore(claims_dir)).try_claim("red")
        assert next(lines).startswith("NAMESPACE") and next(lines).split()[:3] == ["default", "red", "held"]


@contextmanager
def screen(
    commands: Commands, *options: str, lines: int = 24, columns: int = 80
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `list --watch` on a terminal of that size; yields the process and the terminal."""
    environment = commands.environment | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
    with at_terminal([*COMMAND, "list", "--watch", *options], environment) as (process, terminal):
        yield process, terminal


def plain(shown: bytes) -> list[str]:
    """Return the lines of what a terminal got, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "").split("\n")


def test_at_a_terminal_the_table_is_redrawn_in_place_and_ctrl_c_ends_it(commands: Commands, claims_dir: Path) -> None:
    with screen(commands, lines=40, columns=120) as (process, terminal):
        seen = read_until(terminal, b"Nothing is claimed.")
        process_session(FileStore(claims_dir)).try_claim("red")
        seen += read_until(terminal, b"held")
        assert b"\x1b[1A" in seen, "the cursor goes up again"
        os.write(terminal, b"\x03")
        assert process.wait(TIMEOUT) == 0
        assert b"Traceback" not in seen + read_until(terminal, b"")


@pytest.mark.rule("L7")
def test_sixty_claims_on_24_lines_are_a_line_each_and_the_others_are_counted_and_reached(
    commands: Commands, claims_dir: Path
) -> None:
    session = process_session(FileStore(claims_dir))
    for number in range(60):
        session.try_claim(f"vercel/next.js#{number}:checks_failed@3f2a91c", "ci", note="a note of some length " * 9)
    session.release("vercel/next.js#7:checks_failed@3f2a91c", "ci", outcome=Outcome.DONE)
    with screen(commands) as (process, terminal):
        lines = plain(read_until(terminal, b"scroll)"))
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert lines[0].startswith("60 claims: 59 held, 1 done in ci; ") and lines[0].endswith("; q ends")
        assert lines[1].split()[:2] == ["KEY", "STATE"]
        assert len(claims := [line for line in lines if line.startswith("vercel/next.js#")]) == 20
        assert len({line.split(":")[0] for line in claims}) == 20, "each can be told from the others"
        assert lines[-1].startswith("40 more below")
        for keys, footer in (
            (b" ", "20 more above, 20 more below"),
            (b"\x1b[6~", "40 more above"),
            (b"\x1b[A", "39 more above, 1 more below"),
            (b"g", "40 more below"),
            (b"jjj", "3 more above, 37 more below"),
        ):
            os.write(terminal, keys)
            read_until(terminal, footer.encode())
        os.write(terminal, b"q")
        assert process.wait(TIMEOUT) == 0
        assert termios.tcgetattr(terminal)[3] & termios.ECHO, "the terminal is as it was before"


def test_the_terminal_is_as_it_was_when_the_watch_is_killed(commands: Commands) -> None:
    with screen(commands) as (process, terminal):
        read_until(terminal, b"Nothing is claimed.")
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        process.terminate()
        assert process.wait(TIMEOUT) == 128 + signal.SIGTERM
        assert termios.tcgetattr(terminal)[3] & termios.ECHO


@pytest.mark.rule("L7")
def test_a_list_at_a_terminal_has_a_line_for_each_claim(commands: Commands, claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    for number in range(60):
        session.try_claim(f"{number} {'k' * 300}", f"namespace {number % 2}", note="a long note " * 30)
    environment = commands.environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with at_terminal([*COMMAND, "list"], environment) as (process, terminal):
        lines = plain(read_until(terminal, b""))
        assert process.wait(TIMEOUT) == 0
    assert len([line for line in lines if line]) == 61
    assert max(map(len, lines)) <= 80 and all("…" in line for line in lines[1:61])
    # Nothing is cut where a program reads it.
    assert "a long note " * 29 in commands("list").stdout


def read_until(terminal: int, wanted: bytes) -> bytes:
    """Read what a terminal shows until *wanted* has come; with nothing wanted, to the end."""
    seen = b""
    while not wanted or wanted not in seen:
        try:
            seen += os.read(terminal, 4_096)
        except OSError:  # Nobody has the terminal open any more.
            break
    return seen
