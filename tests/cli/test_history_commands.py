"""`mcp-claims history`, `why`, `top` and `verify`, as a person or a script runs them."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model.history import Event, Kind, from_line, to_line
from mcp_claims.model.records import ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.files import file_of
from tests.cli.commands import TIMEOUT, Commands
from tests.support.etcd import fresh_config
from tests.support.servers import raw_server


def lines(commands: Commands, *arguments: object) -> list[dict[str, Any]]:
    done = commands("history", "--json", *arguments)
    assert done.returncode == 0 and done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def sessions(claims_dir: Path) -> tuple[Session, Session]:
    mine, other = (process_session(FileStore(claims_dir)) for _ in range(2))
    mine.describe_client("agent 1.0")
    mine.describe(label="left pane")
    return mine, other


def work(sessions: tuple[Session, Session]) -> None:
    mine, other = sessions
    mine.try_claim("red", note="on\nit \x1b[2J")
    other.try_claim("red")
    other.try_claim("red")
    other.try_claim("green", "ci")
    mine.release("red", outcome="done", note="fixed")
    other.try_claim("red")
    other.close()


def test_what_happened_is_printed_in_its_order(commands: Commands, sessions: tuple[Session, Session]) -> None:
    work(sessions)
    printed = commands("history").stdout.splitlines()
    of_red = [line for line in printed if '"red"' in line]
    assert [line.split()[1] for line in of_red] == ["granted", "refused", "released", "refused", "refused"]
    assert 'note "on it [2J"' in of_red[0] and "left pane" in of_red[0]
    assert "outcome done" in of_red[2] and 'note "fixed"' in of_red[2]
    assert [line.split()[1] for line in printed if 'in "ci"' in line] == ["granted", "released"]


def test_it_can_be_narrowed_to_a_key_a_namespace_a_session_and_a_time(
    commands: Commands, sessions: tuple[Session, Session], claims_dir: Path
) -> None:
    old = Event(datetime.now(UTC) - timedelta(days=2), Kind.GRANTED, "default", "red", 1, holder="rig:1:old")
    log = claims_dir / ".history" / file_of(old.at.date().isoformat(), "default").name
    work(sessions)
    log.write_bytes(to_line(old))
    mine, other = (session.holder.name for session in sessions)
    assert {event["holder"] for event in lines(commands, "--by", "left pane")} == {mine}
    assert {event["holder"] for event in lines(commands, "--by", other)} == {other}
    assert {event["key"] for event in lines(commands, "red")} == {"red"}
    assert {event["key"] for event in lines(commands, "-n", "ci")} == {"green"}
    assert lines(commands, "green") == []
    assert lines(commands, "red", "--since", "7d")[0]["holder"] == "rig:1:old"
    assert lines(commands, "--since", "0s") == []


def test_those_who_follow_see_each_event_once(commands: Commands, sessions: tuple[Session, Session]) -> None:
    mine, _ = sessions
    mine.try_claim("first")
    with commands.start("history", "--json", "--follow", stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert from_line(follower.stdout.readline().encode()).key == "first"
        for number in range(5):
            mine.try_claim(f"later {number}")
            assert from_line(follower.stdout.readline().encode()).key == f"later {number}"


def test_why_says_who_has_it_who_was_refused_and_what_was_left(
    commands: Commands, sessions: tuple[Session, Session]
) -> None:
    work(sessions)
    mine, other = sessions
    mine.try_claim("red", redo=True, note="again")
    answer = commands.json("why", "red")
    assert [holder["note"] for holder in answer["holders"]] == ["again"]
    assert [(each["times"], other.holder.name in each["who"]) for each in answer["refused"]] == [(3, True)]
    assert [(event["outcome"], event["note"]) for event in answer["ended"]] == [("done", "fixed")]
    text = commands("why", "red").stdout
    assert "Now:" in text and "Refused:" in text and "What the last holders left:" in text
    assert "nobody has it" in commands("why", "blue").stdout


def test_why_knows_who_waits(commands: Commands, sessions: tuple[Session, Session]) -> None:
    mine, other = sessions
    mine.try_claim("red")
    other.queue.join(ScopedKey("default", "red"), 60)
    assert [each["holder"] for each in commands.json("why", "red")["waiting"]] == [other.holder.name]
    assert other.holder.name in commands("why", "red").stdout


def test_top_counts_each_duplicate_once_and_the_times(commands: Commands, sessions: tuple[Session, Session]) -> None:
    work(sessions)
    answer = commands.json("top")
    assert answer["duplicates_prevented"] == 1
    first = answer["keys"][0]
    assert (first["key"], first["refusals"], first["grants"]) == ("red", 3, 1)
    assert first["held_seconds"]["median"] is not None
    shown = commands("top").stdout
    assert "Once a session was kept" in shown and shown.endswith("HELD and WAITED: the median / the longest.\n")
    assert len(commands.json("top", "--limit", 1)["keys"]) == 1


def test_without_any_history_nothing_is_said(commands: Commands) -> None:
    assert commands("history").stdout == ""
    assert commands.json("top")["duplicates_prevented"] == 0
    assert commands.json("verify") | {"violations": []} == commands.json("verify")


@pytest.mark.rule("J6")
def test_verify_is_clean_after_work_and_finds_a_planted_second_holder(
    commands: Commands, sessions: tuple[Session, Session], claims_dir: Path
) -> None:
    work(sessions)
    done = commands("verify")
    assert (done.returncode, done.stdout) == (0, "2 grants and 0 turns checked: clean.\n")
    mine, other = sessions
    mine.try_claim("deploy")
    (log,) = (claims_dir / ".history").glob("*.default.jsonl")
    last = from_line(log.read_bytes().splitlines()[-1])
    planted = last._replace(holder=other.holder.name, generation=last.generation + 1)
    with log.open("ab") as file:
        file.write(to_line(planted))
    done = commands("verify", claims_dir)
    assert done.returncode == 1
    assert "BROKEN: one holder" in done.stdout and "1 promise broken" in done.stdout
    answer = commands.json("verify")
    assert answer["clean"] is False and answer["violations"][0]["event"]["key"] == "deploy"


def test_histories_of_machines_that_share_a_cluster_are_put_together(commands: Commands, tmp_path: Path) -> None:
    at = datetime.now(UTC)
    of_one = [
        Event(at, Kind.GRANTED, "ci", "red", 11, holder="one:1:a", revision=11, expires=at + timedelta(hours=1)),
        Event(at, Kind.RELEASED, "ci", "red", 11, holder="one:1:a", revision=13),
    ]
    of_other = [Event(at, Kind.GRANTED, "ci", "red", 12, holder="two:1:b", revision=12)]
    for name, events in (("one", of_one), ("two", of_other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file_of(at.date().isoformat(), "ci").name).write_bytes(b"".join(map(to_line, events)))
    assert commands("verify", tmp_path / "one").returncode == 0
    assert commands("verify", tmp_path / "two").returncode == 0
    assert commands("verify", tmp_path / "one", tmp_path / "two").returncode == 1


@pytest.mark.parametrize("wrong", [["verify", "/nowhere"], ["history", "--since", "-1"], ["top", "--limit", 0]])
def test_wrong_usage_is_refused(commands: Commands, wrong: list[object]) -> None:
    assert commands(*wrong).returncode == 2


@pytest.fixture
def on_a_cluster(commands: Commands, tmp_path: Path) -> Commands:
    commands.environment = {name: value for name, value in commands.environment.items() if name != "MCP_CLAIMS_DIR"}
    commands.environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "MCP_CLAIMS_STORE": str(fresh_config())}
    return commands


def test_what_a_server_on_a_cluster_held_ends_with_it(on_a_cluster: Commands) -> None:
    with raw_server(None, env=on_a_cluster.environment) as server:
        assert server.call("try_claim", key="red")["claimed"]
        assert not server.call("try_claim", key="red", session=server.call("open_session")["session"])["claimed"]
        server.stdin.close()
        assert server.process.wait(TIMEOUT) == 0
    assert [event["kind"] for event in lines(on_a_cluster)] == ["granted", "refused", "released"]


def test_a_cluster_has_a_history_on_each_machine_with_revisions(on_a_cluster: Commands) -> None:
    commands = on_a_cluster
    assert commands("try", "red", "--session", "one").returncode == 0
    assert commands("try", "red", "--session", "two").returncode == 1
    assert commands("release", "red", "--session", "one", "--outcome", "done").returncode == 0
    events = lines(commands)
    assert [event["kind"] for event in events] == ["granted", "refused", "released"]
    granted, _, released = events
    assert granted["revision"] == granted["generation"] < released["revision"]
    assert commands("verify").stdout.startswith("1 grant and")
