"""`mcp-claims list` and `show`: as a table, as JSON, and followed as it changes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcp_claims.model.records import Outcome
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, TIMEOUT, Commands, at_terminal


def test_a_table_has_a_line_for_each_claim_with_its_state(commands: Commands, claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    session.try_claim("red", "ci", note="[bold]on it[/bold]\n|")
    session.try_claim("old", "ci")
    session.release("old", "ci", outcome=Outcome.DONE)
    session.try_claim("blue")
    (claims_dir / "default" / "blue.json").write_text("{")
    header, *lines = commands("list").stdout.splitlines()
    assert header.split() == ["NAMESPACE", "KEY", "STATE", "LEFT", "GEN", "HOLDER", "NOTE"]
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


def test_at_a_terminal_the_table_is_redrawn_in_place_and_ctrl_c_ends_it(commands: Commands, claims_dir: Path) -> None:
    environment = commands.environment | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with at_terminal([*COMMAND, "list", "--watch"], environment) as (process, terminal):
        seen = read_until(terminal, b"Nothing is claimed.")
        process_session(FileStore(claims_dir)).try_claim("red")
        seen += read_until(terminal, b"held")
        assert b"\x1b[1A" in seen, "the cursor goes up again"
        os.write(terminal, b"\x03")
        assert process.wait(TIMEOUT) == 0
        assert b"Traceback" not in seen + read_until(terminal, b"")


def read_until(terminal: int, wanted: bytes) -> bytes:
    """Read what a terminal shows until *wanted* has come; with nothing wanted, to the end."""
    seen = b""
    while not wanted or wanted not in seen:
        try:
            seen += os.read(terminal, 4_096)
        except OSError:  # Nobody has the terminal open any more.
            break
    return seen
