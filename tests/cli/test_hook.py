"""`mcp-claims hook`: a real server and a real hook, both started by one host or by two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, Commands, eventually
from tests.support.launch import unshare
from tests.support.servers import ENVELOPE

# Starts a claims server and claims with it; runs hooks on request, each through a shell as hosts do.
HOST = """
import json, subprocess, sys
command, envelope = json.loads(sys.argv[1]), json.loads(sys.argv[2])
server = subprocess.Popen([*command, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for line in sys.stdin:
    order = json.loads(line)
    if "hook" in order:
        run = ["sh", "-c", '"$@"; exit $?', "sh", *command, "hook", *order["hook"]] if order["shell"] else [*command, "hook", *order["hook"]]
        done = subprocess.run(run, input=json.dumps(order["event"]), capture_output=True, text=True)
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
    else:
        call = {"name": order["tool"], "arguments": order["arguments"], "_meta": envelope}
        server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}) + "\\n")
        server.stdin.flush()
        print(json.dumps(json.loads(server.stdout.readline())["result"]["structuredContent"]), flush=True)
"""


class Host:
    """A program such as Claude Code, with one claims server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask({"tool": tool, "arguments": arguments})
        return answer

    def hook(self, *hook: str, shell: bool = True, **event: Any) -> tuple[int, str, str]:
        code, output, complained = self._ask({"hook": hook, "event": event, "shell": shell})
        return code, output, complained

    def guard(self, *options: str, shell: bool = True, cwd: str = "/repo", **asked: Any) -> str | None:
        """Return why the guard denies a tool with the input *asked*, if it does."""
        code, output, complained = self.hook(
            "guard", *options, shell=shell, cwd=cwd, tool_name="Edit", tool_input=asked
        )
        assert (code, complained) == (0, "")
        if not output:
            return None
        decision = json.loads(output)["hookSpecificOutput"]
        assert (decision["hookEventName"], decision["permissionDecision"]) == ("PreToolUse", "deny")
        return str(decision["permissionDecisionReason"])

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def started(commands: Commands) -> Iterator[Host]:
    command = [sys.executable, "-c", HOST, json.dumps(COMMAND), json.dumps(ENVELOPE)]
    with subprocess.Popen(
        command, env=commands.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Host(process)


@pytest.fixture
def host(commands: Commands) -> Iterator[Host]:
    with started(commands) as host:
        yield host


@pytest.mark.rule("L5")
@pytest.mark.parametrize("shell", [True, False], ids=["through a shell", "directly"])
def test_the_end_of_a_session_frees_what_its_server_holds_for_it_and_its_sub_agents_and_nothing_else(
    commands: Commands, host: Host, claims_dir: Path, shell: bool
) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim("theirs")
    host.call("try_claim", key="ours")
    handle = host.call("open_session")["session"]
    host.call("try_claim", key="our sub-agent's", session=handle)
    with started(commands) as another:
        another.call("try_claim", key="another host's")
        assert host.hook("session-end", shell=shell, reason="clear", session_id="x") == (0, "", "")
        assert another.call("is_claimed_by_other", key="another host's")["held_by_you"]
    assert other.inspect("theirs").held_by_you
    assert not other.inspect("our sub-agent's").claimed_by_other
    assert other.try_claim("ours").claimed
    answer = host.call("is_claimed_by_other", key="ours")
    assert "You lost your claim" in answer["advice"]


def test_the_former_holder_learns_that_its_session_has_ended(host: Host) -> None:
    host.call("try_claim", key="ours")
    host.hook("session-end", reason="clear")
    answer = host.call("is_claimed_by_other", key="ours")
    assert "its session has ended (clear)" in answer["advice"] and "mcp-claims hook session-end" in answer["advice"]


@pytest.mark.rule("L5")
@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("/repo/src/app.py", {"file_path": "/repo/src/app.py"}),
        ("src/app.py", {"file_path": "/repo/src/app.py"}),
        ("src", {"file_path": "/repo/src/app.py"}),
        ("src/", {"file_path": "src/../src/app.py"}),
        ("src/notes.ipynb", {"notebook_path": "/repo/src/notes.ipynb"}),
        ("src/app.py", {"command": "sed -i s/a/b/ src/app.py && make"}),
        ("acme/web#12", {"command": "gh pr merge 'acme/web#12'"}),
        ("./src//app.py", {"file_path": "/repo/src/app.py"}),
        ("file:/repo/src/", {"file_path": "src/app.py"}),
        ("file:/repo/src/app.py", {"file_path": "/repo/src/../src/app.py"}),
        ("file:/repo/**/*.py", {"command": "sed -i s/a/b/ src/app.py"}),
        ("file:/repo/src/app.py", {"command": "rm src/*.py"}),
        ("src/app.py", {"command": "cat ./src/app.py"}),
        ("src/app.py", {"command": "rm -f '/repo/src/app.py'"}),
        ("src/", {"command": "tee log </dev/null >src/lib/app.py"}),
    ],
)
def test_what_touches_a_key_or_path_of_another_session_is_denied_with_who_holds_it(
    host: Host, claims_dir: Path, key: str, asked: dict[str, Any]
) -> None:
    other = process_session(FileStore(claims_dir))
    other.try_claim(key, "any namespace", note="refactoring")
    reason = host.guard(**asked)
    assert reason is not None
    assert other.holder.name in reason and "refactoring" in reason and json.dumps(key) in reason
    other.release(key, "any namespace")
    assert host.guard(**asked) is None


@pytest.mark.rule("L5")
@pytest.mark.parametrize(
    ("key", "directory", "denied"),
    [
        ("README.md", "/repo", {"file_path": "/repo/README.md"}),
        ("docs/a.md", "/repo", {"command": "rm docs/a.md"}),
        ("main", "/repo", {"command": "git checkout main"}),
        ("main", "/repo/tools", {"command": "git checkout main"}),
        ("acme/web#12", "/elsewhere", {"command": "gh pr merge 'acme/web#12'"}),
        ("README.md", "/elsewhere", None),
        ("main", "/elsewhere", None),
        ("main", "/repository", None),
    ],
)
def test_a_relative_path_and_a_word_are_meant_from_where_their_holder_works(
    host: Host, claims_dir: Path, key: str, directory: str, denied: dict[str, Any] | None
) -> None:
    other = process_session(FileStore(claims_dir))
    other.describe(directory=directory)
    other.try_claim(key)
    if denied is not None:
        assert host.guard(**denied) is not None
        return
    assert host.guard(file_path="/repo/README.md") is None
    for command in ("git checkout main", "rm ./README.md"):
        assert host.guard(command=command) is None


@pytest.mark.rule("U1")
def test_a_push_to_a_branch_that_another_session_has_claimed_is_denied(
    host: Host, claims_dir: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "project"
    for command in (
        ["init", "-q", "-b", "topic", str(repository)],
        ["-C", str(repository), "remote", "add", "origin", "https://example.org/acme/web.git"],
        ["-C", str(repository), "remote", "add", "other", "https://example.org/acme/other.git"],
    ):
        subprocess.run(["git", *command], check=True)
    other = process_session(FileStore(claims_dir))
    other.try_claim("branch:example.org/acme/web:main")
    cwd = str(repository)
    for denied in (
        "git push origin main",
        f"cd /; git -C {repository} push -f origin HEAD:refs/heads/main && echo",
        "git push https://example.org/acme/web +main",
        "git fetch && git push --force-with-lease origin :main",
    ):
        reason = host.guard(command=denied, cwd=cwd)
        assert reason is not None and "branch:" in reason, denied
    for passed in (
        "git push origin topic",
        "git fetch origin main",
        "git push; echo main",
        "echo git push origin main",
        "git push other main",
        "git commit -m 'git push origin main'",
    ):
        assert host.guard(command=passed, cwd=cwd) is None, passed
    other.try_claim("branch:example.org/acme/web:topic")
    assert host.guard(command="git push", cwd=cwd) is not None


@pytest.mark.rule("L5")
def test_what_others_may_have_too_is_denied_only_where_it_is_files(host: Host, claims_dir: Path) -> None:
    one, other = process_session(FileStore(claims_dir)), process_session(FileStore(claims_dir))
    one.try_claim("testdatabase", slots=2)
    assert host.guard(command="make testdatabase") is None
    for session in (one, other):
        session.try_claim("file:/repo/src/", shared=True)
    for session in (one, other):
        reason = host.guard(file_path="/repo/src/app.py")
        assert reason is not None and "is shared by" in reason
        assert one.holder.name in reason or other.holder.name in reason
        session.release("file:/repo/src/")
    assert host.guard(file_path="/repo/src/app.py") is None


@pytest.mark.rule("L5")
def test_what_is_reserved_for_another_session_is_denied_and_ours_is_not(host: Host, claims_dir: Path) -> None:
    holder, other = process_session(FileStore(claims_dir)), process_session(FileStore(claims_dir))
    holder.try_claim("src/app.py")
    assert acquire(other, ClaimRequest.parse("src/app.py", wait_seconds=0.001), reserve=True).keeps_place
    holder.release("src/app.py")
    reason = host.guard(file_path="/repo/src/app.py")
    assert reason is not None and 'is next for this: "src/app.py"' in reason and other.holder.name in reason
    other.release("src/app.py")
    assert host.guard(file_path="/repo/src/app.py") is None


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("src/app.py", {"file_path": "/repo/src/app.pyc"}),
        ("src/app.py", {"file_path": "/elsewhere/src/app.py"}),
        ("file:/repo/README.md", {"file_path": "/elsewhere/README.md"}),
        ("file:/repo/**/*.md", {"file_path": "src/app.py"}),
        ("src/app", {"file_path": "/repo/src/app.py"}),
        ("app.py", {"command": "cat src/app.py"}),
        ("src", {"command": "ls src"}),
        ("deploy", {"command": "deployment status"}),
        ("/", {"file_path": "/repo/src/app.py"}),
        ("src/app.py", {"pattern": "src/app.py"}),
        ("src/app.py", {"file_path": 5}),
    ],
)
def test_what_touches_something_else_is_not(host: Host, claims_dir: Path, key: str, asked: dict[str, Any]) -> None:
    process_session(FileStore(claims_dir)).try_claim(key)
    assert host.guard(**asked) is None


@pytest.mark.rule("L5")
@pytest.mark.parametrize("shell", [True, False], ids=["through a shell", "directly"])
def test_what_our_own_session_claimed_is_ours_to_touch(host: Host, shell: bool) -> None:
    host.call("try_claim", key="/repo/src/app.py")
    assert host.guard(shell=shell, file_path="/repo/src/app.py") is None


@pytest.mark.rule("L5")
def test_what_a_run_of_our_own_session_holds_is_ours_to_touch(commands: Commands) -> None:
    event = json.dumps({"cwd": "/repo", "tool_name": "Edit", "tool_input": {"file_path": "/repo/src/app.py"}})
    key = "/repo/src/app.py"
    with subprocess.Popen([*COMMAND, "run", key, "--", "sleep", "600"], env=commands.environment) as running:
        try:
            eventually(lambda: commands("check", key).returncode == 1)
            assert commands("hook", "guard", output=event).stdout == ""
        finally:
            running.terminate()


@pytest.mark.rule("L5")
def test_a_path_is_meant_from_the_project_too_wherever_the_host_has_gone(commands: Commands, claims_dir: Path) -> None:
    process_session(FileStore(claims_dir)).try_claim("src/app.py")
    event = json.dumps({"cwd": "/repo/src", "tool_input": {"file_path": "/repo/src/app.py"}})
    assert commands("hook", "guard", output=event).stdout == ""
    commands.environment["CLAUDE_PROJECT_DIR"] = "/repo"
    assert "src/app.py" in reason_in(commands("hook", "guard", output=event).stdout)


def test_what_is_too_long_for_a_path_takes_no_time(commands: Commands, claims_dir: Path) -> None:
    process_session(FileStore(claims_dir)).try_claim("src/app.py")
    long = "a/" * 1_000_000
    event = {"cwd": "/repo", "tool_input": {"file_path": long, "command": f"cat {long} src/app.py"}}
    assert "src/app.py" in reason_in(commands("hook", "guard", output=json.dumps(event)).stdout)


@pytest.mark.rule("L7")
def test_a_claim_behind_thousands_of_outcomes_is_guarded_all_the_same(commands: Commands, claims_dir: Path) -> None:
    session = process_session(FileStore(claims_dir))
    session.try_claim("done")
    session.release("done", outcome="done")
    (marker,) = FileStore(claims_dir).scan()
    assert isinstance(marker, Claim)
    for number in range(2_000):
        key = f"done-{number}"
        (claims_dir / "default" / f"{key}.json").write_bytes(to_json(marker._replace(scoped=ScopedKey("default", key))))
    session.try_claim("src/app.py")
    event = json.dumps({"cwd": "/repo", "tool_name": "Edit", "tool_input": {"file_path": "/repo/src/app.py"}})
    assert "src/app.py" in reason_in(commands("hook", "guard", output=event).stdout)


def test_dead_claims_guard_nothing(host: Host, commands: Commands) -> None:
    with started(commands) as another:
        another.call("try_claim", key="/repo/src/app.py")
        assert host.guard(file_path="/repo/src/app.py") is not None
    assert host.guard(file_path="/repo/src/app.py") is None


@pytest.mark.rule("L5")
def test_trouble_with_the_store_blocks_nobody_unless_asked_to(commands: Commands, claims_dir: Path) -> None:
    claims_dir.write_text("no directory")
    event = json.dumps({"tool_input": {"file_path": "/repo/a"}})
    lax, strict = commands("hook", "guard", output=event), commands("hook", "guard", "--strict", output=event)
    assert (lax.returncode, lax.stdout) == (0, "") and str(claims_dir) in lax.stderr
    assert (
        strict.returncode == 0
        and "strict" in json.loads(strict.stdout)["hookSpecificOutput"]["permissionDecisionReason"]
    )


def test_a_store_that_is_chosen_wrongly_blocks_nobody_unless_asked_to(commands: Commands) -> None:
    del commands.environment["MCP_CLAIMS_DIR"]
    commands.environment["MCP_CLAIMS_STORE"] = "etcd://n1:port/p"
    event = json.dumps({"tool_input": {"file_path": "/repo/a"}})
    lax, strict = commands("hook", "guard", output=event), commands("hook", "guard", "--strict", output=event)
    # With 2 the host would deny every call, and say so to the model.
    assert (lax.returncode, lax.stdout) == (0, "") and "MCP_CLAIMS_STORE" in lax.stderr
    assert strict.returncode == 0 and '"deny"' in strict.stdout


@pytest.mark.rule("L5")
@pytest.mark.parametrize(
    "wrong",
    [[], ["nonsense"], ["--bogus"], ["guard", "--bogus"], ["guard", "--dir"], ["session-end", "x"]],
    ids=" ".join,
)
def test_a_misspelt_hook_blocks_nobody(commands: Commands, wrong: list[str]) -> None:
    done = commands("hook", *wrong, output=json.dumps({"tool_input": {"file_path": "/repo/a"}}))
    # With 2 the host would deny every call, and say so to the model.
    assert (done.returncode, done.stdout) == (1, "") and "error:" in done.stderr


@pytest.mark.parametrize("output", ["", "{", "[]", "null", '{"tool_input": 5}', "{}"])
@pytest.mark.parametrize("hook", ["guard", "session-end"])
def test_what_is_no_event_blocks_nobody(commands: Commands, hook: str, output: str) -> None:
    done = commands("hook", hook, output=output)
    assert done.returncode in (0, 1) and done.stdout == "" and "Traceback" not in done.stderr
    assert (done.returncode == 1) == bool(done.stderr)


@pytest.mark.rule("L5")
@pytest.mark.parametrize(
    "environment",
    [{"MCP_CLAIMS_DIR": "relative"}, {"MCP_CLAIMS_LAYOUT": "nonsense"}, {"MCP_CLAIMS_STORE": "etcd://one"}],
    ids=str,
)
def test_settings_that_are_wrong_block_nobody_unless_asked_to(commands: Commands, environment: dict[str, str]) -> None:
    """To a host the exit code 2, that of wrong usage, means that a hook forbids what is about to happen."""
    commands.environment |= environment
    event = json.dumps({"tool_input": {"file_path": "/repo/a"}})
    lax, strict = commands("hook", "guard", output=event), commands("hook", "guard", "--strict", output=event)
    assert (lax.returncode, lax.stdout) == (0, "") and "MCP_CLAIMS" in lax.stderr
    assert strict.returncode == 0 and "MCP_CLAIMS" in reason_in(strict.stdout)
    assert commands("hook", "session-end", output=event).returncode == 3


@pytest.mark.rule("L5")
@pytest.mark.parametrize(
    "output", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000], ids=["lists", "objects", "digits"]
)
def test_what_is_too_deep_to_read_is_no_event_and_only_a_strict_guard_denies_it(
    commands: Commands, output: str
) -> None:
    lax, strict = commands("hook", "guard", output=output), commands("hook", "guard", "--strict", output=output)
    assert (lax.returncode, lax.stdout) == (1, "") and "Traceback" not in lax.stderr
    assert strict.returncode == 0 and "strict" in reason_in(strict.stdout)


@pytest.mark.rule("L5")
def test_a_path_is_the_same_by_whatever_link_it_is_spelt(commands: Commands, claims_dir: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("real/src").mkdir(parents=True)
    tmp_path.joinpath("link").symlink_to("real")
    other = process_session(FileStore(claims_dir))
    real, link = str(tmp_path / "real/src/app.py"), str(tmp_path / "link/src/app.py")
    for key in (real, link, "src/app.py"):
        other.try_claim(key)
        for path, cwd in [(real, "real"), (link, "link"), (real, "link"), (link, "real"), ("src/app.py", "link")]:
            event = {"cwd": str(tmp_path / cwd), "tool_input": {"file_path": path}}
            assert key in reason_in(commands("hook", "guard", output=json.dumps(event)).stdout)
        other.release(key)


@pytest.mark.parametrize("cwd", [None, "", "relative", "nul\0", "half \ud800", 5])
def test_a_directory_that_is_none_is_no_trouble(
    commands: Commands, claims_dir: Path, tmp_path: Path, cwd: object
) -> None:
    process_session(FileStore(claims_dir)).try_claim("/repo/a")
    gone = tmp_path / "gone"
    gone.mkdir()
    for path in ("/repo/a", "nul\0", "../half \ud800"):
        event = json.dumps({"cwd": cwd, "tool_input": {"file_path": path}})
        shell = ["sh", "-c", 'cd "$0"; rmdir "$0"; mkdir "$0"; exec "$@"', str(gone), *COMMAND, "hook", "guard"]
        done = subprocess.run(
            shell, env=commands.environment, input=event, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (path == "/repo/a")


@pytest.mark.parametrize(
    "command", ["cd '\ud800' && git push", "git -C '\ud800' push", "git push '\ud800' '\ud801'", "cd 'a\0b'; git push"]
)
def test_a_path_that_cannot_be_is_no_trouble_for_a_push(commands: Commands, command: str) -> None:
    event = {"session_id": "S", "cwd": "/tmp", "tool_name": "Bash", "tool_input": {"command": command}}
    done = commands("hook", "guard", "--host", "claude-code", output=json.dumps(event))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def reason_in(output: str) -> str:
    """Return why a guard denies."""
    return str(json.loads(output)["hookSpecificOutput"]["permissionDecisionReason"])


# A host whose server is behind a launcher and whose hooks are run by a worker, and which may be the first process of its PID namespace.
WORKER = """
import json, subprocess, sys
run = json.loads(sys.stdin.readline())
for line in sys.stdin:
    done = subprocess.run(run, input=line, capture_output=True, text=True)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""
LAUNCHED_HOST = """
import json, os, subprocess, sys
command, envelope, worker, launcher = map(json.loads, sys.argv[1:])
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
server = subprocess.Popen([launcher, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))", *command, "serve"], **pipes)
hooks = subprocess.Popen([sys.executable, "-c", worker], **pipes)
def ask(process, line):
    process.stdin.write(json.dumps(line) + "\\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())
def call(tool, **arguments):
    call = {"name": tool, "arguments": arguments, "_meta": envelope}
    return ask(server, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})["result"]["structuredContent"]
hooks.stdin.write(json.dumps([*command, "hook", "guard"]) + "\\n")
claimed = call("try_claim", key="file:/repo/a")["claimed"]
edit = {"hook_event_name": "PreToolUse", "tool_name": "Edit", "tool_input": {"file_path": "/repo/a"}}
edited = ask(hooks, edit)
ended = ask(hooks, {"hook_event_name": "SessionEnd", "reason": "clear"})
left = call("is_claimed_by_other", key="file:/repo/a")["held_by_you"]
print(json.dumps([os.getpid(), claimed, edited, ended, left]))
"""


@pytest.mark.rule("U4")
@pytest.mark.parametrize("first", [False, True], ids=["below others", "as the first process"])
def test_behind_a_launcher_with_hooks_in_a_worker_a_session_is_never_denied_its_own(
    commands: Commands, tmp_path: Path, first: bool
) -> None:
    launcher = tmp_path / "uv"
    launcher.symlink_to(sys.executable)
    # A link does not find the packages of a virtual environment; the launcher needs none.
    arguments = (COMMAND, ENVELOPE, WORKER, str(launcher))
    host = [sys.executable, "-c", LAUNCHED_HOST, *map(json.dumps, arguments)]
    if first:
        host = [*unshare("--pid", "--fork", "--mount-proc"), *host]
    done = subprocess.run(host, env=commands.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pid, claimed, edited, ended, left = json.loads(done.stdout)
    assert (pid == 1) == first
    assert claimed and edited == [0, "", ""] and ended == [0, "", ""]
    assert not left, "the end of the session has freed it"
