"""Whose a claim is: by the ids of the host's session and its agents, else by the processes, on machines of all shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mcp_claims.liveness import Program
from mcp_claims.liveness.machine import program_name
from mcp_claims.model.records import Claim, Holder, Maker, Moment, OriginalHolder, Proof, ScopedKey
from mcp_claims.session.host_session import (
    HostSession,
    Whose,
    host_session,
    host_session_of_environment,
    whose,
)
from tests.support.machines import FakeMachine, World

OURS, OTHERS, UNKNOWN = Whose.OURS, Whose.OTHERS, Whose.UNKNOWN
KEY = ScopedKey("default", "k")


class Processes(FakeMachine):
    """A machine with the processes *tree*: each PID with its name and its parent; this one is *pid*."""

    def __init__(self, tree: Mapping[int, tuple[str, int]], pid: int) -> None:
        super().__init__(World(), pid)
        self._tree = tree

    def programs_above(self, pid: int) -> list[Program]:
        above = []
        while pid in self._tree and (pid := self._tree[pid][1]) in self._tree:
            above.append(Program(pid, self._tree[pid][0]))
        return above


def held_by(machine: FakeMachine, pid: int, **described: Any) -> Claim:
    """Return a claim of a session that lives in process *pid*."""
    maker = described.pop("maker", Maker.TOOL)
    holder = Holder(f"rig:{pid}:nonce", pid, machine.proof(pid))._replace(**described)
    now = machine.now()
    return Claim(KEY, holder, now, now, maker=str(maker))


# init - terminal - two hosts, each with a server behind a launcher and a shell; the hook 50 is run by a worker of host 10.
TERMINAL = {
    1: ("systemd", 0),
    2: ("tmux", 1),
    3: ("bash", 2),
    10: ("agent", 3),
    11: ("uv", 10),
    12: ("sh", 11),
    13: ("python", 12),
    14: ("npx", 10),
    15: ("python", 14),
    20: ("agent", 3),
    21: ("python", 20),
    40: ("worker", 10),
    41: ("sh", 40),
    50: ("hook", 41),
    60: ("python", 3),
}


@pytest.mark.rule("U4")
@pytest.mark.parametrize(
    ("pid", "expected"),
    [(13, OURS), (15, OURS), (21, OTHERS), (60, OTHERS), (3, OTHERS), (2, OTHERS)],
    ids=["behind uv and a shell", "behind npx", "another host", "beside the hosts", "the shell above", "above all"],
)
def test_without_any_id_what_the_host_has_started_is_ours(pid: int, expected: Whose) -> None:
    machine = Processes(TERMINAL, 50)
    us = host_session("gemini-cli", None, None, {}, machine)
    assert us.processes == frozenset(), "no process has the name of that host"
    assert whose(held_by(machine, pid), us, machine) is expected


@pytest.mark.rule("U4")
def test_a_host_is_known_by_its_name_and_then_any_wrapper_below_it_is_ours() -> None:
    tree = {**TERMINAL, 10: ("gemini", 3), 20: ("gemini", 3), 11: ("own-wrapper", 10)}
    machine = Processes(tree, 50)
    us = host_session("gemini-cli", "s", None, {}, machine)
    assert (us.processes, us.process) == (frozenset({10}), 10)
    assert whose(held_by(machine, 13), us, machine) is OURS
    assert whose(held_by(machine, 21), us, machine) is OTHERS


@pytest.mark.rule("U4")
@pytest.mark.parametrize("init", ["agent", "python"])
def test_a_host_may_be_the_first_process_of_a_container(init: str) -> None:
    machine = Processes({1: (init, 0), 2: ("python", 1), 3: ("sh", 1), 4: ("hook", 3)}, 4)
    us = host_session("codex", None, None, {}, machine)
    assert whose(held_by(machine, 2), us, machine) is OURS


@pytest.mark.rule("U4")
def test_what_has_lost_its_parent_is_not_ours_although_the_first_process_is_above_it() -> None:
    machine = Processes({1: ("tini", 0), 2: ("python", 1), 5: ("agent", 1), 4: ("hook", 5)}, 4)
    assert whose(held_by(machine, 2), host_session("codex", None, None, {}, machine), machine) is OTHERS


@pytest.mark.rule("U4")
def test_claude_code_names_its_process_whoever_runs_the_hook_and_its_id_may_be_old() -> None:
    tree = {**TERMINAL, 10: ("claude", 3), 20: ("claude", 3), 70: ("daemon", 1), 71: ("hook", 70)}
    machine = Processes(tree, 71)
    us = host_session("claude-code", "new", None, {"CLAUDE_PID": "10"}, machine)
    assert us.process == 10
    assert whose(held_by(machine, 13, host_session="before /clear"), us, machine) is OURS
    assert whose(held_by(machine, 21, host_session="other"), us, machine) is OTHERS
    assert whose(held_by(machine, 10, maker=Maker.GUARD, host_session="before /clear"), us, machine) is OURS


@pytest.mark.rule("U4")
def test_where_one_process_has_several_sessions_the_id_decides() -> None:
    machine = Processes({**TERMINAL, 10: ("codex", 3)}, 50)
    us = host_session("codex", "one", None, {}, machine)
    assert whose(held_by(machine, 13, host_session="two"), us, machine) is OTHERS
    assert whose(held_by(machine, 13, host_session="one"), us, machine) is OURS
    assert whose(held_by(machine, 13), us, machine) is OURS


@pytest.mark.rule("U4")
def test_a_host_inside_another_one_is_a_session_of_its_own() -> None:
    tree = {
        1: ("systemd", 0),
        10: ("claude", 1),
        11: ("bash", 10),
        12: ("codex", 11),
        13: ("python", 12),
        14: ("hook", 12),
        15: ("hook", 10),
    }
    outer, inner = Processes(tree, 15), Processes(tree, 14)
    inherited = {"CLAUDE_PID": "10", "CLAUDE_CODE_SESSION_ID": "outer"}
    assert whose(held_by(outer, 13), host_session("claude-code", "outer", None, inherited, outer), outer) is OTHERS
    assert whose(held_by(inner, 13), host_session("codex", "inner", None, inherited, inner), inner) is OURS
    assert host_session_of_environment(inherited, Processes(tree, 13)).id is None, "the variable is another host's"
    assert host_session_of_environment(inherited, Processes(tree, 15)).id == "outer"


@pytest.mark.rule("U3")
@pytest.mark.parametrize(
    ("holder", "asks", "expected"),
    [(None, None, OURS), (None, "a", OURS), ("a", "a", OURS), ("a", "b", OTHERS), ("a", None, OTHERS)],
)
def test_what_the_sessions_own_agent_holds_is_its_sub_agents_too_and_not_the_reverse(
    holder: str | None, asks: str | None, expected: Whose
) -> None:
    machine = Processes({}, 50)
    assert whose(held_by(machine, 7, host_session="s", agent=holder), HostSession("s", asks), machine) is expected


@pytest.mark.rule("U4")
def test_a_claim_without_process_and_id_is_in_doubt_on_this_machine_and_nowhere_else() -> None:
    machine = Processes(TERMINAL, 50)
    us = host_session("codex", "s", None, {}, machine)

    def of(name: str, maker: Maker = Maker.TOOL, **described: Any) -> Whose:
        holder = Holder(name, 13)._replace(**described)
        return whose(held_by(machine, 13)._replace(holder=holder, maker=maker), us, machine)

    assert of("rig@place:session:nightly") is UNKNOWN
    assert of("rig:0:handle", Maker.HTTP) is UNKNOWN
    assert of("rig:7:connection", Maker.HTTP, proof=machine.proof(7)) is UNKNOWN
    assert of("rig:7:connection", Maker.HTTP, proof=machine.proof(7), host_session="s") is OURS
    assert of("rig@place:session:nightly", host_session="other") is OTHERS
    assert of("other@place:session:nightly") is OTHERS
    assert of("rig@place:person:ada") is OTHERS
    assert of("rig:13:nonce", proof=Proof("another boot", "pid:[1]", None, 13)) is OTHERS


@pytest.mark.rule("U4")
def test_a_holder_of_the_original_is_known_by_its_pid() -> None:
    machine = Processes(TERMINAL, 50)
    us = host_session("codex", None, None, {}, machine)
    for holder, expected in ((OriginalHolder("rig:13", 13), OURS), (OriginalHolder("rig:21", 21), OTHERS)):
        claim = Claim(KEY, holder, Moment(machine.now().wall), Moment(machine.now().wall))
        assert whose(claim, us, machine) is expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("claude", (), "claude"),
        ("node", ("node", "--max-old-space-size=8", "/usr/bin/gemini", "-p"), "gemini"),
        ("MainThread", ("/usr/bin/node", "/opt/qwen.js"), "qwen"),
        ("python3.11", ("python3", "-P", "-m", "mcp_claims", "serve"), "mcp_claims"),
        ("python3", ("python3", "-c", "import this", "x"), "python3"),
        ("npm exec @acme/x", (), "npm"),
        ("node", ("node", "/usr/lib/npm/bin/npx-cli.js", "x"), "npx-cli"),
        ("uvx.exe", (), "uvx"),
        ("python3", (), "python3"),
        ("", (), ""),
    ],
)
def test_a_program_is_named_by_its_script_if_an_interpreter_runs_it(
    name: str, arguments: tuple[str, ...], expected: str
) -> None:
    assert program_name(name, arguments) == expected


@pytest.mark.rule("U4")
def test_what_the_hooks_of_an_outer_host_have_claimed_is_not_the_inner_ones() -> None:
    tree = {
        1: ("systemd", 0),
        10: ("claude", 1),
        11: ("bash", 10),
        12: ("claude", 11),
        14: ("hook", 12),
        15: ("hook", 10),
    }
    inner = Processes(tree, 14)
    guarded = held_by(inner, 10, maker=Maker.GUARD, host_session="outer")
    for environment in ({}, {"CLAUDE_PID": "12"}):
        assert whose(guarded, host_session("claude-code", "inner", None, environment, inner), inner) is OTHERS
    outer = Processes(tree, 15)
    assert whose(guarded, host_session("claude-code", "after /clear", None, {}, outer), outer) is OURS


@pytest.mark.rule("U4")
def test_a_server_without_an_id_takes_nothing_from_one_of_several_sessions_in_its_host() -> None:
    tree = {1: ("systemd", 0), 10: ("opencode", 1), 11: ("python", 10), 12: ("qwen", 1), 13: ("python", 12)}
    for server, host, expected in ((11, 10, OTHERS), (13, 12, OURS)):
        machine = Processes(tree, server)
        us = host_session_of_environment({}, machine)
        assert whose(held_by(machine, host, maker=Maker.GUARD, host_session="one"), us, machine) is expected


def test_ids_that_are_long_or_odd_stay_different() -> None:
    machine = Processes({}, 50)
    texts = ["a" * 150, "a" * 151, "\ud800", "\ud801", "S\0A", "SA"]
    ids = [host_session("codex", text, None, {}, machine).id for text in texts]
    assert len(set(ids)) == len(texts)
    assert all(each is not None and len(each) <= 100 and each.isprintable() for each in ids)
