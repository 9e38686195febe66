"""Standard streams that are closed, no longer read, full, or of an encoding without our characters."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, Commands


def shell(commands: Commands, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's *script*, in which "$@" is our command with *arguments*."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND, *arguments],
        env=commands.environment | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


ANSWERS = [
    pytest.param(["try", "green", "--session", "ada"], 0, id="try, granted"),
    pytest.param(["try", "red", "--session", "ada"], 1, id="try, refused"),
    pytest.param(["check", "green"], 0, id="check, free"),
    pytest.param(["check", "red"], 1, id="check, held"),
    pytest.param(["check", "red", "--json"], 1, id="check as JSON"),
    pytest.param(["check", ""], 2, id="wrong usage"),
    pytest.param(["check", "red", "--dir", "/dev/null"], 3, id="no store"),
    pytest.param(["show", "red"], 0, id="show"),
    pytest.param(["release", "red", "--session", "ada"], 1, id="release"),
    pytest.param(["release", "red", "--force"], 1, id="release by force"),
    pytest.param(["list"], 0, id="list"),
    pytest.param(["list", "--json"], 0, id="list as JSON"),
    pytest.param(["prune"], 0, id="prune"),
    pytest.param(["run", "green", "--", "true"], 0, id="run"),
    pytest.param(["run", "red", "--", "true"], 75, id="run, refused"),
    pytest.param(["doctor"], 0, id="doctor"),
    pytest.param(["completion", "bash"], 0, id="completion"),
    pytest.param(["install", "codex", "--print"], 0, id="install, printed"),
]


STREAMS = [
    "<&-",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    "| true; exit ${PIPESTATUS[0]}",
    "2>&1 >/dev/full | true; exit ${PIPESTATUS[0]}",
]
# Each way to write on each kind of stream, all commands on those that are closed or full.
WAYS = {"check, held", "check as JSON", "wrong usage", "list", "run"}
CASES = [
    pytest.param(streams, *answer.values, id=f"{answer.id} {streams}")
    for answer in ANSWERS
    for streams in (STREAMS if answer.id in WAYS else STREAMS[3::2])
]


@pytest.mark.rule("L1")
@pytest.mark.parametrize(("streams", "arguments", "code"), CASES)
def test_an_answer_is_the_same_whatever_the_streams_are(
    commands: Commands, claims_dir: Path, streams: str, arguments: list[str], code: int
) -> None:
    process_session(FileStore(claims_dir)).try_claim("red")
    done = shell(commands, f'"$@" {streams}', *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.rule("L1")
@pytest.mark.parametrize("arguments", [["check", ""], ["run", "red", "--", "true"], ["nonsense"]], ids=" ".join)
def test_what_is_wrong_does_not_end_up_in_the_output_where_there_is_no_place_for_it(
    commands: Commands, claims_dir: Path, arguments: list[str]
) -> None:
    process_session(FileStore(claims_dir)).try_claim("red")
    done = shell(commands, '"$@" 2>&-', *arguments)
    assert done.returncode != 0 and done.stdout == ""


def test_the_command_that_is_run_gets_the_streams_as_they_were(commands: Commands) -> None:
    seen = "for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && code=$((code + 1)); done; exit $code"
    assert shell(commands, '"$@" <&- >&- 2>&-', "run", "red", "--", "bash", "-c", f"code=10; {seen}").returncode == 10
    assert shell(commands, '"$@"', "run", "green", "--", "bash", "-c", f"code=10; {seen}").returncode == 13


@pytest.mark.rule("L1")
@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("watch", [["list", "--watch"], ["list", "--watch", "--json"]], ids=["table", "json"])
def test_a_watch_whose_output_cannot_be_written_ends_with_a_message(
    commands: Commands, watch: list[str], buffered: str
) -> None:
    done = shell(commands, '"$@" >/dev/full', *watch, PYTHONUNBUFFERED=buffered)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1) and "No space left" in done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["list", "--watch"]], ids=" ".join)
def test_a_reader_that_closes_the_pipe_ends_a_list_quietly(
    commands: Commands, claims_dir: Path, arguments: list[str]
) -> None:
    session = process_session(FileStore(claims_dir))
    for number in range(200):
        session.try_claim(f"red {number}", note="n" * 400)
    done = shell(commands, '"$@" | head -c 1; exit ${PIPESTATUS[0]}', *arguments, PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["list"], ["show", "é→ключ"], ["doctor"]], ids=" ".join)
def test_what_the_encoding_has_no_characters_for_is_spelt_in_ascii(
    commands: Commands, claims_dir: Path, arguments: list[str]
) -> None:
    process_session(FileStore(claims_dir)).try_claim("é→ключ")
    done = shell(commands, '"$@"', *arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in arguments or "\\u2192" in done.stdout


@pytest.mark.rule("L1")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_any_encoding(commands: Commands, claims_dir: Path, encoding: str) -> None:
    process_session(FileStore(claims_dir)).try_claim("é→ключ")
    for arguments in (["show", "é→ключ", "--json"], ["list", "--json"]):
        done = shell(commands, '"$@"', *arguments, PYTHONIOENCODING=encoding)
        reply = json.loads(done.stdout)
        assert (reply["claims"][0] if "claims" in reply else reply)["key"] == "é→ключ"
