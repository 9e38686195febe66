"""Real hosts read what `install` has written, start the server, and call its tools."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_claims.hosts import HOSTS, UserEnvironment, read_servers
from tests.hosts.real_hosts import REAL_HOSTS, TIMEOUT, HostHome, RealHost, needs_hosts
from tests.hosts.scripted_model import Say, Step, use
from tests.support.platforms import PLATFORM

pytestmark = needs_hosts

EACH_HOST = pytest.mark.parametrize("real", REAL_HOSTS.values(), ids=REAL_HOSTS)


def is_claimed(answer: str) -> bool:
    """Return whether *answer* of try_claim is a grant: some hosts show the model its structured form, others its text."""
    granted = '"claimed":true' in answer or "CLAIMED: you hold" in answer
    assert granted or '"claimed":false' in answer or "HELD" in answer, answer
    return granted


@EACH_HOST
def test_it_lists_a_server_that_was_added_to_a_new_file(real: RealHost, host_home: HostHome) -> None:
    host_home.claims("install", real.name)
    assert host_home.lists_server(real)


@EACH_HOST
def test_it_lists_a_server_that_was_added_to_an_existing_file(real: RealHost, host_home: HostHome) -> None:
    host_home.write(real.existing_file)
    host_home.claims("install", real.name, "--name", "team-claims", "--dir", f"{host_home.home}/ü b")
    assert host_home.lists_server(real, "team-claims")


@pytest.mark.parametrize("name", ["claude-code", "codex", "gemini-cli"])
def test_its_own_command_adds_the_server_once_with_use_cli(name: str, host_home: HostHome) -> None:
    host_home.claims("install", name, "--use-cli")
    user = UserEnvironment(host_home.home, PLATFORM, host_home.environment)
    content, servers = read_servers(HOSTS[name], user)
    assert servers.keys() == {"claims"}
    assert host_home.claims("install", name, "--use-cli") == f"{content.path}: nothing to do\n"


def test_claude_code_runs_the_hook_at_the_end_of_a_session(host_home: HostHome, tmp_path: Path) -> None:
    host_home.claims("install", "claude-code", "--hooks", "--guard")
    settings = host_home.home / ".claude" / "settings.json"
    # A program in place of the interpreter shows with which arguments the hook runs.
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    spy.chmod(0o700)
    text = settings.read_text().replace(os.path.abspath(sys.executable), str(spy))
    settings.write_text(text)
    # Listing the servers is the shortest session that needs no model.
    host_home.lists_server(REAL_HOSTS["claude-code"])
    assert (tmp_path / "arguments").read_text() == "-P -m mcp_claims hook session-end\n"
    assert settings.read_text() == text


@EACH_HOST
def test_its_model_calls_the_tools_of_the_server_and_gets_their_answers(
    real: RealHost, host_home: HostHome, tmp_path: Path
) -> None:
    host_home.install(real, "--dir", str(tmp_path / "claims"))

    steps: list[Step] = [
        use("try_claim", key="red", note="fixing it"),
        use("release", key="red", outcome="done"),
        Say("DONE"),
    ]
    transcript = host_home.run(real, "A check failed.", lambda results: steps[len(results)])
    assert transcript.output == "DONE"
    claim, release = transcript.turns[-1].results
    assert is_claimed(claim) and "released" in release.lower()
    (listed,) = json.loads(host_home.claims("list", "--dir", str(tmp_path / "claims"), "--json"))["claims"]
    assert (listed["key"], listed["note"], listed["outcome"]) == ("red", "fixing it", "done")


# Gemini CLI and opencode take half a minute for two sessions on two cores.
@pytest.mark.parametrize("real", [REAL_HOSTS["claude-code"], REAL_HOSTS["codex"]], ids=["claude-code", "codex"])
def test_of_two_sessions_that_see_one_event_one_acts_and_the_other_reports(
    real: RealHost, host_home: HostHome, tmp_path: Path
) -> None:
    """Everything is real but the model: host, configuration, server, claims."""
    directory, acted = tmp_path / "claims", tmp_path / "acted"
    host_home.install(real, "--dir", str(directory))
    refused = threading.Event()

    def script(results: Sequence[str]) -> Step:
        if not results:
            return use("try_claim", key="acme/web#12:checks_failed", note="fixing it")
        if not is_claimed(results[0]):
            refused.set()
            return Say(f"REPORTED: {results[0]}")
        if len(results) == 1:
            # Act only once the other session was refused: after the release it could act too.
            assert refused.wait(TIMEOUT)
            return real.shell(f"echo acted >> {acted}")
        if len(results) == 2:
            return use("release", key="acme/web#12:checks_failed", outcome="done", note="fixed")
        return Say("ACTED")

    with ThreadPoolExecutor() as threads:
        sessions = [threads.submit(host_home.run, real, "The checks of acme/web#12 failed.", script) for _ in range(2)]
        winner, loser = sorted((session.result() for session in sessions), key=lambda each: each.output)
    assert winner.output == "ACTED"
    assert loser.output.startswith("REPORTED: ") and "fixing it" in loser.output and real.client in loser.output
    assert acted.read_text() == "acted\n"
    listed = json.loads(host_home.claims("list", "--dir", str(directory), "--json"))["claims"]
    assert [(each["key"], each["outcome"], each["note"]) for each in listed] == [
        ("acme/web#12:checks_failed", "done", "fixed")
    ]
