"""Real hosts take the plugin: Claude Code from a directory and from a repository, Copilot CLI as it is."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import eventually
from tests.hosts.real_hosts import INSTALLED, REAL_HOSTS, HostHome, make_host_home, needs_hosts
from tests.hosts.scripted_model import Say, ScriptedModel, Step, scripted_model, use
from tests.packaging.places import PLUGIN, ROOT, UV, needs_uv

pytestmark = needs_hosts

CLAUDE = replace(
    REAL_HOSTS["claude-code"],
    session_command=("claude", "-p", "{prompt}", "--allowedTools", "mcp__plugin_claims_claims"),
)
COPILOT = replace(
    REAL_HOSTS["copilot-cli"], session_command=("copilot", "--silent", "--allow-tool=claims", "-p", "{prompt}")
)


@pytest.fixture
def claims(tmp_path: Path) -> FileStore:
    """The claims of the hosts."""
    return FileStore(str(tmp_path / "claims"))


@pytest.fixture
def host_home(tmp_path: Path, claims: FileStore) -> HostHome:
    """A home directory, with `mcp-claims` on the PATH behind the hosts."""
    made = make_host_home(tmp_path)
    path = f"{made.environment['PATH']}{os.pathsep}{Path(sys.executable).parent}"
    return replace(made, environment={**made.environment, "PATH": path, "MCP_CLAIMS_DIR": claims.directory})


def claim_red(results: Sequence[str]) -> Step:
    return Say(results[0]) if results else use("try_claim", key="red")


@pytest.mark.parametrize("directory", [PLUGIN, ROOT], ids=["plugin", "marketplace"])
def test_claude_code_finds_nothing_wrong_with_it(host_home: HostHome, directory: Path) -> None:
    shown = host_home.call("claude", "plugin", "validate", "--strict", str(directory))
    assert "Validation passed" in shown
    if directory == PLUGIN:
        for part in (
            "hooks: SessionEnd",
            "mcpServers: claims",
            "monitors: claims",
            "skills: claims:",
            "commands: claims:",
        ):
            assert part in shown


def test_a_session_of_claude_code_has_the_tools_in_its_first_turn(host_home: HostHome, claims: FileStore) -> None:
    (line,) = re.findall(r"^claude plugin .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    host_home.call("sh", "-c", f"cd {shlex.quote(str(ROOT))} && {line}")
    assert "claims@mcp-claims" in host_home.call("claude", "plugin", "list")
    listed = host_home.call("claude", "mcp", "list", variables={"MCP_CONNECT_TIMEOUT_MS": "60000"})
    assert re.search(r"plugin:claims:claims: .*bin/mcp-claims serve - . Connected", listed)
    with host_home.session(CLAUDE, "The checks failed.", claim_red) as session:
        first, last = session.finish().turns
    assert "mcp__plugin_claims_claims__try_claim" in first.tools
    assert '"claimed":true' in last.results[0]
    request = json.dumps(first.request)
    assert "claims:claim-before-acting" in request and "claims:claims: Show who holds what" in request


@pytest.mark.rule("X3")
def test_a_session_of_copilot_has_the_tools_and_works_in_its_project(host_home: HostHome, claims: FileStore) -> None:
    host_home.call("copilot", "plugin", "marketplace", "add", str(ROOT))
    host_home.call("copilot", "plugin", "install", "claims@mcp-claims")
    assert "claims@mcp-claims" in host_home.call("copilot", "plugin", "list")

    def script(results: Sequence[str]) -> Step:
        return Say(results[0]) if results else use("try_claim", key="file:src/a.py")

    with host_home.session(COPILOT, "Edit it.", script) as session:
        assert "CLAIMED: you hold" in session.finish().output
    # The host starts hooks, and would start the server, in the directory of the plugin.
    assert f"file:{host_home.project.resolve()}/src/a.py" in str(session.model.turns[-1].results)


@pytest.mark.rule("X1")
@needs_uv
def test_claude_code_installs_it_from_a_repository_and_runs_that_by_uvx(
    host_home: HostHome, tmp_path: Path, claims: FileStore
) -> None:
    git = shutil.which("git")
    assert git and INSTALLED
    repository = tmp_path / "github" / "acme" / "mcp-claims.git"
    subprocess.run([git, "clone", "-q", "--bare", str(ROOT), str(repository)], check=True)
    here = f'[url "file://{tmp_path}/github/"]\n' + "".join(
        f"  insteadOf = {url}\n" for url in ("https://github.com/", "git@github.com:", "ssh://git@github.com/")
    )
    host_home.write((".gitconfig", here))
    path = os.pathsep.join([f"{INSTALLED}/node_modules/.bin", UV, "/usr/bin", "/bin"])
    host_home = replace(host_home, environment={**host_home.environment, "PATH": path})
    host_home.call("claude", "plugin", "marketplace", "add", "acme/mcp-claims")
    host_home.call("claude", "plugin", "install", "claims@mcp-claims")
    with host_home.session(CLAUDE, "The checks failed.", claim_red) as session:
        last = session.finish().turns[-1]
    assert '"claimed":true' in last.results[0]
    # The launcher has noted which program uvx started, for the hooks.
    (note,) = (host_home.home / ".claude" / "plugins" / "data").glob("*/program")
    assert os.access(note.read_text().strip(), os.X_OK)


@contextmanager
def at_terminal(host_home: HostHome, model: ScriptedModel, prompt: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start Claude Code as a person does, at a terminal, which alone starts monitors."""
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    path = host_home.home / ".claude.json"
    settings = json.loads(path.read_text()) | {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": ["none"], "rejected": []},
        "projects": {str(host_home.project): trusted},
    }
    path.write_text(json.dumps(settings))
    variables = {name: value.replace("{url}", model.url) for name, value in CLAUDE.variables.items()}
    # With that variable there are no monitors; these are what it stands for.
    del variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"]
    variables |= dict.fromkeys(["DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING"], "1")
    variables |= {"CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1", "TERM": "xterm"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    host = subprocess.Popen(
        ["claude", "--allowedTools", "mcp__plugin_claims_claims", "--", prompt],
        env={**host_home.environment, **variables},
        cwd=host_home.project,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    reader = threading.Thread(target=_drain, args=(ours,))
    reader.start()
    try:
        yield host
    finally:
        with suppress(ProcessLookupError):
            os.killpg(host.pid, signal.SIGKILL)
        host.wait()
        reader.join()
        os.close(ours)


def _drain(terminal: int) -> None:
    """Read what the host draws, until it has ended: it would wait for a terminal that is full."""
    with suppress(OSError):
        while os.read(terminal, 65_536):
            pass


@pytest.mark.rule("X5")
def test_an_idle_session_of_claude_code_learns_that_it_is_its_turn_and_acts(
    host_home: HostHome, claims: FileStore
) -> None:
    """The model ignores the answer of its call, ends its turn, and is woken by a line of the monitor."""
    host_home.call("claude", "plugin", "marketplace", "add", str(ROOT))
    host_home.call("claude", "plugin", "install", "claims@mcp-claims")
    idle, acted = threading.Event(), threading.Event()

    def script(results: Sequence[str]) -> Step:
        if not results:
            return use("try_claim", key="turn", wait_seconds=120)
        if len(results) == 1 and not idle.is_set():
            assert '"status":"your_turn"' in results[0], results
            idle.set()
            return Say("I do something else.")
        if len(results) == 1:
            return use("try_claim", key="turn")
        assert '"status":"acquired"' in results[1], results
        acted.set()
        return Say("ACTED")

    with process_session(claims) as stranger, scripted_model(script) as model:
        assert stranger.try_claim("turn").claimed
        with at_terminal(host_home, model, "Deploy.") as host:
            eventually(lambda: claims.tickets("default") and monitors_of(host))
            (monitor,) = monitors_of(host)
            stranger.release("turn")
            eventually(lambda: acted.is_set() or model.failure)
            assert model.failure is None
            woken_by = next(
                turn for turn in model.turns if turn.step == use("mcp__plugin_claims_claims__try_claim", key="turn")
            )
            assert 'your turn: \\"turn\\" (namespace' in json.dumps(woken_by.request["messages"])
    eventually(lambda: not monitor.is_running())


def monitors_of(host: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(host.pid).children(recursive=True):
        with suppress(psutil.Error):  # It has ended meanwhile.
            if each.cmdline()[-1:] == ["monitor"] and "bash" not in each.name():
                found.append(each)
    return found
