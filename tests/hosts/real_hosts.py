"""Runs real hosts: what npm has installed, in a home directory of its own, with a scripted model.

A host is described by data, a `RealHost`.  `HostHome.session` starts a session of it with a prompt.
Needs `MCP_CLAIMS_HOSTS`: the directory that `.ci/hosts` has filled.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.hosts.scripted_model import Script, ScriptedModel, Scripts, Turn, Use, scripted_model, use
from tests.support.servers import PYTHON_ENVIRONMENT

INSTALLED = os.environ.get("MCP_CLAIMS_HOSTS")
TIMEOUT = 300  # s; a host needs a tenth of that on a quiet machine.

needs_hosts = [
    pytest.mark.skipif(
        INSTALLED is None and "CI" not in os.environ,
        reason="run `.ci/hosts DIR`, and set MCP_CLAIMS_HOSTS=DIR",
    ),
    pytest.mark.timeout(2 * TIMEOUT),
]
"""Marks of a test module that runs real hosts."""


@dataclass(frozen=True)
class RealHost:
    """How to run one host.  In commands and variables, {url}, {prompt} and {name} are replaced."""

    name: str
    """The name that `mcp-claims install` takes."""
    list_command: Sequence[str]
    listed: str
    """A pattern for the line in which `list_command` shows the server {name}: connected, if the host connects to it."""
    existing_file: tuple[str, str]
    """A configuration file with the user's own settings: its path in the home directory, and its text."""
    session_command: Sequence[str]
    """Runs {prompt} with the model at {url}; allows commands and edits, but no tool of a server where the host can do so."""
    shell: Callable[[str], Use]
    """Returns the step in which the model runs a command."""
    write: Callable[[str, str], Use]
    """Returns the step in which the model makes the file at a path with a text."""
    client: str
    """The name that the host gives itself as an MCP client."""
    open_command: Sequence[str] = ()
    """Runs a session that stays when it is idle: it reads prompts, and writes events, a JSON object a line."""
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, str] | None = None
    """A configuration file that `session_command` needs, where options and variables do not suffice."""
    more_time: tuple[str, str, str] | None = None
    """A file and a replacement in it, which gives the server more time to connect when `list_command` runs."""


_OPENCODE_CONFIG = (
    '{"provider": {"anthropic": {"options": {"baseURL": "{url}/v1", "apiKey": "none"}}},'
    ' "model": "anthropic/claude-sonnet-4-5", "share": "disabled", "autoupdate": false}'
)


def _patch(path: str, text: str) -> Use:
    # The tool `apply_patch` comes with certain models only; Codex takes a patch in a command for one.
    added = "".join(f"+{line}\n" for line in text.splitlines())
    patch = f"*** Begin Patch\n*** Add File: {path}\n{added}*** End Patch"
    return use("exec_command", cmd=f"apply_patch <<'EOF'\n{patch}\nEOF")


REAL_HOSTS: Mapping[str, RealHost] = {
    host.name: host
    for host in (
        RealHost(
            "claude-code",
            list_command=("claude", "mcp", "list"),
            listed=r"{name}: .*mcp_claims serve.* - . Connected",
            existing_file=(".claude.json", '{\n  "numStartups": 3,\n  "mcpServers": {}\n}\n'),
            session_command=("claude", "-p", "{prompt}", "--allowedTools", "Bash,Write,Edit"),
            open_command=(
                *("claude", "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
                *("--allowedTools", "Bash"),
            ),
            shell=lambda command: use("Bash", command=command, description="Act"),
            write=lambda path, text: use("Write", file_path=path, content=text),
            client="claude-code",
            variables={
                "ANTHROPIC_BASE_URL": "{url}",
                "ANTHROPIC_API_KEY": "none",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                # On a loaded machine.
                "MCP_CONNECT_TIMEOUT_MS": "60000",
            },
        ),
        RealHost(
            "codex",
            list_command=("codex", "mcp", "list"),
            listed=r"{name} .*-m mcp_claims serve .*enabled",
            existing_file=(
                ".codex/config.toml",
                '# mine\nmodel = "o3"\n\n[mcp_servers.docs]\ncommand = "false" # why\n',
            ),
            session_command=(
                *("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
                *("-c", 'model="scripted"', "-c", 'model_provider="scripted"'),
                *(
                    "-c",
                    'model_providers.scripted.name="scripted"',
                    "-c",
                    'model_providers.scripted.wire_api="responses"',
                ),
                *("-c", 'model_providers.scripted.base_url="{url}/v1"'),
                "{prompt}",
            ),
            shell=lambda command: use("exec_command", cmd=command),
            write=_patch,
            client="codex-mcp-client",
        ),
        RealHost(
            "gemini-cli",
            list_command=("gemini", "mcp", "list"),
            listed=r"{name}: .*mcp_claims serve.* \(stdio\) - Connected",
            existing_file=(".gemini/settings.json", '// mine\n{\n  "ui": {"hideTips": true} // why\n}\n'),
            session_command=(
                *("gemini", "-m", "gemini-2.5-pro", "--allowed-tools", "run_shell_command,write_file,replace"),
                *("-p", "{prompt}"),
            ),
            shell=lambda command: use("run_shell_command", command=command),
            write=lambda path, text: use("write_file", file_path=path, content=text),
            client="gemini-cli-mcp-client",
            variables={
                "GEMINI_API_KEY": "none",
                "GOOGLE_GEMINI_BASE_URL": "{url}",
                "GEMINI_CLI_TRUST_WORKSPACE": "true",
            },
            settings=(
                ".gemini/settings.json",
                '{"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": false}}',
            ),
            # By default 5 s, which is too little on a busy machine.
            more_time=(".gemini/settings.json", '"command":', '"timeout": 100000, "command":'),
        ),
        RealHost(
            "qwen-code",
            list_command=("qwen", "mcp", "list"),
            listed=r"{name}: .*mcp_claims serve.* \(stdio\) - Connected",
            existing_file=(".qwen/settings.json", '// mine\n{\n  "ui": {"hideTips": true} // why\n}\n'),
            session_command=(
                *("qwen", "--approval-mode", "auto-edit", "--allowed-tools", "run_shell_command"),
                *("-p", "{prompt}"),
            ),
            shell=lambda command: use("run_shell_command", command=command, description="Act", is_background=False),
            write=lambda path, text: use("write_file", file_path=path, content=text),
            client="qwen-cli-mcp-client",
            variables={
                "ANTHROPIC_BASE_URL": "{url}",
                "ANTHROPIC_API_KEY": "none",
                "ANTHROPIC_MODEL": "claude-sonnet-4-5",
            },
            settings=(
                ".qwen/settings.json",
                '{"security": {"auth": {"selectedType": "anthropic"}}, "privacy": {"usageStatisticsEnabled": false}}',
            ),
        ),
        RealHost(
            "opencode",
            list_command=("opencode", "mcp", "list"),
            listed=r"{name} .*connected",
            existing_file=(
                ".config/opencode/opencode.jsonc",
                '{\n  // mine\n  "share": "disabled", // why\n}\n',
            ),
            session_command=("opencode", "run", "{prompt}"),
            shell=lambda command: use("bash", command=command, description="Act"),
            write=lambda path, text: use("write", filePath=path, content=text),
            client="opencode",
            variables={"OPENCODE_CONFIG_CONTENT": _OPENCODE_CONFIG},
            settings=(
                ".config/opencode/opencode.json",
                '{"permission": {"*": "ask", "bash": "allow", "edit": "allow", "read": "allow"}}',
            ),
        ),
        RealHost(
            "copilot-cli",
            list_command=("copilot", "mcp", "get", "{name}"),
            listed=r"Command: .*mcp_claims serve",
            existing_file=(".copilot/mcp-config.json", '{\n  // mine\n  "mcpServers": {}, // why\n}\n'),
            session_command=("copilot", "--silent", "--allow-tool=shell", "--allow-tool=write", "-p", "{prompt}"),
            shell=lambda command: use("bash", command=command, description="Act"),
            write=lambda path, text: use("create", path=path, file_text=text),
            client="copilot-cli",
            variables={
                # A provider of one's own needs no account, and offline nothing else is asked.
                "COPILOT_OFFLINE": "true",
                "COPILOT_PROVIDER_BASE_URL": "{url}",
                "COPILOT_PROVIDER_TYPE": "anthropic",
                "COPILOT_PROVIDER_API_KEY": "none",
                "COPILOT_MODEL": "claude-sonnet-4.6",
            },
        ),
    )
}


@dataclass(frozen=True)
class Transcript:
    """One session of a host."""

    output: str
    """What the host printed on stdout, without colours."""
    turns: Sequence[Turn]
    """The requests to the model, and its steps."""


@dataclass(frozen=True)
class HostHome:
    """A home directory and a project directory for hosts."""

    home: Path
    project: Path
    environment: Mapping[str, str]

    def write(self, file: tuple[str, str]) -> None:
        """Write a file: its path in the home directory, and its text."""
        path = self.home / file[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file[1])

    def call(self, *command: str, variables: Mapping[str, str] | None = None, stderr: bool = False) -> str:
        """Run *command* in the project directory; return what it prints, with *stderr* also there, without colours.

        It has to succeed.
        """
        done = subprocess.run(
            command,
            env={**self.environment, **(variables or {})},
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr if stderr else done.stdout)

    def claims(self, *arguments: str) -> str:
        """Run `mcp-claims`."""
        return self.call(sys.executable, "-m", "mcp_claims", *arguments)

    def lists_server(self, host: RealHost, name: str = "claims") -> bool:
        """Return whether *host* lists the server *name*."""
        line = re.compile(host.listed.replace("{name}", name))
        command = [word.replace("{name}", name) for word in host.list_command]
        listed = line.search(self.call(*command, stderr=True)) is not None
        if not listed and host.more_time is not None:
            file, old, new = host.more_time
            path = self.home / file
            path.write_text(path.read_text().replace(old, new))
            listed = line.search(self.call(*command, stderr=True)) is not None
        return listed

    def install(self, host: RealHost, *options: str) -> None:
        """Let *host* start the server, and have the settings that its sessions need."""
        if host.settings is not None:
            self.write(host.settings)
        self.claims("install", host.name, *options)

    @contextmanager
    def session(
        self,
        host: RealHost,
        prompt: str,
        script: Script,
        *,
        stays_open: bool = False,
        sub_agents: Scripts | None = None,
    ) -> Iterator[HostSession]:
        """Start a session of *host* with *prompt*, in which the model follows *script*; end what is left of it.

        If it *stays open*, it is idle after its turn, and does not end.
        """
        with scripted_model(script, sub_agents) as model:

            def filled(text: str) -> str:
                return text.replace("{url}", model.url).replace("{prompt}", prompt)

            variables = {name: filled(value) for name, value in host.variables.items()}
            process = subprocess.Popen(
                [filled(word) for word in (host.open_command if stays_open else host.session_command)],
                env={**self.environment, **variables},
                cwd=self.project,
                stdin=subprocess.PIPE if stays_open else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            try:
                if process.stdin is not None:
                    message = {"role": "user", "content": prompt}
                    process.stdin.write(json.dumps({"type": "user", "message": message}) + "\n")
                    process.stdin.flush()
                yield HostSession(process, model)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@dataclass(frozen=True)
class HostSession:
    """A running session of a host."""

    process: subprocess.Popen[str]
    model: ScriptedModel

    def finish(self) -> Transcript:
        """Wait until it ends, which it has to do well.  Raises what the script raised."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        if self.model.failure is not None:
            raise self.model.failure
        assert self.process.returncode == 0, output + errors
        return Transcript(re.sub(r"\x1b\[[\d;]*m", "", output).strip(), self.model.turns)

    def end_turn(self) -> str:
        """Wait until the turn of a session that stays open has ended, so that it is idle; return the answer."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["type"] == "result":
                return str(event["result"])
        raise AssertionError("the session has ended")

    def kill_host_of(self, server: int) -> None:
        """Kill, with SIGKILL, the process that has started *server*: the host itself, perhaps started by another one."""
        host = psutil.Process(server).ppid()
        assert self.process.pid in {host, *(each.pid for each in psutil.Process(host).parents())}
        os.kill(host, signal.SIGKILL)


def make_host_home(directory: Path) -> HostHome:
    """Make the directories below *directory*; hosts are found on the PATH."""
    assert INSTALLED, "CI has to install the hosts"
    home, project = directory / "home", directory / "project"
    for each in (home, project):
        each.mkdir()
    # Hosts would take the variables of an agent that runs the tests for their own.
    foreign = (
        *("CLAUDE", "CODEX", "COPILOT", "GEMINI", "QWEN", "OPENCODE", "ANTHROPIC", "OPENAI", "GITHUB_", "GH_"),
        *("XDG_", "MCP_CLAIMS_"),
    )
    own = {name: value for name, value in PYTHON_ENVIRONMENT.items() if not name.startswith(foreign)}
    path = f"{Path(INSTALLED) / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    # Copilot unpacks itself into its cache, 240 MB for each home directory otherwise.
    cache = {"COPILOT_CACHE_HOME": str(Path(INSTALLED) / "copilot-cache")}
    # opencode takes PWD for the project, wherever it is started.
    common = {
        "HOME": str(home),
        "PWD": str(project),
        "PATH": path,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "NO_COLOR": "1",
        **cache,
    }
    return HostHome(home, project, own | common)
