"""`mcp-claims try`, `check`, `release` and `prune`: on whose behalf, what they say, and their exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.model.records import Claim, Outcome
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, TIMEOUT, Commands, eventually
from tests.support.launch import unshare
from tests.support.servers import in_queue

Process = subprocess.Popen[bytes]


@pytest.mark.rule("L2")
def test_a_claim_for_a_process_outlives_the_command_and_ends_with_the_process(
    commands: Commands, somebody: Process
) -> None:
    assert commands("try", "red", "--for-pid", somebody.pid).returncode == 0
    assert commands("check", "red").returncode == 1
    assert commands("check", "red", "--for-pid", somebody.pid).returncode == 0
    assert commands.json("try", "red", "--for-pid", somebody.pid)["status"] == "renewed"
    somebody.kill()
    somebody.wait()
    taken = commands.json("try", "red", "--session", "other")
    assert (taken["status"], taken["generation"]) == ("acquired", 2)


def test_a_claim_for_a_name_outlives_the_command(commands: Commands) -> None:
    assert commands("try", "red", "--session", "ci").returncode == 0
    assert commands("try", "red", "--session", "other").returncode == 1
    assert commands.json("check", "red", "--session", "ci")["held_by_you"]
    assert commands("release", "red", "--session", "ci").returncode == 0
    assert commands("try", "red", "--session", "other").returncode == 0


def test_a_reservation_is_held_for_others_and_free_for_the_session_that_it_is_for(
    commands: Commands, claims_dir: Path
) -> None:
    store = FileStore(claims_dir)
    holder, waiter = process_session(store), named_session(store, "ci")

    def reserve() -> None:
        assert holder.try_claim("red").claimed
        assert acquire(waiter, ClaimRequest.parse("red", wait_seconds=0.001), reserve=True).keeps_place
        holder.release("red")

    reserve()
    assert commands.json("list")["claims"][0]["state"] == commands.json("show", "red")["state"] == "reserved"
    assert "is free, but kept for" in commands("show", "red").stdout
    assert "reserved" in commands("list").stdout and "1 held" in commands("doctor").stdout
    assert commands("check", "red").returncode == 1
    assert commands("try", "red", "--session", "other").returncode == 1
    own = commands("check", "red", "--session", "ci")
    assert own.returncode == 0 and own.stdout.startswith("YOUR TURN")
    assert commands.json("try", "red", "--session", "ci")["status"] == "acquired"
    assert commands("release", "red", "--session", "ci").returncode == 0
    reserve()
    assert commands("release", "red", "--session", "ci").stdout.startswith("DECLINED")
    reserve()
    assert "no terminal" in commands("release", "red", "--force").stderr
    assert "no longer kept" in commands("release", "red", "--force", "--yes").stdout
    assert commands("try", "red", "--session", "other").returncode == 0


@pytest.mark.rule("M1", "M5")
def test_slots_and_shared_keys_are_claimed_shown_and_revoked_one_by_one(commands: Commands) -> None:
    for slot, name in enumerate(("ada", "ben")):
        claimed = commands.json("try", "port", "--slots", 2, "--session", name)
        assert (claimed["slot"], claimed["slots"]) == (slot, 2)
    refused = commands("try", "port", "--slots", 2, "--session", "cy")
    assert refused.returncode == 1 and "all 2 slots" in refused.stdout and "--slots 2 --wait 5m" in refused.stdout
    assert "--slots 2" in commands("try", "port", "--session", "cy").stdout
    assert commands("try", "port", "--slots", 3, "--session", "cy").returncode == 2
    assert commands("check", "port").returncode == 1
    shown = commands.json("show", "port")
    generations = [each["generation"] for each in shown["holders"]]
    assert shown["generation"] == generations[0] and len(set(generations)) == 2
    assert commands("show", "port").stdout.count("in slot ") == 2
    assert "Several sessions hold it" in commands("release", "port", "--force", "--yes").stderr
    revoked = commands("release", "port", "--force", "--yes", "--generation", generations[1])
    assert revoked.returncode == 0 and "session:ben" in revoked.stdout
    assert commands("check", "port", "--session", "ada").returncode == 0
    assert commands("release", "port", "--session", "ada").stdout.startswith("RELEASED: slot 0")
    for name in ("ada", "ben"):
        shared = commands("try", "schema", "docs", "--all", "--shared", "--session", name)
        assert shared.returncode == 0 and "shared, until" in shared.stdout
    assert "release it, then wait" in commands("try", "schema", "--session", "ada").stdout
    assert "--shared" in commands("try", "schema", "--session", "cy").stdout
    assert commands("release", "docs", "--session", "ada").returncode == 0
    assert "HELD" in commands("try", "docs", "--session", "ben").stdout, "a group is not passed on"


def test_the_name_can_come_from_the_environment(commands: Commands) -> None:
    commands.environment["MCP_CLAIMS_SESSION"] = "ci"
    assert commands("try", "red").returncode == 0
    assert commands.json("check", "red")["held_by_you"]


def test_a_claim_says_through_what_it_was_made(commands: Commands, claims_dir: Path) -> None:
    process_session(FileStore(claims_dir)).try_claim("library")
    commands("try", "command", "--session", "ci")
    commands("hold", "person", "--for", "2h")
    makers = {each["key"]: each["maker"] for each in commands.json("list")["claims"]}
    assert makers == {"library": "library", "command": "command", "person": "person"}
    shown = commands("run", "red", "--", *COMMAND, "show", "red", "--json")
    assert json.loads(shown.stdout)["maker"] == "command"


@pytest.mark.rule("L2")
@pytest.mark.parametrize("command", ["try", "release"])
def test_nothing_is_claimed_for_the_command_itself_which_is_gone_at_once(commands: Commands, command: str) -> None:
    done = commands(command, "red")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mcp-claims: Say who holds it: --for-pid $$ (until this shell ends) or --session NAME. "
        "To hold it while one command runs: mcp-claims run KEY -- COMMAND\n"
    )
    assert not commands.directory.exists()


@pytest.mark.rule("L2")
@pytest.mark.parametrize("pid", ["0", "-1", "999999999", str(2**70)])
def test_a_process_that_is_not_there_can_hold_nothing(commands: Commands, pid: str) -> None:
    done = commands("try", "red", f"--for-pid={pid}")
    assert done.returncode == 2 and "--for-pid must be a process of this machine that is running" in done.stderr
    assert not commands.directory.exists()


@pytest.mark.rule("L2")
def test_orphaned_scripts_do_not_share_a_holder(commands: Commands) -> None:
    done = commands("try", "red", "--for-pid", 1)
    assert done.returncode == 2 and "--for-pid must not be 1" in done.stderr and "--session" in done.stderr
    assert not commands.directory.exists()


def test_a_process_that_has_ended_and_is_not_reaped_can_hold_nothing(commands: Commands, somebody: Process) -> None:
    somebody.kill()
    os.waitid(os.P_PID, somebody.pid, os.WEXITED | os.WNOWAIT)
    assert commands("try", "red", "--for-pid", somebody.pid).returncode == 2


def test_a_refusal_says_who_and_until_when(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red", note="on it")
    done = commands("try", "red", "--session", "ci")
    assert done.returncode == 1
    assert done.stdout.startswith('HELD: "red"') and holder.holder.name in done.stdout and "on it" in done.stdout
    reply = commands.json("try", "red", "--session", "ci")
    assert (reply["claimed"], reply["status"], reply["holder"]) == (False, "held", holder.holder.name)


def test_what_is_done_is_not_free_and_redo_claims_it(commands: Commands) -> None:
    commands("try", "red", "--session", "ci", "--note", "building")
    assert commands("release", "red", "--session", "ci", "--outcome", "done", "--note", "built 1.4").returncode == 0
    check = commands("check", "red")
    assert check.returncode == 1 and "was done by" in check.stdout and "built 1.4" in check.stdout
    assert commands.json("try", "red", "--session", "other")["status"] == "done"
    assert commands("try", "red", "--session", "other", "--redo").returncode == 0


def test_a_check_says_how_the_key_stands_without_advice_for_tools(commands: Commands) -> None:
    assert commands("check", "red").stdout == 'FREE: nobody holds "red" (namespace "default").\n'
    commands("try", "red", "--session", "ci")
    assert commands("check", "red", "--session", "ci").stdout.startswith('YOURS: you hold "red"')
    held = commands("check", "red").stdout
    assert held.startswith('HELD: "red"') and "Do not act" not in held
    commands("release", "red", "--session", "ci", "--outcome", "done")
    assert commands("check", "red").stdout.startswith('DONE: "red"')
    assert "advice" not in commands.json("check", "red")


def test_a_refusal_says_what_a_person_can_do_and_not_what_a_model_can(commands: Commands, claims_dir: Path) -> None:
    commands("try", "red", "--session", "ci")
    refusals = [commands("try", "red", "--session", "other"), commands("check", "red")]
    assert all("--wait 5m" in done.stdout and "release KEY --force" in done.stdout for done in refusals)
    refusals.append(commands("release", "red", "--session", "other"))
    assert "release KEY --force" in refusals[-1].stdout and "--wait" not in refusals[-1].stdout
    commands("release", "red", "--session", "ci", "--outcome", "done")
    done = [commands("try", "red", "--session", "other"), commands("check", "red")]
    assert all("try KEY --redo" in each.stdout and "new key" in each.stdout for each in done)
    assert all("mcp-claims forget KEY" in each.stdout for each in done)
    (claims_dir / "default" / "red.json").write_bytes(b"\0")
    unreadable = [commands("try", "red", "--session", "other"), commands("check", "red"), commands("prune")]
    assert all("red.json" in each.stdout and "delete it if nobody works on this" in each.stdout for each in unreadable)
    for each in (*refusals, *done, *unreadable):
        assert each.returncode == 1 and len(each.stdout.splitlines()) == 1
        for word in ("Do not act", "try_claim", "wait_seconds", "redo=true", "Ask a person", "is_claimed_by_other"):
            assert word not in each.stdout


def test_forget_removes_how_the_work_ended_and_nothing_else(commands: Commands, claims_dir: Path) -> None:
    for key, outcome in (("red", "done"), ("green", "failed"), ("blue", None)):
        commands("try", key, "--session", "ci")
        if outcome is not None:
            commands("release", key, "--session", "ci", "--outcome", outcome)
    for key in ("red", "green"):
        assert commands("forget", key).stdout.startswith(f'FORGOTTEN: how the work on "{key}"')
        assert commands("show", key).returncode == 1
    held, nothing = commands("forget", "blue"), commands("forget", "red")
    assert (held.returncode, nothing.returncode) == (1, 1)
    assert held.stdout.startswith('NOTHING TO FORGET: "blue"') and "is held by" in held.stdout
    assert commands("check", "blue", "--session", "ci").stdout.startswith("YOURS")
    unreadable = claims_dir / "default" / "blue.json"
    unreadable.write_bytes(b"\0")
    assert commands.json("forget", "blue") == {"forgotten": False} and unreadable.exists()


def test_people_read_local_times_and_ages_and_programs_utc(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    claim = holder.try_claim("red").found
    assert isinstance(claim, Claim)
    commands.environment = commands.environment | {"TZ": "XYZ-5:45"}
    local = claim.claimed.wall + timedelta(hours=5, minutes=45)
    text = commands("check", "red").stdout
    assert re.search(rf"since (\d{{4}}-\d\d-\d\d )?{local:%H:%M:%S} \(\d+ s ago\), until", text) and "Z" not in text
    assert commands.json("check", "red")["claimed_at"].startswith(f"{claim.claimed.wall:%Y-%m-%dT%H:%M:%S}")


def test_what_failed_is_free(commands: Commands) -> None:
    commands("try", "red", "--session", "ci")
    commands("release", "red", "--session", "ci", "--outcome", "failed")
    assert commands("check", "red").returncode == 0


def test_a_generation_is_in_force_until_the_claim_goes(commands: Commands) -> None:
    generation = commands.json("try", "red", "--session", "ci")["generation"]
    assert commands("check", "red", "--generation", generation).returncode == 0
    commands("release", "red", "--session", "ci")
    assert commands("check", "red", "--generation", generation).returncode == 1


@pytest.mark.rule("I10")
def test_claims_of_a_process_and_of_a_name_survive_a_new_host_name(commands: Commands) -> None:
    """As on a laptop in another network, or after DHCP has assigned a name."""
    renamed = [*unshare("--uts"), "sh", "-c", 'hostname renamed && exec "$@"', "sh"]
    for identity in (("--for-pid", os.getpid()), ("--session", "ci")):
        assert commands.json("try", "red", *identity)["status"] == "acquired"
        again = commands.json("try", "red", *identity, under=renamed)
        assert again["status"] == "renewed" and again["holder"].startswith("renamed")
        assert commands("check", "red", *identity).stdout.startswith("YOURS:")
        assert commands("release", "red", *identity, under=renamed).stdout.startswith("RELEASED:")


@pytest.mark.rule("P2")
def test_without_proc_claims_of_a_process_are_granted_and_released(commands: Commands) -> None:
    blind = [*unshare("--mount"), "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    assert commands.json("try", "red", "--for-pid", os.getpid(), under=blind)["status"] == "acquired"
    assert commands("release", "red", "--for-pid", os.getpid(), under=blind).stdout.startswith("RELEASED:")
    assert "that is running" in commands("try", "red", "--for-pid", 2**31 - 1, under=blind).stderr


def test_waiting_ends_with_the_release(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with commands.start("try", "red", "--session", "ci", "--wait", "60", stdout=subprocess.PIPE) as waiting:
        eventually(lambda: in_queue(claims_dir))
        holder.release("red")
        assert waiting.communicate(timeout=TIMEOUT)[0].startswith("CLAIMED:")
    assert waiting.returncode == 0


def test_another_ones_claim_is_not_released(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    done = commands("release", "red", "--session", "ci")
    assert done.returncode == 1 and done.stdout.startswith("NOT YOURS")
    assert holder.inspect("red").held_by_you


def in_terminal(commands: Commands, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command whose standard input is a terminal at which somebody types *answer*."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], env=commands.environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        output = process.communicate(timeout=TIMEOUT)[0].decode()
    os.close(ours)
    return process.returncode, output


def test_force_asks_first_and_says_whose_claim_it_takes(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    for answer in ("", "n", "yesterday"):
        code, output = in_terminal(commands, answer, "release", "red", "--force")
        assert (
            code == 1 and holder.holder.name in output and "Revoke it?" in output and "Nothing was changed." in output
        )
    assert holder.inspect("red").held_by_you
    code, output = in_terminal(commands, "y", "release", "red", "--force")
    assert code == 0 and f"REVOKED: {holder.holder.name}" in output


@pytest.mark.parametrize("command", [["try", "red", "--session", "ci", "--wait", "60"], ["list", "--watch", "--json"]])
def test_ctrl_c_ends_what_waits_quietly_and_claims_nothing(
    commands: Commands, claims_dir: Path, command: list[str]
) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with commands.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        fds = Path(f"/proc/{process.pid}/fd")
        eventually(lambda: any("inotify" in _target(fd) or ".alarm-" in _target(fd) for fd in fds.iterdir()))
        process.send_signal(signal.SIGINT)
        written = process.communicate(timeout=TIMEOUT)[1]
        assert not written or (written.startswith("mcp-claims: waiting up to") and written.count("\n") == 1)
    assert process.returncode == (130 if "try" in command else 0)
    assert holder.inspect("red").held_by_you


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


@pytest.mark.rule("L3")
def test_force_asks_nobody_where_there_is_nobody(commands: Commands, claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    done = commands("release", "red", "--force", output="y\n")
    assert done.returncode == 1 and "--yes" in done.stderr
    assert holder.inspect("red").held_by_you


@pytest.mark.rule("L3")
def test_a_revoked_holder_learns_by_whom_and_why_and_its_generation_is_not_in_force(
    commands: Commands, claims_dir: Path
) -> None:
    holder = process_session(FileStore(claims_dir))
    attempt = holder.try_claim("red")
    assert commands("release", "red", "--force", "--yes", "--note", "that host hangs").returncode == 0
    inspection = holder.inspect("red", generation=1)
    assert inspection.lost == attempt.found and inspection.in_force is False
    assert inspection.marker is not None and inspection.marker.ended is not None
    assert (inspection.marker.ended.outcome, inspection.marker.generation) == (Outcome.REVOKED, 2)
    assert inspection.marker.note == f"revoked from {holder.holder.name}: that host hangs"
    assert "release --force" in (inspection.marker.holder.client or "")
    assert commands("release", "red", "--force", "--yes").returncode == 1, "there is nothing to take"
    again = holder.try_claim("red")
    assert again.claimed and again.taken_over is not None and again.taken_over.found == inspection.marker


def test_what_cannot_be_read_can_be_taken_away(commands: Commands, claims_dir: Path) -> None:
    process_session(FileStore(claims_dir)).try_claim("red")
    (claims_dir / "default" / "red.json").write_text("{")
    assert commands("check", "red").returncode == 1
    assert commands("release", "red", "--force", "--yes").returncode == 0
    assert commands("check", "red").returncode == 0


def test_prune_prints_what_it_did_and_exits_with_1_if_something_needs_a_person(
    commands: Commands, somebody: Process, claims_dir: Path
) -> None:
    commands("try", "dead", "--for-pid", somebody.pid)
    commands("try", "live", "--session", "ci")
    somebody.kill()
    somebody.wait()
    reply = commands.json("prune", "-n", "default")
    assert (reply["orphaned"], reply["live"], reply["problems"]) == (1, 1, [])
    (claims_dir / "default" / "live.json").write_text("{")
    done = commands("prune")
    assert done.returncode == 1 and "live.json" in done.stdout


@pytest.mark.rule("L1")
@pytest.mark.parametrize(
    "arguments",
    [
        ("try", "red", "--session", "ci", "--ttl", "0"),
        ("try", "red", "--session", "ci", "--wait", "-1"),
        ("try", "", "--session", "ci"),
        ("try", "red", "-n", "a\nb", "--session", "ci"),
        ("check", "red", "--generation", "0"),
        ("release", "red", "--session", "ci", "--outcome", "done", "--retention", "0"),
        ("release", "red", "--session", "ci", "--note", "x"),
        ("prune", "-n", ""),
        ("list", "--mine"),
        ("show", ""),
        ("try", "red", "--session", "ci", "--layout", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_claims_nothing(commands: Commands, arguments: tuple[str, ...]) -> None:
    done = commands(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mcp-claims: ") and "Traceback" not in done.stderr
    assert not commands.directory.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--ttl", ["try", "red", "--session", "ci", "--ttl", "0"]),
        ("--ttl", ["run", "red", "--ttl", "nan", "--", "true"]),
        ("--once", ["run", "--once", "0", "red", "--", "true"]),
        ("--retention", ["release", "red", "--session", "ci", "--outcome", "done", "--retention", "0"]),
        ("--wait", ["try", "red", "--session", "ci", "--wait", "-1"]),
        ("--session", ["check", "red", "--session", "a\tb"]),
        ("--generation", ["check", "red", "--generation", "0"]),
        ("--layout", ["check", "red", "--layout", "nonsense"]),
        ("--dir", ["check", "red", "--dir", "relative"]),
        ("--held-exit-code", ["run", "red", "-E", "256", "--", "true"]),
        ("--retention-hours", ["serve", "--retention-hours", "0"]),
        ("--keep-alive-hours", ["serve", "--keep-alive-hours", "0"]),
        ("KEY", ["check", ""]),
    ],
    ids=str,
)
def test_an_error_of_usage_names_the_option(commands: Commands, option: str, words: list[str]) -> None:
    assert commands(*words).stderr.startswith(f"mcp-claims: {option} must ")


@pytest.mark.rule("L1")
@pytest.mark.parametrize(
    "command", ["check red", "show red", "try red --session ci", "release red --session ci", "list", "prune"]
)
def test_a_store_that_cannot_answer_is_exit_code_3(commands: Commands, command: str) -> None:
    commands.directory.write_text("no directory")
    done = commands(*command.split())
    assert done.returncode == 3, done.stderr
    assert str(commands.directory) in done.stderr and "`mcp-claims doctor`" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_keys_are_tried_together_and_only_if_that_is_asked_for(commands: Commands) -> None:
    first = commands("try", "one", "two", "--any", "--session", "ci", "--json")
    assert first.returncode == 0 and json.loads(first.stdout)["key"] == "one"
    second = commands("try", "one", "two", "--any", "--session", "other", "--json")
    assert second.returncode == 0 and json.loads(second.stdout)["key"] == "two"
    refused = commands("try", "red", "green", "--session", "ci")
    assert refused.returncode == 2 and "--all" in refused.stderr
    done = commands("try", "red", "green", "--all", "--session", "ci")
    assert done.returncode == 0 and 'all of "red", "green"' in done.stdout
    part = commands("try", "blue", "green", "--all", "--session", "other")
    assert part.returncode == 1 and part.stdout.startswith('HELD: "green"')
    assert "mcp-claims try KEY KEY… --all --wait 5m" in part.stdout and "these are held" not in part.stdout
    whole = commands("try", "red", "green", "blue", "--all", "--session", "other")
    assert 'these are held: "red" by' in whole.stdout and '; "green" by' in whole.stdout
    none = commands("try", "green", "one", "--any", "--session", "other")
    assert "mcp-claims try KEY KEY… --any --wait 5m" in none.stdout
    assert commands("check", "blue").returncode == 0, "nothing was claimed"
    assert commands("release", "green", "--session", "ci").returncode == 0
    assert commands("check", "red").returncode == 0


def test_what_was_left_on_any_of_several_keys_is_told(commands: Commands) -> None:
    commands("try", "green", "--session", "ci")
    commands("release", "green", "--session", "ci", "--outcome", "failed", "--note", "flaky")
    done = commands("try", "red", "green", "--all", "--session", "other")
    assert done.returncode == 0 and 'Before that, "green" was tried, and failed' in done.stdout
    assert '"flaky"' in done.stdout and "Do not act" not in done.stdout


def test_texts_that_look_like_files_are_named(commands: Commands) -> None:
    done = commands("try", "red", "src/*.py", "--all", "--session", "ci")
    assert done.returncode == 0 and '"src/*.py" is a text like any other' in done.stderr
