"""The files of Claude Code's plugin say what they should, and its launcher becomes the right program.  Runs no host."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts.entries import CALL_SECONDS, claude_code, parse_entry
from mcp_claims.stores.config import DIRECTORY_VARIABLE
from tests.packaging.places import LAUNCHER, PLUGIN, ROOT, UV, needs_uv

RUN = '"${CLAUDE_PLUGIN_ROOT}/bin/mcp-claims"'
SHELLS = [path for name in ("sh", "bash", "busybox") if (path := shutil.which(name))]
EDITS = {"Edit", "MultiEdit", "Write", "NotebookEdit", "Bash"}


def read(name: str) -> Any:
    return json.loads((PLUGIN / name).read_text())


def frontmatter(file: Path) -> dict[str, str]:
    found = re.match(r"---\n(.*?)\n---\n", file.read_text(), re.DOTALL)
    assert found
    return dict(line.split(": ", 1) for line in found[1].splitlines())


def test_the_marketplace_at_the_top_of_the_repository_has_the_plugin() -> None:
    marketplace = json.loads((ROOT / ".claude-plugin" / "marketplace.json").read_text())
    (plugin,) = marketplace["plugins"]
    assert (ROOT / plugin["source"]).resolve() == PLUGIN.resolve()
    manifest = read(".claude-plugin/plugin.json")
    assert {name: plugin[name] for name in manifest} == manifest


@pytest.mark.rule("X3")
def test_the_server_has_the_entry_that_install_makes() -> None:
    (entry,) = read(".mcp.json")["mcpServers"].values()
    launch = parse_entry(entry)
    assert launch is not None
    made = claude_code(launch)
    assert entry == {**made.required, **made.defaults, "timeout": CALL_SECONDS * 1000, "cwd": entry["cwd"]}
    assert [launch.command, *launch.arguments] == [RUN.strip('"'), "serve"]
    # All hosts share one directory, so the plugin chooses none.
    assert DIRECTORY_VARIABLE not in json.dumps(entry)


def test_the_guard_hears_of_edits_commands_claims_and_ends() -> None:
    hooks = read("hooks/hooks.json")["hooks"]
    assert hooks.keys() == {
        *("PreToolUse", "PostToolUse", "PostToolUseFailure", "UserPromptSubmit"),
        *("SessionStart", "Stop", "SubagentStop", "SessionEnd"),
    }
    for event, (group,) in hooks.items():
        (hook,) = group["hooks"]
        assert hook["command"] == f"{RUN} hook guard --host claude-code"
        assert hook["timeout"] == (10 if event in ("Stop", "SubagentStop", "SessionEnd") else 5)
        matcher = group.get("matcher", "")
        if not event.endswith(("ToolUse", "ToolUseFailure")):
            assert matcher == ""
            continue
        assert all(re.fullmatch(matcher, tool) for tool in EDITS)
        assert not any(re.fullmatch(matcher, tool) for tool in ("Read", "Grep", "mcp__docs__try_claim", "Agent"))
        # The first is what Claude Code calls the tool, the second Copilot.
        tools = ("mcp__plugin_claims_claims__try_claim", "claims-is_claimed_by_other")
        assert all(bool(re.fullmatch(matcher, tool)) is (event == "PreToolUse") for tool in tools)


@pytest.mark.rule("X4")
def test_skill_and_command_have_names_of_their_own_and_are_short() -> None:
    """In the real host the command hides a skill of its name."""
    (skill,) = (PLUGIN / "skills").glob("*/SKILL.md")
    (command,) = (PLUGIN / "commands").glob("*.md")
    assert frontmatter(skill)["name"] == skill.parent.name != command.stem == "claims"
    assert len(frontmatter(skill)["description"]) <= 1_024 and frontmatter(command)["description"]
    assert len(skill.read_text().splitlines()) <= 80


def test_what_the_skill_names_exists() -> None:
    (skill,) = (PLUGIN / "skills").glob("*/SKILL.md")
    snapshots = ROOT / "tests" / "server" / "snapshots"
    arguments = json.loads((snapshots / "try_claim.json").read_text())["inputSchema"]["properties"]
    text = skill.read_text()
    for name in ("also", "or_else", "shared", "slots", "keep_alive", "wait_seconds", "note", "redo"):
        assert name in arguments and f"`{name}" in text
    tools = {file.stem for file in snapshots.glob("*.json")}
    assert set(re.findall(r"`(\w+_\w+)\(", text)) <= tools


def test_the_monitor_runs_for_the_whole_session() -> None:
    (monitor,) = read("monitors/monitors.json")
    assert monitor["command"] == f"{RUN} monitor"
    assert monitor.get("when", "always") == "always" and monitor["name"] and monitor["description"]


class Place:
    """A copy of the plugin, and directories for programs; each program prints its path and arguments."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.home = directory, directory / "home"
        self.home.mkdir()

    def program(self, *parts: str) -> Path:
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!{SHELLS[0]}\necho "{path}" "$@"\n')
        path.chmod(0o755)
        return path

    def plugin(self, *parts: str) -> Path:
        """Copy the plugin; return its launcher."""
        directory = self.directory.joinpath(*parts)
        shutil.copytree(PLUGIN, directory)
        return directory / LAUNCHER.relative_to(PLUGIN)

    def repository(self, *parts: str) -> Path:
        directory = self.directory.joinpath(*parts)
        for name in ("mcp_claims/__main__.py", "pyproject.toml"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).touch()
        return directory

    def run(
        self, shell: str, launcher: Path, *arguments: str, path: str = "path", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run *launcher* with nothing on the PATH but the directory *path*, so that it can start nothing else."""
        environment = {"PATH": str(self.directory / path), "HOME": str(self.home), **variables}
        command = [shell, *(["sh"] if shell.endswith("busybox") else []), str(launcher), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    # A blank and a character of the shell, as directories may have.
    directory = tmp_path / "a b*"
    directory.mkdir()
    return Place(directory)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell that may be `sh` in turn."""
    return str(request.param)


def becomes(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.removesuffix("\n")


@pytest.mark.rule("X1")
def test_the_launcher_takes_the_first_that_is_there(place: Place, shell: str) -> None:
    """From the least wanted to the most."""
    launcher = place.plugin("repository", "packaging", "claude-code")
    uvx = place.program("path", "uvx")
    assert becomes(place.run(shell, launcher, "x", "y z")) == f"{uvx} --quiet --from mcp-claims mcp-claims x y z"
    repository = place.repository("repository")
    assert becomes(place.run(shell, launcher, "x")) == f"{uvx} --quiet --from {repository} mcp-claims x"
    installed = place.program("repository", ".venv", "bin", "mcp-claims")
    assert becomes(place.run(shell, launcher, "x")) == f"{installed} x"
    local = place.program("home", ".local", "bin", "mcp-claims")
    assert becomes(place.run(shell, launcher, "x")) == f"{local} x"
    on_path = place.program("path", "mcp-claims")
    assert becomes(place.run(shell, launcher, "x")) == f"{on_path} x"
    chosen = place.program("own", "claims")
    assert becomes(place.run(shell, launcher, "x", MCP_CLAIMS_COMMAND=str(chosen))) == f"{chosen} x"
    words = f"{SHELLS[0]} -c true"
    assert becomes(place.run(shell, launcher, "x", MCP_CLAIMS_COMMAND=words)) == ""


@pytest.mark.rule("X1")
def test_a_plugin_in_the_hosts_cache_runs_from_the_hosts_clone(place: Place, shell: str) -> None:
    launcher = place.plugin("plugins", "cache", "market", "claims", "0.1.0")
    uvx, clone = place.program("home", ".local", "bin", "uvx"), place.repository("plugins", "marketplaces", "market")
    assert becomes(place.run(shell, launcher, "x")) == f"{uvx} --quiet --from {clone} mcp-claims x"


@pytest.mark.rule("X2")
def test_launchers_never_start_each_other(place: Place, shell: str) -> None:
    """The host puts the directory of each launcher on the PATH of its agents' commands."""
    one, two = place.plugin("one", "p"), place.plugin("two", "p")
    program = place.program("path", "mcp-claims")
    paths = ":".join(["", str(one.parent), str(two.parent), str(program.parent)])
    done = place.run(shell, one, "x", path="none" + paths)
    assert becomes(done) == f"{program} x"


@pytest.mark.rule("X1")
def test_hooks_use_the_program_that_uvx_has_found_for_the_server(place: Place, shell: str) -> None:
    launcher, data = place.plugin("p", "q", "r"), place.directory / "data"
    data.mkdir()
    found = place.program("cache", "mcp-claims")
    uvx = place.program("path", "uvx")
    # As uvx does, which puts its environment on the PATH and becomes the command.
    uvx.write_text(f'#!{SHELLS[0]}\nshift 3\nPATH="{found.parent}:/usr/bin:/bin"\nexec "$@"\n')
    variables = {"CLAUDE_PLUGIN_DATA": str(data)}
    assert becomes(place.run(shell, launcher, "serve", "--label", "a b", **variables)) == f"{found} serve --label a b"
    assert [path.name for path in data.iterdir()] == ["program"]
    uvx.unlink()
    assert becomes(place.run(shell, launcher, "hook", "guard", **variables)) == f"{found} hook guard"
    found.unlink()
    assert place.run(shell, launcher, "hook", "guard", **variables).returncode == 127


@pytest.mark.rule("X1")
def test_a_hook_that_fails_denies_nothing_in_copilot(place: Place, shell: str) -> None:
    program = place.program("path", "mcp-claims")
    program.write_text(program.read_text() + "echo wrong >&2\nexit 1\n")
    launcher = place.plugin("p", "q", "r")
    for command, variables, code, host in (
        ("hook", {}, 1, ""),
        ("hook", {"COPILOT_CLI": "1"}, 0, " --host copilot-cli"),
        # Claude Code that runs in a shell of Copilot.
        ("hook", {"COPILOT_CLI": "1", "CLAUDE_CODE_SESSION_ID": "x"}, 1, ""),
        ("list", {"COPILOT_CLI": "1"}, 1, ""),
    ):
        done = place.run(shell, launcher, command, "a b", **variables)
        assert (done.returncode, done.stdout, done.stderr) == (code, f"{program} {command} a b{host}\n", "wrong\n")


@pytest.mark.rule("X1")
@pytest.mark.parametrize(
    ("arguments", "variables", "code"),
    [
        (["serve"], {}, 127),
        (["hook", "guard"], {}, 127),
        # Copilot would take it for a denial of each edit.
        (["hook", "guard"], {"COPILOT_CLI": "1"}, 0),
    ],
)
def test_without_any_program_it_says_what_to_install(
    place: Place, shell: str, arguments: list[str], variables: Mapping[str, str], code: int
) -> None:
    done = place.run(shell, place.plugin("p", "q", "r"), *arguments, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1 and "Install uv" in done.stderr and "MCP_CLAIMS_COMMAND" in done.stderr


@pytest.mark.rule("X1")
@needs_uv
def test_in_a_clone_uvx_runs_the_clone(place: Place) -> None:
    git = shutil.which("git")
    assert git
    clone = place.directory / "clone"
    subprocess.run([git, "clone", "-q", str(ROOT), str(clone)], check=True)
    launcher = clone / LAUNCHER.relative_to(ROOT)
    assert os.access(launcher, os.X_OK)
    changed = clone / "mcp_claims" / "__init__.py"
    for version in ("7.0", "7.1"):
        # What uv has built before must not hide the change.
        changed.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', changed.read_text()))
        done = subprocess.run(
            [launcher, "--version"],
            env=os.environ | {"PATH": f"{UV}:/usr/bin:/bin", "HOME": str(place.home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == (f"mcp-claims {version}\n", "")
