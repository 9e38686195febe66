"""`doctor --hosts` on our hooks: their mode, their store, and whether the host runs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mcp_claims import hosts
from mcp_claims.doctor import Finding, Level
from mcp_claims.doctor.hooks import check_hooks
from mcp_claims.hosts import HOOKS, HOSTS, Hook, Launch, UserEnvironment
from tests.support.platforms import PLATFORM
from tests.support.servers import PYTHON_ENVIRONMENT

LAUNCH = Launch(sys.executable, ("-P", "-m", "mcp_claims"))


@pytest.fixture
def user(tmp_path: Path) -> UserEnvironment:
    return UserEnvironment(tmp_path, PLATFORM, {**PYTHON_ENVIRONMENT, "HOME": str(tmp_path)})


def install(
    host: str, user: UserEnvironment, mode: str = "claim", *, strict: bool = False, launch: Launch = LAUNCH
) -> None:
    """Let *host* guard with the claims in the directory `claims`."""
    hook = Hook.of(host, launch, "claims", mode, strict, ["--dir", str(user.home / "claims")])
    for change in hosts.install(HOSTS[host], user, "claims", Launch("server", ()), hook=hook):
        change.write()


def findings(host: str, user: UserEnvironment, store: str = "claims") -> list[Finding]:
    """Return what is found where the server has its claims in the directory *store*."""
    return list(check_hooks(HOSTS[host], user, {"claims": {str(user.home / store)}}))


@pytest.mark.parametrize("host", HOOKS)
def test_a_host_without_our_hooks_is_not_mentioned(host: str, user: UserEnvironment) -> None:
    for change in hosts.install(HOSTS[host], user, "claims", Launch("server", ())):
        change.write()
    assert findings(host, user) == []


@pytest.mark.parametrize("host", [name for name in HOOKS if name != "codex"])
def test_the_mode_of_the_guard_is_said(host: str, user: UserEnvironment) -> None:
    for mode, strict, said in (
        ("claim", False, "guard (mode claim) for 'claims'"),
        ("deny", True, "guard (mode deny, strict) for 'claims'"),
        ("off", False, "hooks without a guard for 'claims'"),
    ):
        install(host, user, mode, strict=strict)
        (finding,) = findings(host, user)
        assert finding.level is Level.OK and finding.what == f"{said} in {HOOKS[host].file(user, 'claims')}"


@pytest.mark.rule("H9")
@pytest.mark.parametrize("host", HOOKS)
def test_a_guard_on_another_store_than_the_server_s_is_found(host: str, user: UserEnvironment) -> None:
    install(host, user)
    (finding,) = findings(host, user, "elsewhere")
    assert finding.level is Level.WARNING
    assert f"claims in {user.home / 'claims'}, and the server makes them in {user.home / 'elsewhere'}" in finding.what


@pytest.mark.rule("H9")
@pytest.mark.parametrize("host", HOOKS)
def test_a_hook_whose_interpreter_is_gone_is_found(host: str, user: UserEnvironment) -> None:
    install(host, user, launch=Launch("/gone/python", LAUNCH.arguments))
    (finding,) = findings(host, user)
    assert finding.level is Level.FAILURE and "/gone/python does not exist, so no edit is looked at" in finding.what


def test_a_hook_of_an_earlier_version_is_found_once(user: UserEnvironment) -> None:
    path = HOOKS["claude-code"].file(user, "claims")
    path.parent.mkdir()
    command = {"type": "command", "command": f"{sys.executable} -m mcp_claims hook guard --dir {user.home / 'claims'}"}
    path.write_text(json.dumps({"hooks": {"PreToolUse": [{"hooks": [command]}]}}))
    (finding,) = check_hooks(HOSTS["claude-code"], user, {"team": {str(user.home / "claims")}})
    assert finding.level is Level.WARNING and "an earlier version has written it" in finding.what


def test_a_file_of_hooks_that_does_not_parse_is_found(user: UserEnvironment) -> None:
    path = HOOKS["codex"].file(user, "claims")
    path.parent.mkdir()
    path.write_text("{")
    (finding,) = findings("codex", user)
    assert finding.level is Level.FAILURE and str(path) in finding.what


@pytest.mark.rule("H11")
def test_what_nobody_has_approved_in_codex_is_found_event_by_event(user: UserEnvironment) -> None:
    # As Codex 0.171.0 lists it; tests/hosts/test_real_hooks.py compares all with the real one.
    directory = user.home / ".codex"
    directory.mkdir()
    end = {"type": "command", "command": "/x/python -m mcp_claims hook guard --host codex --dir /c", "timeout": 3}
    stop = {**end, "timeout": 10}
    hooks = {
        "SessionEnd": [{"hooks": [end]}],
        "Stop": [{"hooks": [{"type": "command", "command": "say"}]}, {"hooks": [stop]}],
    }
    (directory / "hooks.json").write_text(json.dumps({"hooks": hooks}))
    assert hosts.unapproved_events(user, "claims") == ["Stop", "SessionEnd"]
    config = directory / "config.toml"
    place = directory / "hooks.json"
    approved = f'[hooks.state."{place}:stop:1:0"]\ntrusted_hash = "sha256:STOP"\n'
    config.write_text(approved)
    assert hosts.unapproved_events(user, "claims") == ["Stop", "SessionEnd"], "another hash"
    approved = approved.replace("STOP", "fbd75dca26c1bf14f4c2bfb31f503f1a2109811a2ce8aa1c35a36d725ac2a5d0")
    config.write_text(approved)
    assert hosts.unapproved_events(user, "claims") == ["SessionEnd"]
    config.write_text(f"{approved}enabled = false\n")
    assert hosts.unapproved_events(user, "claims") == ["Stop", "SessionEnd"]
    config.write_text(f"[features]\nhooks = false\n{approved}")
    assert hosts.unapproved_events(user, "claims") == ["Stop", "SessionEnd"]


@pytest.mark.rule("H11")
def test_the_remedy_for_codex_is_the_person_s_to_take(user: UserEnvironment) -> None:
    install("codex", user)
    (finding,) = findings("codex", user)
    assert finding.level is Level.WARNING and "Codex skips it at PreToolUse, PostToolUse" in finding.what
    assert finding.remedy is not None and "/hooks" in finding.remedy
