"""The plugin for opencode: what it sends to the hook, and what it makes of the answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts import HOOKS, Hook, Launch, UserEnvironment
from tests.hosts.real_hosts import INSTALLED, REAL_HOSTS, TIMEOUT, HostHome, needs_hosts
from tests.hosts.scripted_model import Say, Step, use
from tests.support.platforms import PLATFORM

pytestmark = needs_hosts

# Loads the plugin, calls its hooks one after the other, and prints what each has thrown and made of its output.
DRIVER = """
import { McpClaims } from "%s"
const plugin = await McpClaims({ directory: "/p" })
const results = []
for (const [name, input, output] of JSON.parse(process.argv[2])) {
  const args = output?.args
  let thrown = null
  try {
    await plugin[name](input, output)
  } catch (error) {
    thrown = error.message
  }
  results.push({ thrown, output, args })
}
console.log(JSON.stringify(results))
"""

Call = tuple[str, dict[str, Any], dict[str, Any]]


class Plugin:
    """The plugin, with a shell script as the hook."""

    def __init__(
        self, directory: Path, script: str, *, mode: str = "claim", strict: bool = False, limit: int = 60_000
    ) -> None:
        self._directory = directory
        self._records = directory / "records"
        self._hook = directory / "hook"
        self._hook.write_text(f"#!/bin/sh\ncat >> {self._records}; echo >> {self._records}\n{script}\n")
        self._hook.chmod(0o700)
        hook = Hook.of("opencode", Launch(str(self._hook), ("mcp-claims",)), "claims", mode, strict, ())
        user = UserEnvironment(directory, PLATFORM, {})
        text = HOOKS["opencode"].part(user, "claims", hook).put("")
        self.path = directory / "plugin.mjs"
        # The limit of 5 s is for an idle machine.
        self.path.write_text(text.replace("LIMIT = 5000", f"LIMIT = {limit}"))

    def call(self, *calls: Call) -> list[dict[str, Any]]:
        """Call its hooks; return what each has thrown, and its output."""
        assert INSTALLED
        driver = self._directory / "driver.mjs"
        driver.write_text(DRIVER % self.path)
        done = subprocess.run(
            [f"{INSTALLED}/node_modules/.bin/node", driver, json.dumps(calls)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the hook has read."""
        lines = self._records.read_text().splitlines() if self._records.exists() else []
        return [json.loads(line) for line in lines if line]


def before(tool: str, **args: object) -> Call:
    return "tool.execute.before", {"tool": tool, "sessionID": "s", "callID": f"call-{tool}"}, {"args": args}


def after(tool: str, **output: object) -> Call:
    return "tool.execute.after", {"tool": tool, "sessionID": "s", "callID": f"call-{tool}"}, output


@pytest.mark.rule("H8")
def test_it_asks_the_hook_about_edits_commands_and_the_tools_of_its_server_alone(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "echo '{}'")
    tools = ["write", "edit", "multiedit", "patch", "apply_patch", "bash", "claims_try_claim", "read", "other_claims_x"]
    plugin.call(*(before(tool, filePath="a.py") for tool in tools), *(after(tool, output="") for tool in tools))
    events = [(each["hook_event_name"], each["tool_name"]) for each in plugin.sent]
    # What our own tool did is known to its server.
    assert events == [("tool.execute.before", each) for each in tools[:7]] + [
        ("tool.execute.after", each) for each in tools[:6]
    ]
    assert plugin.sent[0] == {
        "hook_event_name": "tool.execute.before",
        "session_id": "s",
        "cwd": "/p",
        "tool_name": "write",
        "tool_input": {"filePath": "a.py"},
        "call_id": "call-write",
    }


def test_without_a_guard_it_asks_about_the_tools_of_its_server_alone(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "echo '{}'", mode="off")
    plugin.call(before("write"), before("bash"), before("claims_try_claim"), after("write", output=""))
    assert [each["tool_name"] for each in plugin.sent] == ["claims_try_claim"]


def test_it_denies_changes_arguments_in_place_and_warns_after_the_call(tmp_path: Path) -> None:
    answers = """
        {"deny": "held by B"}
        {"args": {"key": "k", "session": "of the agent"}, "warn": "mind the gap"}
        {"warn": "one"}
        {"warn": "two"}
    """
    queue = tmp_path / "answers"
    queue.write_text("\n".join(line.strip() for line in answers.strip().splitlines()) + "\n")
    plugin = Plugin(tmp_path, f"head -n 1 {queue}; sed -i 1d {queue}")
    results = plugin.call(
        before("write", filePath="a.py"),
        before("claims_try_claim", key="k", note="gone"),
        before("bash", command="true"),
        after("bash", output="done"),
        after("claims_try_claim", content=[]),
    )
    assert [each["thrown"] for each in results] == ["held by B", None, None, None, None]
    assert results[1]["args"] == {"key": "k", "session": "of the agent"}, "the same object, changed"
    assert results[3]["output"] == {"output": "done\n\none\n\ntwo"}
    assert results[4]["output"] == {"content": [{"type": "text", "text": "mind the gap"}]}


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "kill -9 $$", "sleep 600 & sleep 600"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_hook_that_fails_or_hangs_lets_the_edit_through_unless_it_is_strict(
    script: str, strict: bool, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path, script, strict=strict, limit=1000)
    (result,) = plugin.call(before("write"))
    assert (result["thrown"] is not None) == strict
    assert not strict or "this guard is strict" in result["thrown"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_hook_that_is_gone_lets_the_edit_through_unless_it_is_strict(strict: bool, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "", strict=strict)
    (tmp_path / "hook").unlink()
    (result,) = plugin.call(before("write"))
    assert (result["thrown"] is not None) == strict


def test_it_reports_the_parent_of_a_sub_agent_the_end_of_each_turn_and_of_the_process(tmp_path: Path) -> None:
    def event(name: str, **properties: object) -> Call:
        return "event", {"event": {"type": name, "properties": properties}}, {}

    plugin = Plugin(tmp_path, "echo '{}'")
    plugin.call(
        event("session.created", info={"id": "s"}),
        event("session.created", info={"id": "sub", "parentID": "s"}),
        ("chat.message", {"sessionID": "sub"}, {}),
        event("session.updated", info={"id": "s"}),
        event("session.idle", sessionID="sub"),
        before("write"),
        event("session.idle", sessionID="s"),
        ("dispose", {}, {}),
    )
    sent = [(each["hook_event_name"], each["session_id"], each.get("parent_session_id")) for each in plugin.sent]
    assert sent == [
        ("session.created", "s", None),
        ("session.created", "sub", "s"),
        ("chat.message", "sub", "s"),
        ("session.idle", "sub", "s"),
        ("tool.execute.before", "s", None),
        ("session.idle", "s", None),
        # Only of what may hold something.
        ("dispose", "s", None),
    ]


@pytest.mark.rule("H8")
def test_real_opencode_takes_its_denials_changes_and_warnings(host_home: HostHome, tmp_path: Path) -> None:
    real = REAL_HOSTS["opencode"]
    host_home.install(real, "--allow", "--guard", "--dir", str(tmp_path / "claims"))
    plugin = Plugin(
        tmp_path,
        """case "$(tail -n 1 RECORDS)" in
*before*'"tool_name":"write"'*) echo '{"deny": "held by B"}';;
*before*claims_try_claim*) echo '{"args": {"key": "changed"}}';;
*after*) echo '{"warn": "mind the gap"}';;
esac""".replace("RECORDS", str(tmp_path / "records")),
    )
    target = HOOKS["opencode"].file(UserEnvironment(host_home.home, PLATFORM, host_home.environment), "claims")
    os.replace(plugin.path, target)
    made = host_home.project / "new.txt"
    steps = [real.write(str(made), "new\n"), use("try_claim", key="k"), real.shell("echo ran")]

    def script(results: Sequence[str]) -> Step:
        return steps[len(results)] if len(results) < len(steps) else Say("done")

    with host_home.session(real, "Make new.txt.", script) as session:
        results = session.finish().turns[-1].results
    assert "held by B" in results[0] and not made.exists()
    assert '"changed"' in results[1]
    assert "ran" in results[2] and "mind the gap" in results[2]
