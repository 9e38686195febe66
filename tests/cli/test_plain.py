"""The command lines that are understood without `argparse`: what they mean, what they cost, how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcp_claims.cli.main import build_parser
from mcp_claims.cli.plain import plain_options
from tests.cli.commands import COMMAND, Commands

PLAIN = [
    ["check", "red"],
    ["check", ""],
    ["check", "a b"],
    ["check", "hook"],
    ["hook", "guard"],
    ["hook", "guard", "--strict"],
    ["hook", "session-end"],
    ["check", "red", "--dir", "/tmp/claims"],
    ["check", "red", "--store", "etcd://one:2379/claims"],
    ["check", "red", "--dir", ""],
    ["hook", "guard", "--strict", "--layout", "agent-awareness", "--provider", "claude"],
    ["hook", "session-end", "--dir", "/tmp/claims"],
]
LEFT_TO_ARGPARSE = [
    [],
    ["check"],
    ["check", "-h"],
    ["check", "--json"],
    ["check", "red", "--json"],
    ["check", "red", "-n", "ci"],
    ["check", "--", "-red"],
    ["hook"],
    ["hook", "nonsense"],
    ["hook", "guard", "--nonsense"],
    ["hook", "guard", "--strict", "--strict"],
    ["check", "red", "--dir"],
    ["check", "red", "--dir", "-x"],
    ["check", "red", "dir", "x"],
    ["check", "red", "--dir=x"],
    ["check", "red", "--di", "x"],
    ["check", "red", "--key", "x"],
    ["check", "red", "--dir", "x", "--dir", "y"],
    ["check", "red", "green"],
    ["hook", "guard", "--dir", "x", "--strict"],
    ["release", "red"],
]


@pytest.mark.rule("L6")
@pytest.mark.parametrize("asked", PLAIN, ids=" ".join)
def test_what_is_understood_is_what_argparse_makes_of_it(asked: list[str]) -> None:
    assert plain_options(asked) == build_parser().parse_args(asked, SimpleNamespace(after_dashes=[]))


@pytest.mark.rule("L6")
@pytest.mark.parametrize("asked", LEFT_TO_ARGPARSE, ids=" ".join)
def test_whatever_else_is_left_to_argparse(asked: list[str]) -> None:
    assert plain_options(asked) is None


@pytest.mark.rule("L6")
@pytest.mark.parametrize("command", ["check red", "hook guard"])
def test_they_import_nothing_that_only_others_need(commands: Commands, command: str) -> None:
    code = (
        "import os, sys; from mcp_claims.cli.main import command\n"
        "os._exit = lambda code: print(*sys.modules)\n"
        f"sys.argv = ['mcp-claims', *{command.split()}]; command()"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path}\n{code}"],
        env=commands.environment,
        input="{}",
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "mcp_claims.stores.files.store" in loaded
    needless = {
        "mcp",
        "mcp_types",
        "pydantic",
        "anyio",
        "asyncio",
        "rich",
        "watchdog",
        "uvicorn",
        "starlette",
        "logging",
    }
    slow = {"argparse", "dataclasses", "inspect", "platformdirs", "pathlib", "shutil", "signal", "threading", "typing"}
    assert loaded & (needless | slow) == set()


@pytest.mark.rule("L6")
@pytest.mark.parametrize(
    ("environment", "plain"),
    [
        ({"HOME": "/home/kim"}, True),
        ({"HOME": "/home/kim/"}, True),
        ({"HOME": "/"}, True),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": "/var/kim"}, True),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": "/var/kim/"}, True),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": ""}, False),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": "relative"}, False),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": " /var/kim"}, False),
        ({"HOME": "/home/kim", "XDG_STATE_HOME": "/var/kim "}, False),
        ({"HOME": ""}, False),
        ({"HOME": "relative"}, False),
        ({}, False),
        ({"HOME": "/data", "ANDROID_DATA": "/data", "ANDROID_ROOT": "/system"}, False),
    ],
    ids=str,
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs is always asked")
def test_the_directory_is_that_of_platformdirs_which_is_imported_only_where_it_is_not_plain(
    environment: dict[str, str], plain: bool
) -> None:
    code = (
        "import sys; from mcp_claims.stores.config import located; print(located()[0])\n"
        "print('platformdirs' in sys.modules)\n"
        "import platformdirs; print(platformdirs.user_state_path('mcp-claims', appauthor=False) / 'claims')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    ours, imported, theirs = done.stdout.splitlines()
    assert Path(ours) == Path(theirs)
    assert imported == str(not plain)


@pytest.mark.rule("L6")
@pytest.mark.parametrize(("key", "code"), [("red", 1), ("green", 0)])
def test_all_that_is_said_arrives_although_the_process_ends_at_once(commands: Commands, key: str, code: int) -> None:
    commands("try", "red", "--for-pid", os.getpid())
    done = commands("check", key)
    assert done.returncode == code and done.stdout.endswith("\n") and done.stderr == ""
    assert ("nobody holds" in done.stdout) is (code == 0)


def test_what_is_wrong_is_said_although_the_process_ends_at_once(commands: Commands) -> None:
    done = commands("check", "")
    assert (done.returncode, done.stdout) == (2, "") and "must not be empty" in done.stderr


def test_no_place_for_errors_changes_no_answer(commands: Commands) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "check", "red"], env=commands.environment, check=False
    )
    assert done.returncode == 0
