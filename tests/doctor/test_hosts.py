"""`mcp-claims doctor --hosts`: which hosts are configured, and does what they would start answer?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcp_claims.doctor import Finding, Level
from mcp_claims.doctor.hosts import examine_hosts
from mcp_claims.hosts import HOSTS, Launch, Surroundings, install
from tests.support.servers import PYTHON_ENVIRONMENT

SERVER = Launch(sys.executable, ("-P", "-m", "mcp_claims", "serve"))


@pytest.fixture
def where(tmp_path: Path) -> Surroundings:
    return Surroundings(tmp_path, "linux", {**PYTHON_ENVIRONMENT, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""})


def found(where: Surroundings, patience: float = 30) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine_hosts(where, patience)}


def told(where: Surroundings, *arguments: str, host: str = "cursor") -> None:
    """Let *host* start a Python of ours with *arguments* as if that were the server."""
    install(HOSTS[host], where, "claims", Launch(sys.executable, (*arguments, "mcp_claims"))).write()


def test_hosts_without_a_file_are_not_spoken_of(where: Surroundings) -> None:
    (finding,) = examine_hosts(where)
    assert finding.level is Level.OK and "mcp-claims install HOST" in finding.what


def test_it_says_which_are_configured_and_that_the_server_starts_and_answers(
    where: Surroundings, tmp_path: Path
) -> None:
    for host in ("codex", "continue", "opencode"):
        install(HOSTS[host], where, "claims", SERVER).write()
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor" / "mcp.json").write_text('{"mcpServers": {"docs": {"url": "https://example.com"}}}')
    findings = found(where)
    assert findings.keys() == {"host codex", "host continue", "host opencode", "host cursor"}
    assert {finding.level for finding in findings.values()} <= {Level.OK, Level.WARNING}
    for host in ("codex", "continue", "opencode"):
        path = HOSTS[host].file(where)
        assert findings[f"host {host}"].what.startswith(f"configured as 'claims' in {path}; starts and answers in ")
        assert findings[f"host {host}"].what.endswith(" ms with 6 tools")
    assert "not configured" in findings["host cursor"].what
    assert not (tmp_path / ".local").exists()


@pytest.mark.rule("H9")
def test_an_interpreter_that_is_gone_is_found(where: Surroundings) -> None:
    install(HOSTS["zed"], where, "claims", Launch("/gone/python", ("-m", "mcp_claims", "serve"))).write()
    finding = found(where)["host zed"]
    assert finding.level is Level.FAILURE
    assert "/gone/python cannot be started (No such file or directory)" in finding.what
    assert finding.remedy == "Run `mcp-claims install zed --name claims` again."


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit('no such module')", "ended without an answer: no such module"),
        ("print('hello', flush=True); input()", "is no server of this kind"),
        ("print('[]', flush=True); input()", "is no server of this kind"),
        ("""input(); print('{"id": 1, "error": {}}', flush=True); input()""", "is no server of this kind"),
    ],
)
def test_what_starts_but_is_no_server_is_found(program: str, why: str, where: Surroundings) -> None:
    told(where, "-c", program)
    finding = found(where)["host cursor"]
    assert finding.level is Level.FAILURE and why in finding.what


@pytest.mark.rule("H9")
def test_one_that_hangs_is_killed_with_what_it_has_started(where: Surroundings, tmp_path: Path) -> None:
    hang = (
        f"import os, time; os.fork(); open({str(tmp_path / 'pid')!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    )
    told(where, "-c", hang)
    finding = found(where, patience=1)["host cursor"]
    assert finding.level is Level.FAILURE and "did not answer in 1 s" in finding.what
    for pid in (tmp_path / "pid").read_text().split():
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and _state(int(pid)) != "Z":
            assert time.monotonic() < deadline


def test_a_file_that_the_host_cannot_read_is_found_and_the_others_are_looked_at(
    where: Surroundings, tmp_path: Path
) -> None:
    (tmp_path / ".claude.json").write_text("{")
    install(HOSTS["zed"], where, "claims", SERVER).write()
    findings = found(where)
    assert findings["host claude-code"].level is Level.FAILURE
    assert "no valid JSON" in findings["host claude-code"].what
    assert "answers in" in findings["host zed"].what


@pytest.mark.rule("H9")
def test_hosts_that_do_not_share_their_claims_are_found(where: Surroundings, tmp_path: Path) -> None:
    install(HOSTS["zed"], where, "claims", SERVER).write()
    install(
        HOSTS["codex"], where, "claims", Launch(SERVER.command, (*SERVER.arguments, "--dir", str(tmp_path)))
    ).write()
    finding = found(where)["hosts"]
    assert finding.level is Level.WARNING
    assert "a key can have a holder in each" in finding.what and f"codex claims: {tmp_path}" in finding.what


def test_the_command_looks_at_hosts_only_if_asked_and_fails_if_one_cannot_start(tmp_path: Path) -> None:
    where = Surroundings(tmp_path, sys.platform, {})
    install(HOSTS["claude-code"], where, "claims", Launch("/gone/python", ("-m", "mcp_claims"))).write()

    def checks(*options: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "mcp_claims", "doctor", "--json", "--dir", str(tmp_path / "claims"), *options],
            env=PYTHON_ENVIRONMENT | {"HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, [finding["check"] for finding in json.loads(done.stdout)["findings"]]

    (tmp_path / "claims").mkdir(mode=0o700)
    code, plain = checks()
    assert code == 0 and not any("host" in check for check in plain)
    code, all_checks = checks("--hosts")
    assert code == 1 and all_checks == [*plain, "host claude-code"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
