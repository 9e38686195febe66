"""The pages of `docs/`: those that are made from the code are up to date, every command in them runs, and the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mcp_claims.hosts.catalog import HOSTS
from tests.packaging.places import UV, needs_uv
from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(<!-- It runs until it is stopped\. -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
APART = {"etcd.md": "tests/docs/test_etcd_page.py"}
"""Pages whose commands need more than a project, and the test that runs them."""

PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        if "site" not in page.parts and str(page.relative_to(DOCS)) not in APART and BLOCK.search(page.read_text())
    ),
]

RUN_ELSEWHERE = {
    "python3 -m venv .venv && .venv/bin/pip install -q .": "tests/docs/test_readme.py",
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/mcp-claims demo": "tests/docs/test_readme.py",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest": ".ci/run",
    "mcp-claims demo": "tests/docs/test_readme.py",
    "python -m tests.smoke": "tests/test_smoke.py",
    "python packaging/mcpb/pack.py mcp-claims.mcpb": "tests/packaging/test_mcpb.py",
    "claude plugin marketplace add ./ && claude plugin install claims@mcp-claims": "tests/packaging/test_real_plugin.py",
    "copilot plugin marketplace add ./ && copilot plugin install claims@mcp-claims": "tests/packaging/test_real_plugin.py",
}
"""Commands that need a host, a network or a minute, and the test that runs them."""

MAKEFILE = "nightly test:\n\t@echo made $@\n"
SCRIPTS = ("repair.sh", "rename.sh", "land.sh", "deploy.sh", "serve.sh")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_what_the_code_says() -> None:
    stale = [name for name, text in generator().pages().items() if (DOCS / name).read_text() != text]
    assert not stale, "run `python docs/generate.py` and review the difference"


def test_what_is_said_to_run_elsewhere_is_there() -> None:
    assert all((ROOT / each).is_file() for each in [*RUN_ELSEWHERE.values(), *APART.values()])


def test_every_page_is_in_the_navigation() -> None:
    nav = (DOCS / "zensical.toml").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if "site" not in page.parts}
    assert {page for page in pages if f'"{page}"' not in nav} == set()


def test_every_host_has_a_page() -> None:
    assert {page.stem for page in (DOCS / "hosts").glob("*.md")} == {*HOSTS, "index"}


def test_the_table_of_variables_is_complete_and_names_no_other() -> None:
    sources = [*(ROOT / "mcp_claims").rglob("*.py"), ROOT / "packaging" / "claude-code" / "bin" / "mcp-claims"]
    used = {name for file in sources for name in re.findall(r"\bMCP_CLAIMS_[A-Z_]*[A-Z]\b", file.read_text())}
    # The first begins the names of others, the second marks the end of a text in a script of git's.
    used -= {"MCP_CLAIMS_ETCD", "MCP_CLAIMS_REFS"}
    assert set(re.findall(r"`(MCP_CLAIMS_\w+)`", (DOCS / "environment.md").read_text())) == used


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with what the commands of the pages run."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "Makefile").write_text(MAKEFILE)
    for name in SCRIPTS:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    subprocess.run([installed("git"), "init", "-q", "-b", "main"], cwd=directory, check=True)
    installed("make")
    return directory


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, project: Path, tmp_path: Path) -> None:
    environment = PYTHON_ENVIRONMENT | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
        "MCP_CLAIMS_DIR": str(tmp_path / "claims"),
    }
    for runs_on, block in BLOCK.findall(page.read_text()):
        command = block.strip()
        if command in RUN_ELSEWHERE or all(line in RUN_ELSEWHERE for line in command.splitlines()):
            continue
        if runs_on:
            _start(command, project, environment)
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=project,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr


def _start(command: str, project: Path, environment: dict[str, str]) -> None:
    """Start the server of *command*, on a port that nobody else has, and stop it once it serves."""
    *before, last = re.sub(r" --port \d+", "", command).splitlines()
    line = "\n".join([*before, f"exec {last} --port 0"])
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", line], cwd=project, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            assert server.stderr.readline().startswith("mcp-claims: serving http://")
        finally:
            server.terminate()


@needs_uv
def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    copy = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("site", ".cache"))
    done = subprocess.run(
        [f"{UV}/zensical", "build", "--strict", "-f", str(copy / "zensical.toml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (copy / "site" / "hosts" / "codex" / "index.html").is_file() and (copy / "site" / "llms.txt").is_file()
