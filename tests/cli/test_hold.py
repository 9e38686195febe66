"""`mcp-claims hold`: a person holds a key without any process, is shown as a person, and ends it from any shell."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_claims.cli.hold import parse_time
from mcp_claims.model.records import Claim
from mcp_claims.render.answers import claim_answer, inspect_answer, release_answer
from mcp_claims.render.lists import list_answer
from mcp_claims.session.identity import person_session, process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import Commands
from tests.session.bench import granted
from tests.support.etcd import fresh_store

NOW = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is an hour ahead of UTC, two in summer: from 29 March to 25 October 2026, as in Berlin."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.rule("L10")
def test_it_is_held_without_a_process_until_the_same_user_ends_it(commands: Commands) -> None:
    held = commands("hold", "red", "--for", "2h", "--note", "release in progress")
    assert held.returncode == 0 and held.stdout.startswith('CLAIMED: you hold "red"') and held.stderr == ""
    assert "mcp-claims release KEY" in held.stdout
    assert commands("try", "red", "--session", "ci").returncode == 1
    assert commands("release", "red").stdout.startswith('RELEASED: "red"')
    assert commands("try", "red", "--session", "ci").returncode == 0


@pytest.mark.rule("L10")
def test_it_is_shown_as_a_persons_everywhere(commands: Commands, claims_dir: Path) -> None:
    generation = commands.json("hold", "red", "--for", "2h", "--note", "release in progress")["generation"]
    store = FileStore(claims_dir)
    agent, name = process_session(store), person_session(store).holder.name
    host, _, user = (name.partition("@")[0], *name.rpartition(":")[1:])
    who = f"a person, {user}, on {host}"
    texts = [commands(*words.split()).stdout for words in ("check red", "show red", "list", "try red --session ci")]
    attempt = agent.try_claim("red")
    scoped = granted(agent, "green").scoped._replace(key="red")
    inspection = agent.inspect("red", generation=generation)
    answers = [
        claim_answer(scoped, attempt),
        inspect_answer(scoped, agent.inspect("red")),
        release_answer(scoped, agent.release("red")),
        list_answer(agent.list_claims(), None),
    ]
    for text in [*texts, *(answer.text for answer in answers)]:
        assert who in text and "release in progress" in text
    for answer in answers[:3]:  # Some hosts show their models the structured answer only.
        facts = answer.structured
        assert facts["advice"].startswith(f"No agent holds it: {who}, keeps it until {facts['expires_at'][:19]}Z (")
        assert (facts["holder"], facts["client"], facts["note"]) == (name, "a person", "release in progress")
    assert inspection.in_force and inspection.claimed_by_other
    (listed,) = (each for each in commands.json("list")["claims"] if each["key"] == "red")
    for facts in (listed, commands.json("show", "red")):
        assert (facts["maker"], facts["client"], facts["holder"], facts["yours"]) == ("person", "a person", name, False)
        assert "pid" not in facts


@pytest.mark.rule("L10")
def test_the_same_user_moves_its_end_to_later_and_to_earlier(commands: Commands) -> None:
    first = commands.json("hold", "red", "--for", "2h", "--note", "release in progress")
    for span, seconds in (("3h", 10_800), ("30m", 1_800)):
        again = commands.json("hold", "red", "--for", span)
        assert again["status"] == "renewed" and again["generation"] == first["generation"]
        assert seconds - 60 < again["expires_in_seconds"] <= seconds
        assert again["note"] == "release in progress"


@pytest.mark.rule("L10")
def test_a_time_of_day_is_the_next_one(commands: Commands) -> None:
    commands.environment["TZ"] = "XYZ-5:45"
    soon = datetime.now(UTC) + timedelta(hours=5, minutes=45) + timedelta(hours=3)
    left = commands.json("hold", "red", "--until", f"{soon:%H:%M}")["expires_in_seconds"]
    assert 3 * 3_600 - 600 < left <= 3 * 3_600


@pytest.mark.rule("L10")
@pytest.mark.parametrize(
    "identity", [["--session", "nightly"], ["--for-pid", "1234"], ["environment"]], ids=lambda words: words[0]
)
def test_a_job_of_the_same_user_does_not_end_it(commands: Commands, somebody: object, identity: list[str]) -> None:
    assert commands("hold", "red", "--for", "2h").returncode == 0
    if identity[0] == "--for-pid":
        identity[1] = str(somebody.pid)  # type: ignore[attr-defined]
    elif identity[0] == "environment":
        identity = []
        commands.environment["MCP_CLAIMS_SESSION"] = "nightly"
    done = commands("release", "red", *identity)
    assert done.returncode == 1 and done.stdout.startswith("NOT YOURS") and "--person" in done.stdout
    assert commands("check", "red", *identity).returncode == 1
    assert commands("release", "red", "--person").returncode == 0


@pytest.mark.rule("L10")
def test_without_a_session_nothing_but_the_persons_own_is_released(commands: Commands) -> None:
    commands("try", "red", "--session", "ci")
    for words in (["release", "red"], ["release", "green"]):
        done = commands(*words)
        assert done.returncode == 2 and "Say who holds it" in done.stderr
    done = commands("release", "red", "--person")
    assert done.returncode == 1 and done.stdout.startswith("NOT YOURS") and "--force" in done.stdout
    assert commands("check", "red", "--session", "ci").stdout.startswith("YOURS")


def test_how_it_ended_can_be_said(commands: Commands) -> None:
    commands("hold", "red", "--for", "2h")
    assert commands("release", "red", "--outcome", "done", "--note", "1.4 is out").returncode == 0
    check = commands("check", "red")
    assert check.returncode == 1 and "was done by a person" in check.stdout and "1.4 is out" in check.stdout
    again = commands("hold", "red", "--for", "2h")
    assert again.returncode == 1 and again.stdout.startswith("DONE") and "mcp-claims forget KEY" in again.stdout


def test_what_another_session_holds_is_refused_with_who_and_how_to_wait(commands: Commands) -> None:
    commands("try", "red", "--session", "ci", "--note", "on it")
    done = commands("hold", "red", "--for", "2h")
    assert done.returncode == 1 and done.stdout.startswith('HELD: "red"')
    assert ":session:ci" in done.stdout and "on it" in done.stdout and "mcp-claims wait KEY" in done.stdout


def test_what_cannot_be_read_is_refused(commands: Commands, claims_dir: Path) -> None:
    commands("hold", "red", "--for", "2h")
    (claims_dir / "default" / "red.json").write_text("{")
    done = commands("hold", "red", "--for", "2h")
    assert done.returncode == 1 and "cannot be read" in done.stdout and "delete it" in done.stdout


def test_a_claim_of_a_person_can_be_revoked(commands: Commands) -> None:
    commands("hold", "red", "--for", "2h")
    done = commands("release", "red", "--force", "--yes")
    assert done.returncode == 0 and done.stdout.startswith("REVOKED: a person, ")
    assert commands.json("show", "red")["client"].startswith("mcp-claims release --force")


def test_a_held_key_that_looks_alike_is_named(commands: Commands) -> None:
    commands("try", "deploy:staging", "--session", "ci")
    done = commands("hold", "Deploy:staging", "--for", "2h")
    assert done.returncode == 0 and "looks alike" in done.stderr


@pytest.mark.rule("L10")
def test_on_a_cluster_it_outlives_the_command_and_its_end_can_be_earlier(commands: Commands) -> None:
    store = fresh_store()
    on_it = ("--store", store.config)
    first, second = (commands.json("hold", "red", "--for", span, *on_it) for span in ("2h", "30m"))
    assert (second["status"], second["generation"]) == ("renewed", first["generation"])
    found = process_session(store).inspect("red")
    assert isinstance(found.found, Claim) and found.claimed_by_other
    assert (found.found.expires.wall - found.now.wall).total_seconds() < 1_800
    assert commands("release", "red", *on_it).returncode == 0


@pytest.mark.rule("A15")
def test_in_the_shared_layout_the_original_leaves_it_alone_until_it_expires(commands: Commands) -> None:
    layout = ("--layout", "agent-awareness")
    held = commands.json("hold", "red", "--for", "2h", *layout)
    (record,) = (json.loads(path.read_text()) for path in commands.directory.rglob("red.json"))
    assert record["holder"] == f"mcp-claims/{held['holder']}" and record["maker"] == "person"
    assert commands("release", "red", *layout).returncode == 0


@pytest.mark.rule("L10")
@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-11-29T17:00"),
        ("13:01", "2026-11-29T12:01"),
        ("13:00", "2026-11-30T12:00"),
        ("9:05", "2026-11-30T08:05"),
        ("00:00", "2026-11-29T23:00"),
        ("2026-11-30T09:00", "2026-11-30T08:00"),
        ("2026-11-30 09:00:30", "2026-11-30T08:00:30"),
        ("2026-11-30T09:00Z", "2026-11-30T09:00"),
        ("2026-11-30T09:00+05:45", "2026-11-30T03:15"),
    ],
)
def test_times_are_local(text: str, moment: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(f"{moment}+00:00")


@pytest.mark.rule("L10")
@pytest.mark.usefixtures("berlin")
def test_a_change_of_the_clocks_before_the_time_counts() -> None:
    evening = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
    assert parse_time("08:00", evening) == datetime(2026, 10, 25, 7, 0, tzinfo=UTC)


@pytest.mark.rule("L10")
@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("now", "text", "moment"),
    [
        ("00:10", "02:30", "00:30"),
        ("00:40", "02:30", "01:30"),
        ("00:40", "02:50", "00:50"),
        ("01:10", "02:30", "01:30"),
    ],
)
def test_a_time_that_comes_twice_is_the_next_of_the_two(now: str, text: str, moment: str) -> None:
    day = "2026-10-25T{}+00:00"
    assert parse_time(text, datetime.fromisoformat(day.format(now))) == datetime.fromisoformat(day.format(moment))


@pytest.mark.parametrize(
    "text", ["", "18", "25:00", "18:60", "6pm", "2026-11-30", "2026-13-01T09:00", "0001-01-01T00:00"]
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as 18:00 or 2026-11-30T09:00"):
        parse_time(text, NOW)


@pytest.mark.rule("L1", "L10")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--for", "25h"], "--for must be from one second to 24 hours"),
        (["--for", "0"], "--for must be from one second"),
        (["--for", "nan"], "--for must be from one second"),
        (["--until", "2026-11-28T09:00"], "--until must be from one second"),
        (["--until", "9998-12-31T23:00"], "--until must be from one second"),
        (["--until", "6pm"], "argument --until: must be a time such as"),
        ([], "one of the arguments --until --for is required"),
        (["--for", "1h", "--until", "18:00"], "not allowed with"),
        (["--for", "1h", "--note", "x" * 501], "--note must be at most 500 characters"),
    ],
    ids=str,
)
def test_a_wrong_end_is_exit_code_2_and_claims_nothing(commands: Commands, words: list[str], error: str) -> None:
    done = commands("hold", "red", *words)
    assert (done.returncode, done.stdout) == (2, "") and error in done.stderr and "Traceback" not in done.stderr
    assert not commands.directory.exists()
