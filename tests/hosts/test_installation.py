"""What an entry starts: this interpreter, or uvx where that has made the environment; and whether that lasts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.doctor.hosts import check_hosts
from mcp_claims.hosts import UserEnvironment, installation
from tests.hosts.conftest import Run
from tests.support.platforms import PLATFORM

MARK = "Signature: 8a477f597d28d172789f06886806bc55"
ORIGIN = "https://example.com/claims.git"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything is: nothing temporary for the program, although pytest's directory is."""
    monkeypatch.setattr(installation, "_TEMPORARY", ())
    monkeypatch.delenv("TMPDIR", raising=False)
    return tmp_path


def installed_in(directory: Path, monkeypatch: pytest.MonkeyPatch, *, by_uv: bool = False) -> None:
    """Pretend that this interpreter and the package are in an environment in *directory*."""
    (directory / "bin").mkdir(parents=True)
    (directory / "pyvenv.cfg").write_text("home = /usr/bin\n" + ("uv = 0.9.11\n" if by_uv else ""))
    monkeypatch.setattr(sys, "prefix", str(directory))
    monkeypatch.setattr(sys, "executable", str(directory / "bin" / "python"))
    monkeypatch.setattr(installation, "__file__", str(directory / "lib" / "mcp_claims" / "hosts" / "installation.py"))


def uv_cache(place: Path, monkeypatch: pytest.MonkeyPatch, *, uvx: bool = True) -> Path:
    """Pretend to be run by uvx, from its cache in a directory of any name; return where uvx is."""
    (place / "uv").mkdir()
    (place / "uv" / "CACHEDIR.TAG").write_text(MARK)
    installed_in(place / "uv" / "archive-v0" / "f3", monkeypatch, by_uv=True)
    program = place / "tools" / "uvx"
    program.parent.mkdir()
    if uvx:
        program.write_text("#!/bin/sh\n")
        program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/nonexistent")
    return program


def entry(home: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((home / ".claude.json").read_text())["mcpServers"]["claims"]
    return read


@pytest.mark.rule("H6")
def test_an_environment_in_the_cache_of_uv_is_started_by_uvx(
    place: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvx = uv_cache(place, monkeypatch)
    monkeypatch.setattr(installation, "_source", lambda: None)
    code, output = run("install", "claude-code", "--guard")
    assert code == 0 and "Warning" not in output
    assert (entry(home)["command"], entry(home)["args"][:2]) == (str(uvx), ["mcp-claims", "serve"])
    settings = home / ".claude" / "settings.json"
    hook = json.loads(settings.read_text())["hooks"]["PreToolUse"][0]["hooks"][0]
    assert (hook["command"], hook["args"][:3]) == (str(uvx), ["mcp-claims", "hook", "guard"])
    before = settings.read_text()
    assert run("install", "claude-code", "--guard")[1].count("nothing to do") == 2, "its hooks are known again"
    assert settings.read_text() == before
    run("uninstall", "claude-code")
    assert not settings.exists()


@pytest.mark.parametrize(
    ("origin", "options", "chosen"),
    [
        (None, ["--store", "etcd://one:2379/fleet"], ["mcp-claims"]),
        (
            {"url": "file:///src/claims", "dir_info": {}},
            [],
            ["--from", "mcp-claims @ file:///src/claims", "mcp-claims"],
        ),
        (
            {"url": ORIGIN, "vcs_info": {"vcs": "git", "commit_id": "3f2a91c"}},
            [],
            ["--from", f"mcp-claims @ git+{ORIGIN}@3f2a91c", "mcp-claims"],
        ),
    ],
)
def test_uvx_is_told_what_to_install(
    origin: dict[str, Any] | None,
    options: list[str],
    chosen: list[str],
    place: Path,
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if origin is None or name != "direct_url.json" else json.dumps(origin)

    uv_cache(place, monkeypatch)
    monkeypatch.setattr(installation, "distribution", lambda name: Installed())
    run("install", "claude-code", *options)
    arguments = entry(home)["args"]
    assert arguments[: arguments.index("serve")] == chosen


@pytest.mark.rule("H6")
def test_what_may_be_gone_soon_is_installed_with_a_warning(
    place: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def output(directory: Path) -> str:
        installed_in(directory, monkeypatch)
        code, printed = run("install", "claude-code")
        assert code == 0 and entry(home)["command"] == str(directory / "bin" / "python")
        return printed

    assert "Warning" not in output(place / "venv")
    assert "in a cache" in output(place / "home" / ".cache" / "pipx" / "6c7e")
    (place / "clone" / ".git").mkdir(parents=True)
    assert f"{place / 'clone'}, a clone: keep that" in output(place / "clone" / ".venv")
    (place / "clone" / "pyproject.toml").touch()
    assert f"`pipx install {place / 'clone'}`" in output(place / "clone" / "venv")
    monkeypatch.setenv("TMPDIR", str(place / "t"))
    assert "temporary" in output(place / "t" / "venv")
    # Somewhere that lasts, with the package in a clone: installed with `pip install -e`.
    installed_in(place / "lasting", monkeypatch)
    monkeypatch.setattr(installation, "__file__", str(place / "clone" / "mcp_claims" / "hosts" / "installation.py"))
    assert "a clone: keep that" in run("install", "claude-code")[1]


def test_without_uvx_on_the_path_its_cache_is_warned_of(
    place: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv_cache(place, monkeypatch, uvx=False)
    assert "in a cache" in run("install", "claude-code")[1]
    assert entry(home)["command"] == sys.executable


def test_an_environment_that_uv_has_made_elsewhere_is_not_in_its_cache(
    place: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv_cache(place, monkeypatch)
    installed_in(place / "project" / ".venv", monkeypatch, by_uv=True)
    (place / "project" / ".venv" / "CACHEDIR.TAG").write_text(MARK)  # As `uv venv` does.
    assert "Warning" not in run("install", "claude-code")[1]
    assert entry(home)["command"] == sys.executable


def test_an_interpreter_that_is_not_known_is_refused(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    code, output = run("install", "claude-code")
    assert code == 2 and "interpreter" in output and list(home.iterdir()) == []


def test_doctor_knows_a_server_that_uvx_starts(
    place: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv_cache(place, monkeypatch)
    run("install", "claude-code")
    (finding,) = check_hosts(UserEnvironment(home, PLATFORM, {"HOME": str(home)}), 30)
    assert finding.what.startswith("configured as 'claims'")
