"""Real repositories, in a home of their own, and sessions beside them that hold files and branches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

TIMEOUT = 150.0
HOST = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
"""A program that runs another one, as the host of an agent does."""

HOLDER = """
import sys
from mcp_claims import open_session
session = open_session()
how, *keys = sys.argv[1:]
for key in keys:
    assert session.try_claim(key, note="refactoring", shared=how == "shared", slots=2 if how == "slots" else None).claimed
print(session.holder.name, flush=True)
sys.stdin.read()
"""

# They lead git or us elsewhere, or say which agent runs the tests.
_PREFIXES = ("GIT_", "MCP_CLAIMS_", "XDG_", "PRE_COMMIT", "HUSKY", "CLAUDE", "CODEX", "GEMINI", "QWEN")


class Git:
    """Git and `mcp-claims`, run in directories, as a user with the home *home* and the claims in *claims_dir*."""

    def __init__(self, home: Path, claims_dir: Path) -> None:
        self.home = home
        home.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in PYTHON_ENVIRONMENT.items() if not name.startswith(_PREFIXES)}
        self.environment = kept | {
            "HOME": str(home),
            "PATH": path,
            "GIT_CONFIG_NOSYSTEM": "1",
            "MCP_CLAIMS_DIR": str(claims_dir),
        }
        (home / ".gitconfig").write_text(
            "[user]\n\tname = A\n\temail = a@example.com\n[init]\n\tdefaultBranch = main\n"
        )

    def run(self, directory: Path, *command: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end, with *text* on its standard input."""
        return subprocess.run(
            command,
            cwd=directory,
            env=self.environment | variables,
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def __call__(self, directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run git."""
        return self.run(directory, installed("git"), *arguments, **variables)

    def must(self, directory: Path, *arguments: str) -> str:
        """Run git, which has to succeed; return what it prints."""
        done = self(directory, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def claims(self, directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `mcp-claims`."""
        return self.run(directory, sys.executable, "-P", "-m", "mcp_claims", *arguments, **variables)

    def install(self, directory: Path, *options: str) -> None:
        """Run `mcp-claims install git`, which has to succeed."""
        done = self.claims(directory, "install", "git", *options)
        assert done.returncode == 0, done.stderr

    def repository(self, path: Path, *remotes: str) -> Path:
        """Make a repository with one commit, and bare ones beside it as *remotes*, of which each has its branch `main`."""
        path.mkdir()
        self.must(path, "init", "-q")
        (path / "src").mkdir()
        for name in ("README.md", "src/a.py", "src/b.py"):
            (path / name).write_text(f"{name}\n" * 20)
        self.must(path, "add", ".")
        self.must(path, "commit", "-qm", "first")
        for remote in remotes:
            self.must(path, "init", "-q", "--bare", f"../{remote}.git")
            self.must(path, "remote", "add", remote, f"../{remote}.git")
            self.must(path, "push", "-q", *(["-u"] if remote == remotes[0] else []), remote, "main")
        return path

    @contextmanager
    def held(self, directory: Path, *keys: str, how: str = "alone", **variables: str) -> Iterator[str]:
        """Let a session of another host, which works in *directory*, hold *keys*; yields its name."""
        command = [sys.executable, "-c", HOST, sys.executable, "-c", HOLDER, how, *keys]
        with subprocess.Popen(
            command,
            cwd=directory,
            env=self.environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            name = process.stdout.readline().strip()
            assert name, "it could not claim"
            try:
                yield name
            finally:
                process.stdin.close()
                process.wait(TIMEOUT)
