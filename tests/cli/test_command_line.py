"""The command `mcp-claims`: its version, exit codes, and what it refuses."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import mcp_claims
from mcp_claims.cli.main import COMMANDS, build_parser
from tests.support.servers import PYTHON_ENVIRONMENT


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_claims", *arguments],
        env=PYTHON_ENVIRONMENT | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"mcp-claims {mcp_claims.__version__}\n"


def test_help_lists_the_commands_without_importing_any() -> None:
    code = (
        "import sys; from mcp_claims.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=PYTHON_ENVIRONMENT, capture_output=True, text=True, check=True
    )
    shown = " ".join(done.stdout.split())
    for name, (module, summary) in COMMANDS.items():
        assert f" {name} {summary}" in shown
        assert f"mcp_claims.cli.{module}" not in done.stderr.split()
    assert {"mcp_claims.hosts", "rich", "mcp"}.isdisjoint(done.stderr.split())


def test_an_option_that_a_command_lacks_is_refused_with_those_that_it_has() -> None:
    done = run("history", "red", "--key", "red")
    assert done.returncode == 2 and not done.stdout
    assert "usage: mcp-claims history" in done.stderr and "--since" in done.stderr
    assert done.stderr.endswith("error: unrecognized arguments: --key red\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_parser_with_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        build_parser(name).parse_args([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: mcp-claims {name} " in shown
    assert COMMANDS[name][1][1:] in shown
    assert "example" in shown or "exit codes" in shown


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        pytest.param("mcp-claims un", {"uninstall"}, id="command"),
        pytest.param("mcp-claims check red --gen", {"--generation"}, id="option"),
        pytest.param("mcp-claims install open", {"opencode"}, id="host"),
    ],
)
def test_a_shell_completes_commands_options_and_hosts(tmp_path: Path, line: str, completions: set[str]) -> None:
    output = tmp_path / "completions"
    completing = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(output), "_ARGCOMPLETE_IFS": "\n"}
    run(env=completing | {"COMP_LINE": line, "COMP_POINT": str(len(line))})
    assert {each.strip() for each in output.read_text().split("\n")} == completions


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("serve", "--nonsense")])
def test_wrong_usage_exits_with_2_and_says_so_on_stderr(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: mcp-claims" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "name"),
    [
        pytest.param(("serve", "--dir", "claims"), {}, "--dir", id="relative option"),
        pytest.param(("serve", "--dir", ""), {}, "--dir", id="empty option"),
        pytest.param(("serve",), {"MCP_CLAIMS_DIR": "claims"}, "MCP_CLAIMS_DIR", id="relative variable"),
        pytest.param(("serve",), {"MCP_CLAIMS_DIR": ""}, "MCP_CLAIMS_DIR", id="empty variable"),
    ],
)
def test_a_directory_that_depends_on_where_the_host_starts_the_server_is_refused(
    arguments: tuple[str, ...], env: dict[str, str], name: str
) -> None:
    done = run(*arguments, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mcp-claims: {name} must be an absolute path")


def test_serving_ends_at_once_when_nobody_is_there(tmp_path: Path) -> None:
    done = run("serve", "--dir", str(tmp_path / "claims"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "claims").exists()


def test_serving_at_a_terminal_says_what_it_is_for(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "mcp_claims", "serve", "--dir", str(tmp_path / "claims")],
            env=PYTHON_ENVIRONMENT,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None and b"mcp-claims install HOST" in process.stderr.readline()
            os.write(ours, b"\x04")
            assert process.communicate(timeout=60) == (b"", b"")
    finally:
        os.close(ours)
        os.close(theirs)
