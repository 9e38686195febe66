"""`install` and `uninstall` on each host's file in odd states: done right, or refused with the file untouched."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts import HOSTS, Host, Launch, UserEnvironment, install
from mcp_claims.hosts.atomic_file import backup_path
from mcp_claims.hosts.errors import HostFileChangedError
from tests.hosts.conftest import Run
from tests.hosts.texts import is_within
from tests.support.launch import unshare
from tests.support.platforms import PLATFORM
from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

OURS = ["-P", "-m", "mcp_claims", "serve"]


def has_comments(host: Host) -> bool:
    return getattr(host.format, "comments", False)


def sample(host: Host) -> str:
    """Return a file of *host* as people have it: with another server, with settings, and with comments if it takes them."""
    if host.name == "codex":
        return '# mine\nmodel = "o3"\n\n[mcp_servers.docs]\ncommand = "docs" # why\n\n[projects."/a"]\ntrust_level = "trusted"\n'
    if host.name == "continue":
        return (
            "# mine\nname: Mine\nversion: 1.0.0\nschema: v1\nmcpServers:\n  - name: docs\n    command: docs # why\n"
            "models:\n  - name: GPT\n"
        )
    (place,) = host.key_path
    text = f'{{\n    "theme": "ü",\n    "{place}": {{\n        "docs": {{"command": "docs"}}\n    }},\n    "z": [1, 2]\n}}\n'
    if has_comments(host):
        text = f"// mine\n{text}".replace("[1, 2]", "[1, 2] /* z */")
    return text.replace("[1, 2]", "[1, 2,],") if getattr(host.format, "trailing_commas", False) else text


def alone(host: Host) -> str:
    """Return a file of *host* with settings but no servers."""
    return {"codex": 'model = "o3"', "continue": "name: Mine\nversion: 1.0.0\nschema: v1"}.get(
        host.name, '{"theme": "dark"}'
    )


def entry(host: Host, file: Path, name: str = "claims") -> Any:
    text = file.read_bytes().decode("utf-8-sig")
    return host.format.servers(host.format.parse(text), host.key_path).get(name)


def is_ours(host: Host, file: Path) -> bool:
    found = entry(host, file)
    command = [found["command"], *found.get("args", [])] if isinstance(found["command"], str) else found["command"]
    directory = os.path.expanduser("~/.local/state/mcp-claims/claims")
    return bool(command == [os.path.abspath(sys.executable), *OURS, "--dir", directory])


def contents(home: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in home.rglob("*")
        if path.is_file()
    }


@pytest.mark.rule("H5")
def test_a_file_that_is_not_there_is_made_and_removed_again(host: Host, file: Path, run: Run) -> None:
    assert run("install", host.name)[0] == 0
    assert is_ours(host, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not backup_path(file).exists()
    assert run("uninstall", host.name)[0] == 0
    assert not file.exists()


def test_a_directory_that_is_not_there_is_made(host: Host, file: Path, run: Run) -> None:
    file.parent.rmdir()
    assert run("install", host.name)[0] == 0
    assert is_ours(host, file)


STATES: dict[str, Callable[[Host], bytes]] = {
    "with other servers": lambda host: sample(host).encode(),
    "without servers": lambda host: alone(host).encode(),
    "empty": lambda _: b"",
    "blank": lambda _: b"\n\n",
    "with CRLF": lambda host: sample(host).replace("\n", "\r\n").encode(),
    "with a byte order mark": lambda host: b"\xef\xbb\xbf" + sample(host).encode(),
    "without a last line break": lambda host: sample(host).rstrip().encode(),
}


@pytest.mark.rule("H1", "H5")
@pytest.mark.parametrize("state", STATES)
def test_all_else_stays_and_uninstall_restores_every_byte(state: str, host: Host, file: Path, run: Run) -> None:
    before = STATES[state](host)
    file.write_bytes(before)
    file.chmod(0o640)
    assert run("install", host.name)[0] == 0
    after = file.read_bytes()
    assert is_ours(host, file)
    assert is_within(before.decode(), after.decode())
    assert after.count(b"\n") == after.count(b"\r\n") or state != "with CRLF"
    assert backup_path(file).read_bytes() == before
    assert [path.stat().st_mode & 0o777 for path in (file, backup_path(file))] == [0o640, 0o640]
    assert run("uninstall", host.name)[0] == 0
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.rule("H5")
def test_beside_others_it_goes_out_to_the_byte_without_the_copy_too(host: Host, file: Path, run: Run) -> None:
    file.write_text(sample(host))
    run("install", host.name)
    backup_path(file).unlink()
    run("uninstall", host.name)
    assert file.read_text() == sample(host)


@pytest.mark.rule("H5")
def test_what_a_person_changed_since_stays_when_it_goes(host: Host, file: Path, run: Run) -> None:
    file.write_text(sample(host))
    run("install", host.name)
    file.write_text(file.read_text().replace("docs", "other"))
    run("uninstall", host.name)
    assert file.read_text() == sample(host).replace("docs", "other")


@pytest.mark.rule("H4")
def test_the_second_time_there_is_nothing_to_do_and_nothing_is_touched(
    host: Host, file: Path, home: Path, run: Run
) -> None:
    file.write_text(sample(host))
    run("install", host.name)
    before = contents(home)
    for arguments in (["install", host.name], ["install", host.name, "--dry-run"]):
        assert run(*arguments) == (0, f"{file}: nothing to do\n")
    assert contents(home) == before
    run("uninstall", host.name)
    before = contents(home)
    assert "nothing to do" in run("uninstall", host.name)[1]
    assert contents(home) == before


BAD: dict[str, Callable[[Host], bytes]] = {
    "bad": lambda host: {"codex": b"a = ", "continue": b"a: ["}.get(host.name, b'{"a": 1'),
    "of another form": lambda host: {"codex": b"mcp_servers = 1", "continue": b"mcpServers: 1"}.get(
        host.name, b'{"%s": 1}' % host.key_path[0].encode()
    ),
    "no UTF-8": lambda _: "{}".encode("utf-16"),
    "with comments that the host refuses": lambda host: (
        b"// c\n{}" if host.name in {"claude-code", "claude-desktop", "cline"} else b"\0"
    ),
    "with a trailing comma that the host refuses": lambda host: b'{"a": 1,}' if host.name == "gemini-cli" else b"\0",
}


@pytest.mark.rule("H2")
@pytest.mark.parametrize("command", ["install", "uninstall"])
@pytest.mark.parametrize("state", BAD)
def test_what_the_host_cannot_read_is_refused_and_untouched(
    state: str, command: str, host: Host, file: Path, home: Path, run: Run
) -> None:
    file.write_bytes(BAD[state](host))
    before = contents(home)
    code, output = run(command, host.name)
    assert code == 3
    assert str(file) in output
    assert "Nothing was changed" in output
    assert "--print" in output
    assert contents(home) == before


@pytest.mark.rule("H3")
def test_a_file_that_somebody_made_read_only_is_left_alone(host: Host, file: Path, home: Path, run: Run) -> None:
    file.write_text(sample(host))
    file.chmod(0o400)
    before = contents(home)
    code, output = run("install", host.name)
    assert code == 3
    assert f"{file} cannot be written" in output
    assert contents(home) == before


@pytest.mark.rule("H3")
def test_a_link_stays_one_and_what_it_leads_to_is_changed(host: Host, file: Path, tmp_path: Path, run: Run) -> None:
    real = tmp_path / "dotfiles" / "settings"
    real.parent.mkdir()
    real.write_text(sample(host))
    file.symlink_to(real)
    assert run("install", host.name)[0] == 0
    assert file.is_symlink()
    assert is_ours(host, real)
    assert backup_path(real).read_text() == sample(host)
    assert list(file.parent.iterdir()) == [file]
    run("uninstall", host.name)
    assert file.is_symlink() and real.read_text() == sample(host)


def test_a_link_that_leads_nowhere_yet_is_followed_and_one_in_a_circle_is_refused(
    host: Host, file: Path, tmp_path: Path, run: Run
) -> None:
    file.symlink_to(tmp_path / "dotfiles" / "settings")
    assert run("install", host.name)[0] == 0
    assert file.is_symlink() and is_ours(host, tmp_path / "dotfiles" / "settings")
    file.unlink()
    file.symlink_to(file)
    code, output = run("install", host.name)
    assert code == 3 and "Nothing was changed" in output


@pytest.mark.rule("H2")
def test_a_home_that_is_no_absolute_path_is_refused(
    host: Host, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (start := tmp_path / "start").mkdir()
    monkeypatch.chdir(start)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "somewhere")
    for command in ("install", "uninstall"):
        code, output = run(command, host.name)
        assert code == 2 and "HOME must be the absolute path" in output and "Nothing was changed" in output
        assert list(start.iterdir()) == []


@pytest.mark.rule("H2")
def test_a_variable_of_a_host_that_is_no_absolute_path_is_refused(
    home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (start := tmp_path / "start").mkdir()
    monkeypatch.chdir(start)
    monkeypatch.setenv("CODEX_HOME", "somewhere")
    code, output = run("install", "codex")
    assert code == 3 and "relative path" in output and "Nothing was changed" in output
    assert list(start.iterdir()) == [] == list(home.iterdir())


def test_a_directory_in_its_place_is_refused(host: Host, file: Path, run: Run) -> None:
    file.mkdir()
    code, output = run("install", host.name)
    assert code == 3 and "is not a file" in output


@pytest.mark.rule("H4")
def test_what_others_added_to_the_entry_stays_and_the_interpreter_is_renewed(host: Host, file: Path, run: Run) -> None:
    run("install", host.name)
    added = {"codex": 'startup_timeout_sec = 99\n\n[mcp_servers.claims.env]\nA = "b"\n'}
    text = file.read_text().replace(os.path.abspath(sys.executable), "/gone/python")
    text = text.replace("startup_timeout_sec = 30\n", added["codex"] if host.name == "codex" else "")
    if host.name not in ("codex", "continue"):
        text = text.replace('"command"', '"env": {"A": "b"},\n"command"')
    if host.name == "continue":
        text = text.replace("    command", "    env:\n      A: b\n    command")
    if host.name == "codex":
        # What comes after the table in the table below it would be of that one.
        text = text.replace("tool_timeout_sec = 330\n", "")
    file.write_text(text)
    assert entry(host, file)["env"] == {"A": "b"}
    assert run("install", host.name)[0] == 0
    assert is_ours(host, file)
    assert entry(host, file)["env"] == {"A": "b"}
    if host.name == "codex":
        assert entry(host, file)["startup_timeout_sec"] == 99


REMOTE = {"url": "https://other.example/mcp", "httpUrl": "https://other.example/mcp", "headers": {"A": "b", "C": "d"}}


@pytest.mark.rule("H4")
def test_the_fields_of_a_remote_server_go_and_all_else_stays(host: Host, file: Path, run: Run) -> None:
    file.write_text(sample(host))
    run("install", host.name)
    installed = file.read_text()
    at = installed.rindex("\n", 0, installed.rindex("command")) + 1
    indentation = installed[at:][: len(installed[at:]) - len(installed[at:].lstrip())]
    remote = [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in REMOTE.items()]
    if '"type"' not in installed:
        remote.append('"type": "http",')
    if host.name == "codex":
        remote = ['url = "https://other.example/mcp"', 'bearer_token_env_var = "T"', 'env_http_headers = { A = "B" }']
    if host.name == "continue":
        remote = ["type: sse", "url: https://other.example/mcp", "requestOptions:", "  headers:", "    A: b"]
    comment = {"codex": "# mine\n", "continue": "    # mine\n"}.get(
        host.name, "// mine\n" if has_comments(host) else ""
    )
    lines = "".join(f"{indentation}{line}\n" for line in remote)
    tables = (
        '\n[mcp_servers.claims.http_headers]\nA = "b"\n',
        '\n[mcp_servers.claims.env]\nA = "b"\n\n# last\n[tui]\na = 1\n',
    )
    before, after = (tables[0] + tables[1], tables[1]) if host.name == "codex" else ("", "")
    file.write_text(installed[:at] + comment + lines + installed[at:] + before)
    assert run("install", host.name)[0] == 0
    assert file.read_text() == installed[:at] + comment + installed[at:] + after
    assert is_ours(host, file)


@pytest.mark.rule("H4")
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("gemini-cli", '{"mcpServers": {"claims": {"httpUrl": "https://x", "env": {"A": "b"}}}}', {"env": {"A": "b"}}),
        ("zed", '{"context_servers": {"claims": {"url": "https://x", /* mine */}}}', {}),
        ("vscode", '{"servers": {"claims": {"type": "sse", "url": "https://x"}}}', {}),
        ("opencode", '{"mcp": {"claims": {"type": "remote", "url": "https://x", "oauth": {}}}}', {}),
        ("codex", 'mcp_servers.claims = { url = "https://x", cwd = "/c" }\n', {"cwd": "/c"}),
        ("codex", 'mcp_servers.claims.url = "https://x"\nmcp_servers.claims.http_headers.A = "b"\n', {}),
        ("codex", '[mcp_servers]\nclaims.url = "https://x"\nclaims.cwd = "/c" # mine\n', {"cwd": "/c"}),
        ("codex", '[mcp_servers.claims.http_headers]\nA = "b"\n[mcp_servers.claims]\nurl = "https://x"\n', {}),
        ("continue", "mcpServers:\n- url: https://x\n  name: claims\n  cwd: /c\n", {"cwd": "/c"}),
        ("continue", "mcpServers:\n- url: https://x\n  # mine\n  name: claims\n", {}),
        ("continue", "mcpServers:\n-\n  url: https://x\n  name: claims\n", {}),
        (
            "continue",
            "mcpServers:\n- headers:\n    A: b\n  name: claims\n  url:\n  apiKey: | # k\n    a\n  env: {A: b}",
            {"env": {"A": "b"}},
        ),
        (
            "continue",
            "mcpServers:\n- name: claims\n  headers: {A: b,\n    C: d} # mine\n  url: 'x\n    y'\nmodels: []\n",
            {},
        ),
    ],
)
def test_a_remote_server_becomes_ours_however_it_is_written(
    name: str, before: str, after: dict[str, object], home: Path, run: Run
) -> None:
    host = HOSTS[name]
    file = host.config_file(UserEnvironment(home, PLATFORM, {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    run("install", name)
    new = entry(host, file)
    file.write_text(before)
    code, output = run("install", name)
    assert code == 0, output
    assert entry(host, file) == {**new, **after}
    assert before.count("mine") == file.read_text().count("mine") or "# mine\n  url: 'x" in before


@pytest.mark.rule("H1")
def test_an_entry_keeps_its_comments_and_its_layout(host: Host, file: Path, run: Run) -> None:
    file.write_text(sample(host))
    run("install", host.name)
    comment = {"codex": "# why", "continue": "# why"}.get(host.name, "// why" if has_comments(host) else "")
    now = "".join(f"{line} {comment}\n" for line in file.read_text().splitlines())
    file.write_text(now.replace(os.path.abspath(sys.executable), "/gone/python").replace('"-P"', '"-I"'))
    assert run("install", host.name)[0] == 0
    assert file.read_text() == now


def test_a_dry_run_shows_the_difference_and_changes_nothing(host: Host, file: Path, home: Path, run: Run) -> None:
    file.write_text(sample(host))
    before = contents(home)
    code, output = run("install", host.name, "--dry-run")
    assert code == 0
    assert output.startswith(f"--- {file}\n+++ {file}\n@@ ")
    assert any(line.startswith("+") and "mcp_claims" in line for line in output.splitlines())
    assert contents(home) == before


def test_the_difference_that_is_shown_is_the_one_that_is_made(host: Host, file: Path, tmp_path: Path, run: Run) -> None:
    file.write_text(sample(host))
    output = run("install", host.name, "--dry-run")[1]
    copy = tmp_path / "copy"
    copy.write_text(sample(host))
    subprocess.run([installed("patch"), "-s", str(copy)], input=output, text=True, check=True)
    run("install", host.name)
    assert copy.read_text() == file.read_text()


def test_what_is_printed_to_paste_is_what_would_be_written(host: Host, file: Path, home: Path, run: Run) -> None:
    code, output = run("install", host.name, "--print")
    assert code == 0 and contents(home) == {}
    run("install", host.name)
    assert file.read_text() == output


def test_it_has_the_name_that_it_is_given(host: Host, file: Path, run: Run) -> None:
    file.write_text(sample(host))
    run("install", host.name, "--name", "team-claims")
    assert entry(host, file) is None and entry(host, file, "team-claims")
    assert "nothing to do" in run("uninstall", host.name)[1]
    run("uninstall", host.name, "--name", "team-claims")
    assert file.read_text() == sample(host)


@pytest.mark.rule("H3")
def test_what_the_host_writes_meanwhile_is_not_lost(host: Host, file: Path, home: Path) -> None:
    file.write_text(sample(host))
    (change,) = install(
        host, UserEnvironment(home, PLATFORM, {}), "claims", Launch("/python", ("-m", "mcp_claims", "serve"))
    )
    file.write_text(alone(host))
    with pytest.raises(HostFileChangedError):
        change.write()
    assert file.read_text() == alone(host)


def in_a_process(home: Path, before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line after what *before*, some shell, has done to its surroundings."""
    command = shlex.join([sys.executable, "-m", "mcp_claims", *arguments])
    return subprocess.run(
        [*unshare("--mount"), "sh", "-ec", f"{before}\nexec {command}"],
        env=PYTHON_ENVIRONMENT | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.rule("H3")
def test_a_directory_that_is_read_only_is_an_error_that_says_so(home: Path) -> None:
    (home / ".claude.json").write_text("{}")
    where = shlex.quote(str(home))
    done = in_a_process(
        home, f"mount --bind {where} {where}; mount -o remount,ro,bind {where}", "install", "claude-code"
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{home / '.claude.json'} cannot be written: Read-only file system. Nothing was changed." in done.stderr


@pytest.mark.rule("H3")
def test_a_disk_that_is_full_leaves_the_file_and_no_litter(home: Path) -> None:
    (home / ".claude.json").write_text("{}")
    # Python ignores the signal, so that the write fails: the same as with a full disk.
    done = subprocess.run(
        [sys.executable, "-m", "mcp_claims", "install", "claude-code"],
        env=PYTHON_ENVIRONMENT | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "cannot be written" in done.stderr
    assert [path.name for path in home.iterdir()] == [".claude.json"]
    assert (home / ".claude.json").read_text() == "{}"


@pytest.mark.rule("H3")
def test_a_file_with_another_name_keeps_it(home: Path, run: Run) -> None:
    file, other = home / ".claude.json", home / "dotfiles.json"
    file.write_text("{}")
    os.link(file, other)
    assert run("install", "claude-code")[0] == 0
    assert file.samefile(other) and "mcp_claims" in other.read_text()
    assert backup_path(file).read_text() == "{}"


@pytest.mark.rule("H3")
def test_a_file_that_is_a_mount_is_overwritten(home: Path) -> None:
    file, outside = home / ".claude.json", home / "outside.json"
    for each in (file, outside):
        each.write_text("{}")
    mount = f"mount --bind {shlex.quote(str(outside))} {shlex.quote(str(file))}"
    done = in_a_process(home, mount, "install", "claude-code")
    assert done.returncode == 0, done.stderr
    assert "mcp_claims" in outside.read_text()
    assert sorted(each.name for each in home.iterdir()) == [file.name, backup_path(file).name, outside.name]


@pytest.mark.rule("H3")
def test_of_two_installs_at_once_the_second_changes_nothing(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, answers = home / ".claude.json", list[tuple[int, str]]()
    file.write_text("{}")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        answers.append(run("install", "claude-code", "--name", "second"))
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    assert run("install", "claude-code", "--name", "first")[0] == 0
    ((code, output),) = answers
    assert code != 0 and "Try again" in output
    assert "first" in file.read_text() and "second" not in file.read_text()
    assert run("install", "claude-code", "--name", "second")[0] == 0
    assert "first" in file.read_text() and "second" in file.read_text()


@pytest.mark.rule("H3")
def test_what_a_killed_install_left_is_removed_and_nothing_else(home: Path, run: Run) -> None:
    (home / "..claude.json.0123abcd").write_text("a token")
    (home / "..claude.json.mcp-claims.bak.0123abcd").write_text("a token")
    for other in ("..claude.json.0123abcde", "..claude.json.bak", "x..claude.json.0123abcd"):
        (home / other).write_text("of somebody")
    run("install", "claude-code")
    assert sorted(each.name for each in home.iterdir()) == sorted(
        [".claude.json", "..claude.json.0123abcde", "..claude.json.bak", "x..claude.json.0123abcd"]
    )
