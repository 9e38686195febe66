"""Real hosts with models that never call a claims tool: the guard keeps their sessions from each other's files."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.hosts.real_hosts import REAL_HOSTS, TIMEOUT, HostHome, RealHost, needs_hosts
from tests.hosts.scripted_model import Say, Step, Use, use
from tests.hosts.test_real_turns import until
from tests.support.programs import installed

pytestmark = needs_hosts

EDITS_OF_A_TURN = 3
ASKED = int(os.environ.get("MCP_CLAIMS_EDITS", "12"))
"""How many edits are asked for in all, at least two turns of each session; by night 200."""

FILES = 10
DENIED = re.compile(r"Another session has claimed this: .*?\(?([\w.-]+:agent:[\w-]+)")

Edit = Callable[[str, str], Sequence[Use]]


def _in_codex(path: str, line: str) -> Sequence[Use]:
    patch = f"*** Begin Patch\n*** Update File: {path}\n@@\n-END\n+{line}\n+END\n*** End Patch"
    return [use("exec_command", cmd=f"apply_patch <<'EOF'\n{patch}\nEOF")]


EDITS: Mapping[str, Edit] = {
    "claude-code": lambda path, line: [
        use("Read", file_path=path),
        use("Edit", file_path=path, old_string="END", new_string=f"{line}\nEND"),
    ],
    "codex": _in_codex,
    "gemini-cli": lambda path, line: [
        use("replace", file_path=path, instruction="Add", old_string="END", new_string=f"{line}\nEND")
    ],
    "qwen-code": lambda path, line: [
        use("read_file", file_path=path),
        use("edit", file_path=path, old_string="END", new_string=f"{line}\nEND"),
    ],
    "opencode": lambda path, line: [
        use("read", filePath=path),
        use("edit", filePath=path, oldString="END", newString=f"{line}\nEND"),
    ],
    "copilot-cli": lambda path, line: [use("edit", path=path, old_str="END", new_str=f"{line}\nEND")],
}
"""How the model of each host adds a line to a file; it reads the file first where its host insists on that."""


@dataclass
class Crowd:
    """Sessions that edit the same files, and what became of their edits."""

    files: list[Path]
    held: list[tuple[Path, int, float, float]] = field(default_factory=list)
    """The file, the session, when the edit was known to be done, and when the turn ended."""
    denied: list[str] = field(default_factory=list)
    made: list[tuple[Path, str]] = field(default_factory=list)
    asked: int = 0

    def turn(self, host: HostHome, real: RealHost, session: int, turn: int, meet: threading.Barrier | None) -> None:
        """Run a session for one turn of edits, of which the next files in a fixed order are the target."""
        start = (session + 4 * turn) % FILES if meet is None else 0
        targets = [self.files[(start + offset) % FILES] for offset in range(EDITS_OF_A_TURN)]
        lines = [f"{session}.{turn}.{offset}" for offset in range(EDITS_OF_A_TURN)]
        calls = [EDITS[real.name](str(file), line) for file, line in zip(targets, lines, strict=True)]
        steps = [step for each in calls for step in each]
        length = len(calls[0])
        edited: dict[Path, float] = {}

        def script(results: Sequence[str]) -> Step:
            done = len(results)
            if meet is not None and done in (0, len(steps)):
                meet.wait(TIMEOUT)  # All sessions are at work at once.
            if done and done % length == 0:
                self._note(results[-1], targets[done // length - 1], lines[done // length - 1], edited)
            if done < len(steps):
                return steps[done]
            self.held += [(file, session, began, time.monotonic()) for file, began in edited.items()]
            return Say("done")

        with host.session(real, "Edit.", script) as running:
            running.finish()

    def _note(self, result: str, file: Path, line: str, edited: dict[Path, float]) -> None:
        self.asked += 1
        if "has claimed this" in result:
            self.denied.append(result)
        elif line in file.read_text():
            self.made.append((file, line))
            edited.setdefault(file, time.monotonic())

    def overlaps(self) -> list[tuple[Path, int, int]]:
        """Return the files at which two sessions were at a time."""
        return [
            (one[0], one[1], other[1])
            for one, other in combinations(self.held, 2)
            if one[0] == other[0] and one[1] != other[1] and one[2] < other[3] and other[2] < one[3]
        ]

    def lost(self) -> list[str]:
        """Return the lines of edits that were made and are in no file any more."""
        return [line for file, line in self.made if line not in file.read_text()]


def crowd_of(home: HostHome, real: RealHost, sessions: int, *, turns: int, meet: bool = False) -> Crowd:
    """Let *sessions* at a time edit ten files, each for some *turns*; if they *meet*, all begin and end a turn together."""
    files = [home.project / f"file{number}.txt" for number in range(FILES)]
    for file in files:
        file.write_text("END\n")
    crowd, barrier = Crowd(files), threading.Barrier(sessions) if meet else None

    def run(session: int) -> None:
        for turn in range(turns):
            crowd.turn(home, real, session, turn, barrier)

    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(run, range(sessions)))
    return crowd


def trusting(real: RealHost) -> RealHost:
    """Return *real* as its user runs it once its hooks are approved."""
    if real.name != "codex":
        return real
    command = (*real.session_command[:2], "--dangerously-bypass-hook-trust", *real.session_command[2:])
    return replace(real, session_command=command)


@pytest.mark.rule("U1")
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", EDITS)
def test_sessions_that_call_no_tool_are_never_at_one_file_at_a_time(
    name: str, host_home: HostHome, tmp_path: Path
) -> None:
    real = trusting(REAL_HOSTS[name])
    host_home.install(real, "--guard", "--dir", str(tmp_path / "claims"))
    # It also lets the host make its own files: two that do so at once can fail.
    assert host_home.lists_server(real)
    sessions = 4 if name == "claude-code" else 2
    turns = max(2, math.ceil(ASKED / (sessions * EDITS_OF_A_TURN)))
    crowd = crowd_of(host_home, real, sessions, turns=turns)
    print(
        f"{real.name}: {crowd.asked} edits by {sessions} sessions, {len(crowd.made)} made, {len(crowd.denied)} denied, "
        f"{len(crowd.overlaps())} overlaps, {len(crowd.lost())} lost"
    )
    assert crowd.asked == sessions * turns * EDITS_OF_A_TURN and crowd.made
    assert crowd.overlaps() == []
    for denial in crowd.denied:
        assert DENIED.search(denial), denial
    if name == "claude-code":
        assert crowd.lost() == []


@pytest.mark.rule("U1")
def test_two_that_meet_at_a_file_are_both_there_without_the_guard_and_with_it_one_is_denied(
    host_home: HostHome, tmp_path: Path
) -> None:
    real = REAL_HOSTS["claude-code"]
    host_home.install(real, "--dir", str(tmp_path / "claims"))
    without = crowd_of(host_home, real, 2, turns=1, meet=True)
    host_home.claims("install", real.name, "--guard", "--dir", str(tmp_path / "claims"))
    guarded = crowd_of(host_home, real, 2, turns=1, meet=True)
    assert len(without.overlaps()) >= 1 and not without.denied
    assert guarded.overlaps() == [] and len(guarded.denied) >= EDITS_OF_A_TURN
    assert all(DENIED.search(denial) for denial in guarded.denied)


@pytest.mark.rule("U3")
def test_of_four_sub_agents_of_claude_code_one_gets_the_key_and_it_is_free_when_that_one_has_ended(
    host_home: HostHome, tmp_path: Path
) -> None:
    real, store = REAL_HOSTS["claude-code"], FileStore(tmp_path / "claims")
    host_home.install(real, "--allow", "--hooks", "--dir", str(tmp_path / "claims"))
    together, answered = threading.Barrier(4), threading.Barrier(4)
    answers: list[str] = []

    def sub_agent(results: Sequence[str]) -> Step:
        if not results:
            together.wait(TIMEOUT)
            return use("try_claim", key="red")
        answers.append(results[0])
        answered.wait(TIMEOUT)
        return Say("done")

    starts = [
        use("Agent", description="Sub", prompt=f"Sub task {number}", subagent_type="general-purpose")
        for number in range(4)
    ]

    def script(results: Sequence[str]) -> Step:
        if len(results) < 4:
            return starts[len(results)]
        if len(results) > 4:
            return Say("done")
        until(lambda: len(answers) == 4)
        until(lambda: not list(store.scan()))  # SubagentStop has freed it.
        return use("try_claim", key="red") if len(results) == 4 else Say("done")

    with host_home.session(real, "The checks failed.", script, sub_agents={"Sub task": sub_agent}) as session:
        transcript = session.finish()
    assert sorted('"claimed":true' in answer for answer in answers) == [False, False, False, True]
    assert any('"claimed":true' in result for turn in transcript.turns for result in turn.results[4:])
    assert "agent." not in "".join(answers), "the handle is in no answer"
    until(lambda: not list(store.scan()), within=30)


@pytest.mark.rule("U4")
def test_as_the_first_process_of_a_container_behind_a_launcher_claude_code_is_never_denied_its_own(
    host_home: HostHome, tmp_path: Path
) -> None:
    real, claims = REAL_HOSTS["claude-code"], tmp_path / "claims"
    host_home.install(real, "--allow", "--guard", "--dir", str(claims))
    launcher = tmp_path / "uv"
    launcher.write_text('#!/bin/sh\n"$@"\nexit $?\n')
    launcher.chmod(0o700)
    file = host_home.home / ".claude.json"
    text = file.read_text()
    assert text.count('"args": [') == 1
    python = re.search(r'"command": ("[^"]*")', text)
    assert python is not None
    launched = text.replace(f'"command": {python[1]}', f'"command": "{launcher}"')
    file.write_text(launched.replace('"args": [', f'"args": [{python[1]}, '))
    inside = [installed("unshare", "util-linux"), "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    real = replace(real, session_command=(*inside, *real.session_command))
    made = host_home.project / "a.txt"
    steps = [use("try_claim", key=f"file:{made}"), real.write(str(made), "new\n")]

    def script(results: Sequence[str]) -> Step:
        return steps[len(results)] if len(results) < len(steps) else Say("done")

    with host_home.session(real, "Write.", script) as session:
        results = session.finish().turns[-1].results
    assert '"claimed":true' in results[0] and made.read_text() == "new\n"
    session_after = process_session(FileStore(claims))
    assert session_after.try_claim(f"file:{made}").claimed, "SessionEnd has freed it"
