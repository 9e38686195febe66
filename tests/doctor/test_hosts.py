"""`mcp-claims doctor --hosts`: which hosts are configured, and does what they would start answer?"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcp_claims import hosts
from mcp_claims.doctor import Finding, Level
from mcp_claims.doctor.hosts import check_hosts
from mcp_claims.hosts import HOSTS, Launch, UserEnvironment
from tests.support.platforms import PLATFORM
from tests.support.servers import PYTHON_ENVIRONMENT

DEFAULT = "{}/.local/state/mcp-claims/claims"
SERVER = Launch(sys.executable, ("-P", "-m", "mcp_claims", "serve"))


@pytest.fixture
def user(tmp_path: Path) -> UserEnvironment:
    environment = {**PYTHON_ENVIRONMENT, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    # Nobody else's directory: platformdirs would look at HOME of this process.
    environment["XDG_STATE_HOME"] = str(tmp_path / ".local" / "state")
    return UserEnvironment(tmp_path, "linux", environment)


def with_variable(user: UserEnvironment, name: str, path: Path) -> UserEnvironment:
    return dataclasses.replace(user, environment={**user.environment, name: str(path)})


def findings_of(user: UserEnvironment, timeout: float = 30) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_hosts(user, timeout)}


def install(host: str, user: UserEnvironment, launch: Launch) -> None:
    """Let *host* start *launch*."""
    (change,) = hosts.install(HOSTS[host], user, "claims", launch)
    change.write()


def install_program(user: UserEnvironment, program: str) -> None:
    """Install *program*, in Python, in Cursor as if it were the server."""
    install("cursor", user, Launch(sys.executable, ("-c", program, "mcp_claims")))


def answer(**body: object) -> str:
    """Return a program that answers its first request with *body*."""
    return (
        "import json; id = json.loads(input())['id']\n"
        f"print(json.dumps({{'jsonrpc': '2.0', 'id': id, **{body!r}}}), flush=True); input()"
    )


def assert_ends(pid: int) -> None:
    """Wait until the process *pid* has ended; fail after 10 s."""
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_hosts_without_a_file_are_not_listed(user: UserEnvironment) -> None:
    (finding,) = check_hosts(user)
    assert finding.level is Level.OK and "mcp-claims install HOST" in finding.what


def test_a_plugin_is_no_missing_entry_and_with_an_entry_there_is_one_too_many(
    user: UserEnvironment, tmp_path: Path
) -> None:
    (tmp_path / ".claude.json").write_text("{}")
    for directory in (".claude", ".copilot"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "settings.json").write_text('{"enabledPlugins": {"claims@mcp-claims": true}}')
    findings = findings_of(user)
    assert findings.keys() == {"plugin claude-code", "plugin copilot-cli"}
    assert {each.level for each in findings.values()} == {Level.OK}
    install("claude-code", user, SERVER)
    assert "tools twice" in findings_of(user)["plugin claude-code"].what
    (tmp_path / ".copilot" / "settings.json").write_text("not JSON")
    assert "plugin copilot-cli" not in findings_of(user)


def test_each_configured_host_is_reported_with_the_time_to_the_first_answer(
    user: UserEnvironment, tmp_path: Path
) -> None:
    for host in ("codex", "continue", "opencode"):
        install(host, user, SERVER)
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor" / "mcp.json").write_text('{"mcpServers": {"docs": {"url": "https://example.com"}}}')
    findings = findings_of(user)
    assert findings.keys() == {"host codex", "host continue", "host opencode", "host cursor"}
    assert {finding.level for finding in findings.values()} <= {Level.OK, Level.WARNING}
    for host in ("codex", "continue", "opencode"):
        path = HOSTS[host].config_file(user)
        assert findings[f"host {host}"].what.startswith(f"configured as 'claims' in {path}; starts and answers in ")
        assert " ms with 6 tools" in findings[f"host {host}"].what
    assert "not configured" in findings["host cursor"].what
    assert not (tmp_path / ".local").exists()


@pytest.mark.rule("H9")
@pytest.mark.skipif(sys.platform == "win32", reason="the SDK alone serves there")
@pytest.mark.parametrize("proc", [True, False], ids=["proc", "lsof"])
def test_it_reports_whether_the_start_of_a_session_was_served_without_the_sdk(
    proc: bool, user: UserEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not proc or PLATFORM != "linux":
        if shutil.which("lsof") is None:
            pytest.skip("needs lsof")
        monkeypatch.setattr("mcp_claims.doctor.hosts._PROC", str(tmp_path / "none"))
    # A wrapper in between, as `uv run` is.
    install("zed", user, Launch("sh", ("-c", '"$@"; exit', "mcp_claims", SERVER.command, *SERVER.arguments)))
    install("codex", user, Launch(SERVER.command, (*SERVER.arguments, "--no-quick")))
    findings = findings_of(user)
    assert findings["host zed"].what.endswith(" tools, by its quick stage, without the MCP SDK")
    assert findings["host codex"].what.endswith(" tools, by the MCP SDK")


def test_where_nothing_shows_what_a_server_has_imported_nothing_is_said_of_it(
    user: UserEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_claims.doctor.hosts._PROC", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    install("zed", user, SERVER)
    assert findings_of(user)["host zed"].what.endswith(" ms with 6 tools")


@pytest.mark.rule("H9")
def test_an_interpreter_that_is_gone_is_found(user: UserEnvironment) -> None:
    install("zed", user, Launch("/gone/python", ("-m", "mcp_claims", "serve")))
    finding = findings_of(user)["host zed"]
    assert finding.level is Level.FAILURE
    assert "/gone/python cannot be started (No such file or directory)" in finding.what
    assert finding.remedy == "Run `mcp-claims install zed --name claims` again."


def test_a_command_with_a_null_character_is_found(user: UserEnvironment) -> None:
    install("cursor", user, Launch("py\0thon", ("-m", "mcp_claims")))
    finding = findings_of(user)["host cursor"]
    assert finding.level is Level.FAILURE and r"'py\x00thon' cannot be started" in finding.what


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit('no such module')", "ended without an answer: no such module"),
        ("print('hello', flush=True); import time; time.sleep(60)", "is not an MCP server: it prints lines"),
        ("print('[]', flush=True); input()", "is not an MCP server: it prints lines"),
        ("""input(); print('{"id": 1, "error": {}}', flush=True); input()""", "is not an MCP server"),
        (
            answer(result={}),
            "is not an MCP server: its answer has another form",
        ),
        (
            answer(error={"code": -1, "message": "no initialize here"}),
            "is not an MCP server: no initialize here",
        ),
    ],
)
def test_a_program_that_starts_but_is_not_a_server_is_found(
    program: str, why: str, user: UserEnvironment, capfd: pytest.CaptureFixture[str]
) -> None:
    install_program(user, program)
    started = time.monotonic()
    finding = findings_of(user)["host cursor"]
    assert finding.level is Level.FAILURE and why in finding.what
    assert time.monotonic() - started < 20, "it waited for the time-out"
    assert capfd.readouterr() == ("", "")


@pytest.mark.rule("H9")
@pytest.mark.parametrize("end", ["time.sleep(60)", "sys.exit('it is over')"], ids=["hangs", "ends"])
def test_a_server_that_hangs_or_ends_is_killed_with_what_it_has_started(
    end: str, user: UserEnvironment, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    program = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        "if child == 0: time.sleep(60)\n"
        f"while len(open({str(pids)!r}).read().split()) < 2: time.sleep(0.01)\n"
        f"{end}"
    )
    install_program(user, program)
    finding = findings_of(user, timeout=1)["host cursor"]
    # The child keeps stdout open after its parent has ended, so the connection does not end.
    assert finding.level is Level.FAILURE and "did not answer in 1 s" in finding.what
    for pid in pids.read_text().split():
        assert_ends(int(pid))


@pytest.mark.rule("H9")
def test_a_server_that_answers_but_ignores_eof_and_sigterm_is_killed(user: UserEnvironment, tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        "from mcp.server.mcpserver import MCPServer\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "MCPServer('stubborn').run()\n"
        "time.sleep(60)\n"
    )
    install_program(user, program)
    started = time.monotonic()
    finding = findings_of(user)["host cursor"]
    assert finding.level is not Level.FAILURE and " with 0 tools" in finding.what
    assert time.monotonic() - started < 37, "30 s to answer and 7 s to end"
    assert_ends(int((tmp_path / "pid").read_text()))


def test_a_file_that_the_host_cannot_read_is_found_and_the_others_are_checked(
    user: UserEnvironment, tmp_path: Path
) -> None:
    (tmp_path / ".claude.json").write_text("{")
    install("zed", user, SERVER)
    findings = findings_of(user)
    assert findings["host claude-code"].level is Level.FAILURE
    assert "not valid JSON" in findings["host claude-code"].what
    assert "answers in" in findings["host zed"].what


@pytest.mark.rule("H9")
@pytest.mark.parametrize("spelt", [["--dir", "{}"], ["--dir={}"]])
def test_hosts_that_do_not_share_their_claims_are_found(
    spelt: list[str], user: UserEnvironment, tmp_path: Path
) -> None:
    install("zed", user, SERVER)
    directory = [each.format(tmp_path) for each in spelt]
    install("codex", user, Launch(SERVER.command, (*SERVER.arguments, *directory)))
    finding = findings_of(user)["hosts"]
    assert finding.level is Level.WARNING
    assert "a key can have a holder in each" in finding.what and f"codex claims: {tmp_path}" in finding.what


@pytest.mark.rule("H9")
def test_a_host_that_does_not_share_its_claims_with_the_command_line_is_found(
    user: UserEnvironment, tmp_path: Path
) -> None:
    install("codex", user, Launch(SERVER.command, (*SERVER.arguments, "--dir", str(tmp_path / "c"))))
    finding = findings_of(user)["hosts"]
    assert finding.level is Level.WARNING and f"this command line: {DEFAULT.format(tmp_path)}" in finding.what
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("c")
    user = with_variable(user, "MCP_CLAIMS_DIR", tmp_path / "link")
    assert "hosts" not in findings_of(user), "a link to the directory is the directory"


@pytest.mark.rule("H9")
@pytest.mark.parametrize(("variable", "below"), [("XDG_STATE_HOME", "/mcp-claims/claims"), ("MCP_CLAIMS_DIR", "")])
def test_an_entry_whose_directory_depends_on_who_starts_it_is_found(
    variable: str, below: str, user: UserEnvironment, tmp_path: Path
) -> None:
    install("zed", user, SERVER)
    assert "hosts" not in findings_of(user), "nothing in the environment chooses another"
    user = with_variable(user, variable, tmp_path / "else")
    finding = findings_of(user)["hosts"]
    assert finding.level is Level.WARNING
    assert f"zed claims: {DEFAULT.format(tmp_path)} or {tmp_path / 'else'}{below}" in finding.what
    install("zed", user, Launch(SERVER.command, (*SERVER.arguments, "--dir", str(tmp_path / "else") + below)))
    assert "hosts" not in findings_of(user), "the entry names the directory"


@pytest.mark.rule("H9")
def test_what_the_entry_puts_into_the_environment_counts(user: UserEnvironment, tmp_path: Path) -> None:
    install("cursor", user, SERVER)
    file = tmp_path / ".cursor" / "mcp.json"
    file.write_text(file.read_text().replace('"command"', '"env": {"XDG_STATE_HOME": "/sandbox"}, "command"'))
    assert "cursor claims: /sandbox/mcp-claims/claims" in findings_of(user)["hosts"].what


def test_the_command_checks_hosts_only_if_asked_and_fails_if_one_cannot_start(tmp_path: Path) -> None:
    user = UserEnvironment(tmp_path, PLATFORM, {})
    install("claude-code", user, Launch("/gone/python", ("-m", "mcp_claims")))

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
    assert code == 1 and all_checks == [*plain, "host claude-code", "hosts"]
