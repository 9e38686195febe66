"""Real hosts read what `install` has written, start the server, and call its tools."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcp_claims.hosts import HOSTS, UserEnvironment, read_servers
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import eventually
from tests.hosts.real_hosts import REAL_HOSTS, TIMEOUT, HostHome, RealHost, needs_hosts
from tests.hosts.scripted_model import Say, Step, use
from tests.support.platforms import PLATFORM
from tests.support.servers import has_imported_the_sdk

pytestmark = needs_hosts

# Those that need a permission; Codex and opencode ask for none unless their settings say so.
UNATTENDED = [name for name in REAL_HOSTS if (allowed := HOSTS[name].permission) and allowed.unattended]
EACH_HOST = pytest.mark.parametrize("real", REAL_HOSTS.values(), ids=REAL_HOSTS)


def is_claimed(answer: str) -> bool:
    """Return whether *answer* of try_claim is a grant: some hosts show the model its structured form, others its text."""
    granted = any(each in answer for each in ('"claimed":true', "CLAIMED: you hold", "RENEWED: you have held"))
    assert granted or '"claimed":false' in answer or "HELD" in answer, answer
    return granted


@EACH_HOST
def test_it_lists_a_server_that_was_added_to_an_existing_file(real: RealHost, host_home: HostHome) -> None:
    host_home.write(real.existing_file)
    host_home.claims("install", real.name, "--name", "team-claims", "--dir", f"{host_home.home}/ü b")
    assert host_home.lists_server(real, "team-claims")


@pytest.mark.parametrize("name", ["claude-code", "codex", "copilot-cli", "gemini-cli"])
def test_its_own_command_adds_the_server_once_with_use_cli(name: str, host_home: HostHome) -> None:
    host_home.claims("install", name, "--use-cli")
    user = UserEnvironment(host_home.home, PLATFORM, host_home.environment)
    content, servers = read_servers(HOSTS[name], user)
    assert servers.keys() == {"claims"}
    assert host_home.claims("install", name, "--use-cli") == f"{content.path}: nothing to do\n"


@pytest.mark.rule("Q1")
@EACH_HOST
def test_of_two_sessions_one_acts_and_what_it_holds_is_free_as_soon_as_it_is_killed(
    real: RealHost, host_home: HostHome, tmp_path: Path
) -> None:
    """Everything is real but the model: host, configuration, permission, server, claims.

    All that the host sends is plain: the server that has served the loop to its end has not imported the SDK.
    The model has to have `try_claim` in its first turn, and may call it, by `install --allow` alone.
    """
    directory, acted = tmp_path / "claims", tmp_path / "acted"
    host_home.install(real, "--allow", "--dir", str(directory))
    # It also lets the host make its own files: two that do so at once can fail.
    assert host_home.lists_server(real)
    act = tmp_path / "act"
    act.write_text(f"#!/bin/sh\necho acted >> {acted}\n")
    act.chmod(0o700)
    refused, holding, killed = threading.Event(), threading.Event(), threading.Event()
    other = process_session(FileStore(str(directory)))
    assert other.try_claim("busy").claimed
    event = {"key": "acme/web#12:checks_failed@3f2a91c"}
    loop = [
        use("try_claim", **event, note="fixing it"),
        real.shell(str(act)),
        use("is_claimed_by_other", **event, generation=1),
        use("try_claim", **event),
        use("try_claim", key="busy", wait_seconds=0.2),
        use("list_claims", mine=True),
        use("release", **event, outcome="done", note="fixed"),
        use("try_claim", key="next"),
    ]

    def script(results: Sequence[str]) -> Step:
        if not results:
            return loop[0]
        if not is_claimed(results[0]):
            refused.set()
            return Say(f"REPORTED: {results[0]}")
        if len(results) == 1:
            # Act only once the other session was refused: after the release it could act too.
            assert refused.wait(TIMEOUT)
        if len(results) < len(loop):
            return loop[len(results)]
        assert [is_claimed(results[each]) for each in (3, 4, 7)] == [True, False, True]
        assert "released" in results[6].lower()
        holding.set()
        assert killed.wait(TIMEOUT)
        return Say("killed")

    prompt = "The checks of acme/web#12 failed."
    with host_home.session(real, prompt, script) as one, host_home.session(real, prompt, script) as two:
        while not holding.wait(0.1):
            for each in (one, two):
                assert each.model.failure is None, each.model.failure
                assert each.process.poll() in (None, 0), each.process.communicate()
            assert None in (one.process.poll(), two.process.poll()), (one.model.turns, two.model.turns)
        winner, loser = sorted((one, two), key=lambda each: -len(each.model.turns[-1].results))
        reported = loser.finish().output
        assert reported.startswith("REPORTED: ") and "fixing it" in reported and real.client in reported
        kept = other.try_claim("next")
        assert not kept.claimed and isinstance(kept.found, Claim)
        try:
            server = kept.found.holder.pid
            # Of Qwen Code, too, which reads the page of the board after `list_claims`.
            assert not has_imported_the_sdk(server), "the host has sent something that is not plain"
            winner.kill_host_of(server)
            since = time.monotonic()
            while not other.try_claim("next").claimed:
                assert time.monotonic() < since + 30
                time.sleep(0.01)
            print(f"{real.name}: free {time.monotonic() - since:.2f} s after the host was killed")
        finally:
            killed.set()
    assert acted.read_text() == "acted\n"
    listed = json.loads(host_home.claims("list", "--dir", str(directory), "--json"))["claims"]
    done = next(each for each in listed if each["key"].startswith("acme"))
    assert (done["outcome"], done["note"]) == ("done", "fixed")


@pytest.mark.rule("L11")
def test_an_idle_session_goes_on_when_its_wait_in_the_background_ends(host_home: HostHome, tmp_path: Path) -> None:
    """The host wakes its model when a background command ends; the model then claims by its own session."""
    real, directory = REAL_HOSTS["claude-code"], tmp_path / "claims"
    host_home.install(real, "--allow", "--dir", str(directory))
    assert host_home.lists_server(real)
    other = process_session(FileStore(str(directory)))
    assert other.try_claim("deploy").claimed
    # The limit ends it if the test fails.
    wait = f"{shlex.quote(sys.executable)} -m mcp_claims wait deploy --timeout 10m --dir {shlex.quote(str(directory))}"
    idle = threading.Event()
    woken: list[float] = []

    def script(results: Sequence[str]) -> Step:
        if not results:
            return use("Bash", command=wait, description="Wait", run_in_background=True)
        if len(results) == 1 and not idle.is_set():
            (output,) = re.findall(r"Output is being written to: (\S+\.output)", results[0])
            eventually(lambda: "waiting" in Path(output).read_text())
            return Say("I go on when it is free.")
        if len(results) == 1:
            woken.append(time.monotonic())
            return use("try_claim", key="deploy")
        assert is_claimed(results[1])
        return Say("ACTED")

    with host_home.session(real, "Deploy after the others.", script, stays_open=True) as session:
        assert session.end_turn() == "I go on when it is free."
        idle.set()
        released = time.monotonic()
        assert other.release("deploy").released
        assert session.end_turn() == "ACTED"
        assert "completed (exit code 0)" in json.dumps(session.model.turns[-1].request["messages"])
        assert session.model.failure is None
    assert released < woken[0] < released + 30
    print(f"woken {woken[0] - released:.2f} s after the release")


@pytest.mark.rule("H10")
@pytest.mark.parametrize("name", UNATTENDED)
def test_without_the_permission_its_unattended_run_is_refused_the_tools(
    name: str, host_home: HostHome, tmp_path: Path
) -> None:
    host_home.install(REAL_HOSTS[name], "--dir", str(tmp_path / "claims"))

    def script(results: Sequence[str]) -> Step:
        return Say("DENIED") if results else use("try_claim", key="red")

    with host_home.session(REAL_HOSTS[name], "A check failed.", script) as session:
        session.process.communicate(timeout=TIMEOUT)
    assert session.model.turns
    assert not (tmp_path / "claims" / "default" / "red.json").exists()
