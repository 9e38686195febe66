"""`mcp-claims doctor`: it finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.doctor import Finding, Level, filesystem
from mcp_claims.doctor.filesystem import check_file_system, kind_of
from mcp_claims.doctor.liveness import check_liveness
from mcp_claims.errors import UnsafeDirectoryError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Moment, Proof
from mcp_claims.render.lists import list_answer, prune_answer
from mcp_claims.session.identity import process_session
from mcp_claims.stores.config import open_store
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.cli.test_command_line import run
from tests.session.bench import granted
from tests.support.servers import PYTHON_ENVIRONMENT
from tests.support.users import open_to_all

if sys.platform == "win32":
    pytest.skip("modes and owners are those of POSIX", allow_module_level=True)

CHECKS = ["directory", "parents", "file system", "space", "lock", "rename", "claims", "history", "clocks", "identity"]


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """Return a directory with a live claim of this process in it."""
    granted(process_session(FileStore(tmp_path / "claims")), "red")
    return tmp_path / "claims"


def doctor(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_claims", "doctor", "--dir", str(directory), *arguments],
        env=PYTHON_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def examined(directory: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run the doctor; return its exit code and all that is not well."""
    done = doctor(directory, "--json")
    assert done.stderr == ""
    report = json.loads(done.stdout)
    bad = [finding for finding in report["findings"] if finding["level"] != "ok"]
    assert all(finding["remedy"] for finding in bad)
    assert report["worst"] == max(
        (finding["level"] for finding in report["findings"]), key=["ok", "warning", "failure"].index
    )
    return done.returncode, bad


def contents(directory: Path) -> dict[str, Any]:
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(directory.rglob("*"))
    }


def test_where_all_is_well_each_check_says_so_and_nothing_changes(claims: Path) -> None:
    before = contents(claims)
    done = doctor(claims)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[6:].split("  ")[0] for line in lines] == CHECKS
    assert all(line.startswith("ok ") for line in lines), done.stdout
    assert "1 held, 0 expired or orphaned" in done.stdout
    assert contents(claims) == before


@pytest.mark.rule("M1")
def test_of_a_key_that_several_hold_each_is_counted_and_nothing_is_wrong(claims: Path) -> None:
    sessions = [process_session(FileStore(claims)) for _ in range(2)]
    for session in sessions:
        assert session.try_claim("port", slots=3).claimed and session.try_claim("schema", shared=True).claimed
    done = doctor(claims)
    assert done.returncode == 0 and "5 held, 0 expired or orphaned" in done.stdout, done.stdout


def test_a_directory_that_is_not_there_is_no_fault_and_is_not_made(tmp_path: Path) -> None:
    assert examined(tmp_path / "not" / "there") == (0, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "more/of/it"])
def test_a_directory_that_a_link_to_nowhere_keeps_from_being_made_is_found(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    exit_code, bad = examined(tmp_path / "link" / below)
    assert exit_code == 1
    assert any(finding["check"] == "directory" and "leads nowhere" in finding["what"] for finding in bad), bad


def test_a_name_that_is_too_long_is_a_finding(tmp_path: Path) -> None:
    exit_code, bad = examined(tmp_path / ("x" * 300))
    assert exit_code == 1
    assert any(finding["check"] == "directory" and "File name too long" in finding["what"] for finding in bad), bad


@pytest.mark.parametrize(
    ("closed", "mode", "examine", "what"),
    [
        ("claims/default", 0o000, "claims", "default cannot be written by this user"),
        ("claims/default", 0o500, "claims", "default cannot be written by this user"),
        ("claims/default", 0o600, "claims", "default cannot be written by this user"),
        ("claims", 0o400, "claims", "claims (chosen by a test) cannot be written by this user"),
        ("claims", 0o000, "claims/inside/of/it", "cannot be examined: Permission denied"),
    ],
)
def test_what_this_user_may_not_enter_or_write_is_a_finding(
    tmp_path: Path, closed: str, mode: int, examine: str, what: str
) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mcp_claims.doctor import Level, run_checks\n"
        "from mcp_claims.session.identity import process_session\n"
        "from mcp_claims.stores.files.store import FileStore\n"
        "here, closed, mode, examine = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]\n"
        # All is imported; nobody else may read the interpreter's files, and nothing keeps root from looking.
        "list(run_checks(here, 'a test'))\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "process_session(FileStore(here / 'claims')).try_claim('red')\n"
        "(here / closed).chmod(mode)\n"
        "sys.executable = '/bin/false'\n"
        "try:\n"
        "    findings = list(run_checks(here / examine, 'a test'))\n"
        "finally:\n"
        "    (here / closed).chmod(0o700)\n"
        "print(*(finding.what for finding in findings if finding.level is Level.FAILURE), sep='\\n')\n"
    )
    open_to_all(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), closed, str(mode), examine],
        env=PYTHON_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert what in done.stdout


def test_the_shape_of_the_json_is_what_scripts_rely_on(claims: Path) -> None:
    report = json.loads(doctor(claims, "--json").stdout)
    assert set(report) == {"worst", "findings"}
    assert {frozenset(finding) for finding in report["findings"]} == {frozenset({"check", "level", "what", "remedy"})}


def test_the_finding_names_what_chose_the_directory(claims: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_claims", "doctor"],
        env=PYTHON_ENVIRONMENT | {"MCP_CLAIMS_DIR": str(claims)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{claims} (chosen by MCP_CLAIMS_DIR) is yours alone" in done.stdout


HARM: dict[str, tuple[Callable[[Path], object], int, str, str]] = {
    "others can write it": (lambda claims: claims.chmod(0o777), 1, "directory", "can be written by others"),
    "a namespace that others can write": (
        lambda claims: (claims / "default").chmod(0o770),
        0,
        "claims",
        "can be written by others",
    ),
    "a parent that others can write": (
        lambda claims: claims.parent.chmod(0o777),
        1,
        "parents",
        "others could replace the claims directory",
    ),
    "a damaged claim": (
        lambda claims: (claims / "default" / "red.json").write_text("{"),
        0,
        "claims",
        "red.json (not JSON",
    ),
    "another file": (lambda claims: (claims / "notes.txt").write_text("x"), 0, "entries", "notes.txt"),
    "a damaged mark": (lambda claims: (claims / "default" / ".lock").write_text("x"), 0, "locks", "generation counter"),
    "a mark that nobody can open": (lambda claims: _link_the_lock_away(claims), 1, "locks", "cannot be opened"),
    "a lock that leads nowhere": (lambda claims: _replace_the_lock(claims, "link"), 1, "locks", "cannot be opened"),
    "a lock that is a pipe": (lambda claims: _replace_the_lock(claims, "pipe"), 1, "locks", "is not a file"),
    "a namespace that is a link": (lambda claims: (claims / "z").symlink_to("default"), 1, "entries", "is a link"),
}


def _link_the_lock_away(claims: Path) -> None:
    lock = claims / "default" / ".lock"
    lock.rename(claims.parent / "lock")
    lock.symlink_to(claims.parent / "lock")


def _replace_the_lock(claims: Path, kind: str) -> None:
    lock = claims / "default" / ".lock"
    lock.unlink()
    if kind == "link":
        lock.symlink_to(claims.parent / "nowhere")
    else:
        os.mkfifo(lock)


@pytest.mark.parametrize(("harm", "code", "check", "what"), HARM.values(), ids=HARM)
def test_what_is_wrong_is_found_with_a_remedy_and_left_as_it_is(
    claims: Path, harm: Callable[[Path], object], code: int, check: str, what: str
) -> None:
    harm(claims)
    before = contents(claims)
    exit_code, bad = examined(claims)
    assert exit_code == code
    assert any(finding["check"] == check and what in finding["what"] for finding in bad), bad
    assert contents(claims) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
@pytest.mark.parametrize("which", ["directory", "parents"])
def test_for_a_directory_of_another_user_no_mode_is_advised(claims: Path, which: str) -> None:
    os.chown(claims if which == "directory" else claims.parent, 12_345, -1)
    exit_code, bad = examined(claims)
    (remedy,) = [finding["remedy"] for finding in bad if finding["check"] == which]
    assert exit_code == 1 and "chmod" not in remedy and "MCP_CLAIMS_DIR" in remedy


@pytest.mark.parametrize("layout", ["mcp-claims", "agent-awareness"])
@pytest.mark.parametrize("mode", [0o775, 0o777, 0o770])
def test_a_namespace_that_others_can_write_has_the_remedy_of_try_claim_in_every_view(
    tmp_path: Path, layout: str, mode: int
) -> None:
    store = open_store(str(tmp_path / "claims"), layout=layout, environment={})
    session = process_session(store)
    granted(session, "red")
    granted(session, "blue", "other")
    (tmp_path / "claims" / "default").chmod(mode)
    session = process_session(open_store(str(tmp_path / "claims"), layout=layout, environment={}))
    with pytest.raises(UnsafeDirectoryError) as refused:
        session.try_claim("red")
    remedy = f"Make it yours alone (`chmod 700 {tmp_path / 'claims' / 'default'}`)"
    assert remedy in str(refused.value)
    listed = session.list_claims()
    answer = list_answer(listed, None)
    assert remedy in answer.text and remedy in str(answer.structured["claims"])
    pruned = prune_answer(session.prune())
    assert remedy in pruned.text and "delete" not in pruned.text
    done = doctor(tmp_path / "claims", "--layout", layout, "--json")
    bad = [finding for finding in json.loads(done.stdout)["findings"] if finding["level"] != "ok"]
    assert [(finding["check"], finding["remedy"]) for finding in bad] == [("claims", f"{remedy}.")]
    table = run("list", "--dir", str(tmp_path / "claims"), "--layout", layout)
    assert remedy in table.stdout


def test_a_namespace_that_is_a_link_has_another_remedy(claims: Path) -> None:
    (claims / "other").symlink_to("default")
    with pytest.raises(UnsafeDirectoryError, match=r"is a link to elsewhere.*Remove that link, or choose another"):
        process_session(FileStore(claims)).try_claim("red", "other")


def test_whatever_is_not_shown_is_counted(claims: Path) -> None:
    session = process_session(FileStore(claims))
    for number in range(8):
        claim = granted(session, f"green {number}")
        late = [
            Moment(moment.wall + timedelta(hours=2), 1.0, "another boot") for moment in (claim.claimed, claim.expires)
        ]
        record = claims / "default" / f"green%20{number}.json"
        assert record.is_file()
        record.write_bytes(to_json(claim._replace(claimed=late[0], expires=late[1])))
        (claims / f"notes {number}").write_text("")
    found = [finding["what"] for finding in examined(claims)[1]]
    assert "3 more claims have wrong times" in found
    assert any(what.endswith(" and 3 more") for what in found)


def test_a_file_in_the_place_of_the_directory_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("")
    code, bad = examined(tmp_path / "claims")
    assert code == 1
    assert "is not a directory" in bad[0]["what"]


def test_an_expiry_that_nobody_can_have_asked_for_is_found(claims: Path) -> None:
    session = process_session(FileStore(claims))
    claim = granted(session, "green")
    far = claim.expires._replace(wall=claim.expires.wall + timedelta(days=9), ticks=claim.expires.ticks + 9 * 86_400)
    (claims / "default" / "green.json").write_bytes(to_json(claim._replace(expires=far)))
    assert "later than the longest TTL allows" in examined(claims)[1][0]["what"]


def test_a_claim_from_the_future_is_found(claims: Path) -> None:
    claim = granted(process_session(FileStore(claims)), "green")
    late = timedelta(hours=2)
    moments = [Moment(moment.wall + late, 1.0, "another boot") for moment in (claim.claimed, claim.expires)]
    (claims / "default" / "green.json").write_bytes(to_json(claim._replace(claimed=moments[0], expires=moments[1])))
    assert "was made in the future" in examined(claims)[1][0]["what"]


@contextmanager
def stopped_inside(namespace: Path) -> Iterator[int]:
    """Stop a process that has the lock of *namespace*; yields its PID."""
    program = (
        "import os, signal, sys\n"
        "from mcp_claims.stores.files.filesystem import FileSystem\n"
        "from mcp_claims.stores.files.lock import LockFile, NamespaceLock\n"
        "with LockFile(FileSystem(), sys.argv[1]) as file, NamespaceLock(file, 0):\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    command = [sys.executable, "-c", program, str(namespace)]
    with subprocess.Popen(command, env=PYTHON_ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_lock_that_a_stopped_process_keeps_is_reported_with_the_process(claims: Path) -> None:
    with stopped_inside(claims / "default") as pid:
        code, bad = examined(claims)
    assert code == 1
    assert f"default/.lock is locked by process {pid}" in bad[0]["what"]


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:40 / /home/ada/net rw,relatime shared:2 - {kind} server:/export rw
23 21 0:41 / /home/ada/with\\040space rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        *((local, Level.OK) for local in ("ext4", "xfs", "btrfs", "tmpfs", "overlay")),
        *((known, Level.WARNING) for known in ("nfs4", "cifs", "fuse.sshfs", "9p", "virtiofs", "drvfs")),
        ("not-yet-invented", Level.WARNING),
    ],
)
def test_a_file_system_that_other_machines_may_share_is_warned_about(
    tmp_path: Path, kind: str, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind=kind))
    monkeypatch.setattr(filesystem, "kind_of", lambda _, mounts: kind_of(Path("/home/ada/net/claims"), mounts))
    findings = list(check_file_system(tmp_path / "claims", mounts))
    assert [finding.level for finding in findings if finding.check == "file system"] == [level]


def test_the_kind_of_the_nearest_mount_is_taken(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind="nfs4"))
    for place, kind in (
        ("/", "ext4"),
        ("/home/ada", "ext4"),
        ("/home/ada/net/x", "nfs4"),
        ("/home/ada/with space", "tmpfs"),
    ):
        assert kind_of(Path(place), mounts) == kind
    assert kind_of(Path("/"), tmp_path / "nothing") is None


def findings_with(fs: type[FileSystem], directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(filesystem, "FileSystem", fs)
    return [finding for finding in check_file_system(directory) if finding.level is Level.FAILURE]


def test_a_lock_that_keeps_nobody_out_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LetsAllIn(FileSystem):
        def try_lock(self, fd: int, *, asked: int = 1) -> bool:
            return True

    (found,) = findings_with(LetsAllIn, tmp_path, monkeypatch)
    assert (found.check, "keeps nobody out" in found.what) == ("lock", True)


def test_a_rename_that_does_not_replace_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps(FileSystem):
        def replace(self, source: str, target: str) -> None:
            """Do nothing."""

    (found,) = findings_with(Keeps, tmp_path, monkeypatch)
    assert found.check == "rename"
    assert list(tmp_path.iterdir()) == [], "nothing of the trial is left"


class Secretive:
    """A machine that reveals little."""

    def __init__(self, machine: Machine, **hidden: None) -> None:
        self._machine, self._hidden = machine, hidden
        self.host, self.pid, self.provably_dead = machine.host, machine.pid, machine.provably_dead
        self.watch_exit, self.program_above, self.peers = machine.watch_exit, machine.program_above, machine.peers

    def now(self) -> Moment:
        return self._machine.now()._replace(epoch=None)

    def proof(self, pid: int | None = None) -> Proof:
        return self._machine.proof(pid)._replace(**self._hidden)


def test_where_death_cannot_be_proved_the_finding_names_what_is_missing() -> None:
    clocks, identity = check_liveness(Secretive(local_machine(), boot=None, start=None))
    assert (clocks.level, identity.level) == (Level.WARNING, Level.WARNING)
    assert "the boot, the start time cannot be read" in identity.what


def test_in_the_layout_of_agent_awareness_its_directory_is_what_is_examined(tmp_path: Path) -> None:
    directory = tmp_path / ".cache" / "agent-awareness" / "ada" / "claims"
    store = open_store(str(directory), layout="agent-awareness")
    granted(process_session(store), "vercel/next.js#1")
    (directory.parent / "state.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "mcp_claims", "doctor", "--provider", "ada"],
        env=PYTHON_ENVIRONMENT | {"HOME": str(tmp_path), "MCP_CLAIMS_LAYOUT": "agent-awareness"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(directory) in done.stdout and "1 held" in done.stdout and "not made by" not in done.stdout


def test_a_directory_whose_name_is_no_text_is_examined_all_the_same(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"cl\xffims")
    granted(process_session(FileStore(directory)), "red")
    done = doctor(directory)
    assert done.returncode == 0, done.stderr
    assert "1 held" in done.stdout
