"""Real hosts wait for a key: a call that its user interrupts leaves nothing behind, and a turn is taken and acted on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.stores.files.store import FileStore
from tests.hosts.real_hosts import REAL_HOSTS, TIMEOUT, HostHome, needs_hosts
from tests.hosts.scripted_model import Say, Step, scripted_model, use

pytestmark = needs_hosts

WAIT = use("try_claim", key="red", wait_seconds=300)


def until(condition: Callable[[], object], within: float = TIMEOUT) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.rule("V8")
def test_claude_code_waits_is_told_that_it_is_its_turn_takes_it_and_acts(host_home: HostHome, tmp_path: Path) -> None:
    directory, acted = tmp_path / "claims", tmp_path / "acted"
    real, store = REAL_HOSTS["claude-code"], FileStore(str(directory))
    host_home.install(real, "--allow", "--dir", str(directory))
    loop = [
        WAIT,
        use("try_claim", key="red"),
        real.shell(f"echo acted >> {acted}"),
        use("release", key="red", outcome="done"),
    ]

    def script(results: Sequence[str]) -> Step:
        return loop[len(results)] if len(results) < len(loop) else Say("done")

    with process_session(store) as holder:
        assert holder.try_claim("red").claimed
        with host_home.session(real, "The checks failed.", script) as session:
            until(lambda: store.tickets("default"))
            holder.release("red")
            results = session.finish().turns[-1].results
        assert '"status":"your_turn"' in results[0] and "call try_claim again" in results[0]
        assert '"status":"acquired"' in results[1]
        assert acted.read_text() == "acted\n"
        assert holder.try_claim("red").status is Status.DONE


class CodexThread:
    """A conversation with real Codex, as an editor has it: the process stays when a turn is interrupted."""

    def __init__(self, home: HostHome, url: str) -> None:
        settings = [word.replace("{url}", url) for word in REAL_HOSTS["codex"].session_command if "=" in word]
        options = [part for setting in settings for part in ("-c", setting)]
        self.process = subprocess.Popen(
            ["codex", "app-server", *options],
            env=dict(home.environment),
            cwd=home.project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        client = {"name": "editor", "title": "Editor", "version": "1"}
        self.ask("initialize", clientInfo=client)
        self._send({"method": "initialized"})
        started = self.ask("thread/start", cwd=str(home.project), approvalPolicy="never", sandbox="danger-full-access")
        self._thread = started["thread"]["id"]

    def begin_turn(self, prompt: str) -> None:
        """Let the model work on *prompt*."""
        turn = self.ask("turn/start", threadId=self._thread, input=[{"type": "text", "text": prompt}])
        self._turn = turn["turn"]["id"]

    def interrupt(self) -> None:
        """Interrupt what the model does, as its user does with Escape."""
        self.ask("turn/interrupt", threadId=self._thread, turnId=self._turn)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a request."""
        self._send({"id": method, "method": method, "params": params})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == method:
                assert "result" in message, message
                result: dict[str, Any] = message["result"]
                return result
        pytest.fail(f"Codex has ended before it answered {method}")

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


@pytest.mark.rule("V8")
def test_codex_that_is_interrupted_in_a_wait_leaves_nothing_behind(host_home: HostHome, tmp_path: Path) -> None:
    """Whether it sends a cancellation or not (0.171 does), a wait that nobody reads costs the others a minute at most."""
    directory = tmp_path / "claims"
    store = FileStore(str(directory))
    host_home.install(REAL_HOSTS["codex"], "--dir", str(directory))
    with process_session(store) as holder, process_session(store) as stranger:
        assert holder.try_claim("red").claimed
        with scripted_model(lambda results: Say("so be it") if results else WAIT) as model:
            codex = CodexThread(host_home, model.url)
            try:
                codex.begin_turn("The checks failed.")
                until(lambda: store.tickets("default"))
                codex.interrupt()
                holder.release("red")
                released = time.monotonic()
                until(lambda: stranger.try_claim("red").claimed, 70)
                print(f"Codex, interrupted: free {time.monotonic() - released:.1f} s after the release")
                assert time.monotonic() - released <= 65
                assert codex.process.poll() is None
                until(lambda: not [each for each in store.tickets("default") if not each.lapsed])
            finally:
                os.killpg(codex.process.pid, 9)
                codex.process.communicate()
