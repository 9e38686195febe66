"""`mcp-claims git-hook`: real repositories with our hooks, and sessions of other hosts that hold their files and branches."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.git import HOLDER, TIMEOUT, Git

# Runs git as a host does whose own session holds keys: HOLDER's arguments, `--`, git's.
OUR_HOST = """
import subprocess, sys
holder, end = sys.argv[1], sys.argv.index("--")
held = subprocess.Popen([sys.executable, "-c", holder, *sys.argv[2:end]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert held.stdout.readline()
code = subprocess.run(sys.argv[end + 1:]).returncode
held.communicate()
sys.exit(code)
"""
# A program that claims by the library, and runs git itself.
OUR_PROGRAM = """
import subprocess, sys
from mcp_claims import open_session
with open_session().claim(sys.argv[1]):
    sys.exit(subprocess.run(sys.argv[2:]).returncode)
"""


@pytest.fixture
def git(tmp_path: Path, claims_dir: Path) -> Git:
    return Git(tmp_path / "home", claims_dir)


@pytest.fixture
def repository(git: Git, tmp_path: Path) -> Path:
    """A repository with our hooks, and one remote."""
    repository = git.repository(tmp_path.resolve() / "project", "origin")
    git.install(repository)
    return repository


def refused(done: subprocess.CompletedProcess[str], what: str, *words: str) -> None:
    """Check that git was stopped, and that *words* were said about it."""
    assert done.returncode != 0, done.stderr
    assert f"mcp-claims: this {what} is refused, since another session holds what it changes" in done.stderr
    for word in words:
        assert word in done.stderr


def passed(done: subprocess.CompletedProcess[str]) -> None:
    """Check that git did its work, and that nothing was said of claims."""
    assert done.returncode == 0, done.stderr
    assert "mcp-claims" not in done.stderr


# Commits


@pytest.mark.rule("Y1")
def test_a_commit_of_a_file_that_another_session_holds_is_refused_with_who_holds_it_until_when_and_how_to_wait(
    git: Git, repository: Path
) -> None:
    (repository / "src" / "a.py").write_text("changed")
    before = git.must(repository, "rev-parse", "HEAD")
    with git.held(repository, "file:src/a.py") as holder:
        done = git(repository, "commit", "-qam", "x")
        refused(
            done, "commit", holder, "since ", "until ", '"refactoring"', 'Here: "src/a.py"', "Nothing was committed"
        )
        assert f"mcp-claims wait file:{repository}/src/a.py\n" in done.stderr
        assert "no-verify" not in done.stderr
        assert git.must(repository, "rev-parse", "HEAD") == before
        wait = ["mcp-claims", "wait", "--timeout", "0", f"file:{repository}/src/a.py"]
        assert git.run(repository, *wait).returncode == 1
    passed(git(repository, "commit", "-qam", "x"))


@pytest.mark.rule("Y1")
@pytest.mark.parametrize(
    ("key", "change"),
    [
        pytest.param("file:src/", "echo x >src/new.py && git add src/new.py", id="new below a directory"),
        pytest.param("file:**/*.py", "echo x >src/new.py && git add src/new.py", id="a pattern"),
        pytest.param("file:src/a.py", "git rm -q src/a.py", id="deleted"),
        pytest.param("file:src/a.py", "git rm -q --cached src/a.py", id="deleted in the index alone"),
        pytest.param("file:src/a.py", "git mv src/a.py src/c.py", id="the old name"),
        pytest.param("file:src/c.py", "git mv src/a.py src/c.py", id="the new name"),
        pytest.param("file:src/c.py", "git config diff.renames copies && git mv src/a.py src/c.py", id="configured"),
        pytest.param("file:README.md", "git rm -qr src && rm README.md && git add README.md", id="among others"),
    ],
)
def test_what_is_staged_is_checked_in_every_form(git: Git, repository: Path, key: str, change: str) -> None:
    done = git.run(repository, "sh", "-ec", change)
    assert done.returncode == 0, done.stderr
    with git.held(repository, key):
        refused(git(repository, "commit", "-qm", "x"), "commit")
    passed(git(repository, "commit", "-qm", "x"))


@pytest.mark.rule("Y1")
def test_a_commit_of_other_files_goes_through(git: Git, repository: Path) -> None:
    with git.held(repository, "file:src/a.py", "file:docs/", "branch:main", "src/b.py"):
        for name in ("a.py", "b.py"):
            (repository / "src" / name).write_text("changed")
        passed(git(repository, "commit", "-qm", "x", "--", "src/b.py"))  # Of an index of its own.
        (repository / "README.md").write_text("changed")
        git.must(repository, "add", "README.md")
        passed(git(repository, "commit", "-qm", "x"))


@pytest.mark.rule("Y1")
def test_the_files_of_a_worktree_are_its_own(git: Git, repository: Path) -> None:
    worktree = repository.parent / "worktree"
    git.must(repository, "worktree", "add", "-q", str(worktree), "-b", "topic")
    (worktree / "src" / "a.py").write_text("changed")
    with git.held(repository, "file:src/a.py"):
        passed(git(repository, "-C", str(worktree), "commit", "-qam", "x"))
    (worktree / "src" / "b.py").write_text("changed")
    with git.held(worktree, "file:src/b.py"):
        refused(git(repository, "-C", str(worktree), "commit", "-qam", "y"), "commit", "worktree/src/b.py")


@pytest.mark.rule("Y1")
def test_of_many_staged_files_those_that_are_held_are_found(git: Git, repository: Path) -> None:
    for number in range(40):
        (repository / f"Dir{number % 5}").mkdir(exist_ok=True)
        (repository / f"Dir{number % 5}" / f"File{number}.py").touch()
    git.must(repository, "add", ".")
    with git.held(repository, "file:Dir3/File3.py", "file:Dir4/", "file:Dir0/other.py", "file:**/*.md"):
        done = git(repository, "commit", "-qm", "x")
        refused(done, "commit", 'Here: "Dir3/File3.py".', '"Dir4/File9.py".', f"file:{repository}/Dir3/File3.py ")
        assert done.stderr.count("Here:") == 2
    with git.held(repository, "file:README.md", "file:Dir9/", "file:/elsewhere/"):
        passed(git(repository, "commit", "-qm", "x"))


@pytest.mark.rule("Y2")
@pytest.mark.parametrize("how", ["shared", "slots"])
def test_what_others_may_have_too_stops_nobody(git: Git, repository: Path, how: str) -> None:
    (repository / "src" / "a.py").write_text("changed")
    with git.held(repository, "file:src/a.py", "branch:main", how=how):
        passed(git(repository, "commit", "-qam", "x"))
        passed(git(repository, "push", "-q"))


# Whose claims


@pytest.mark.rule("Y3")
def test_what_our_own_session_holds_stops_nothing(git: Git, repository: Path) -> None:
    (repository / "src" / "a.py").write_text("changed")
    ours = [sys.executable, "-c", OUR_HOST, HOLDER, "alone", "file:src/", "branch:main", "--"]
    passed(git.run(repository, *ours, "git", "commit", "-qam", "x"))
    passed(git.run(repository, *ours, "sh", "-c", "git push -q"))
    passed(git.run(repository, sys.executable, "-c", OUR_PROGRAM, "branch:main", "git", "push", "-qf"))
    passed(git.run(repository, "mcp-claims", "run", "branch:main", "--", "git", "push", "-qf"))
    shell = "mcp-claims try branch:main --for-pid $$ >/dev/null && git push -qf; exit $?"
    passed(git.run(repository, "sh", "-c", shell))


@pytest.mark.rule("Y3")
def test_what_a_person_holds_stops_agents_and_not_that_person(git: Git, repository: Path) -> None:
    (repository / "src" / "a.py").write_text("changed")
    assert git.claims(repository, "hold", "file:src/", "--for", "1h").returncode == 0
    agents = git(repository, "commit", "-qam", "x", CLAUDE_CODE_SESSION_ID="one")
    refused(agents, "commit", "is held by a person")
    passed(git(repository, "commit", "-qam", "x"))


@pytest.mark.rule("Y2")
def test_where_it_is_not_known_whose_a_claim_is_git_goes_on_with_a_warning_unless_strict(
    git: Git, repository: Path
) -> None:
    (repository / "src" / "a.py").write_text("changed")
    git.must(repository, "add", ".")
    assert git.claims(repository, "try", "file:src/a.py", "--session", "ci").returncode == 0
    strict = git.claims(repository, "git-hook", "pre-commit", "--strict")
    assert strict.returncode == 1 and "since another session may hold what it changes" in strict.stderr
    ours = git.claims(repository, "git-hook", "pre-commit", "--strict", MCP_CLAIMS_SESSION="ci")
    assert (ours.returncode, ours.stderr) == (0, "")
    done = git(repository, "commit", "-qm", "x")
    assert done.returncode == 0 and "whose it is cannot be known here" in done.stderr and ":session:ci" in done.stderr
    assert "unlike with --strict" in done.stderr


# Pushes


@pytest.mark.rule("Y1")
def test_a_push_of_a_held_branch_is_refused_however_git_is_called(git: Git, repository: Path) -> None:
    worktree, clone = repository.parent / "worktree", repository.parent / "clone"
    git.must(repository, "worktree", "add", "-q", str(worktree), "-b", "topic")
    git.must(repository.parent, "clone", "-q", str(repository.parent / "origin.git"), str(clone))
    git.must(repository, "config", "alias.ship", "push origin HEAD:main")
    (worktree / "new").touch()
    git.must(worktree, "add", "new")
    git.must(worktree, "commit", "-qm", "new")
    before = git.must(repository, "ls-remote", "origin")
    with git.held(clone, "branch:main") as holder:
        for arguments in (
            ("push", "origin", "topic:main"),
            ("-C", str(worktree), "push", "origin", "HEAD:refs/heads/main"),
            ("-C", str(worktree), "ship"),
            ("push", "--force", "origin", "topic:main"),
            ("push", "origin", "+topic:main", "topic"),
            ("push", "origin", "--delete", "main"),
            ("push", str(repository.parent / "origin.git"), "topic:main"),
            ("push", f"file://{repository.parent}/origin.git", "topic:main"),
        ):
            refused(
                git(repository, *arguments),
                "push",
                holder,
                'Here: "main"',
                f"branch:{repository.parent}/origin.git:main",
            )
        assert git.must(repository, "ls-remote", "origin") == before
        passed(git(repository, "push", "-q", "origin", "topic"))
        passed(git(repository, "tag", "main", "topic"))
        passed(git(repository, "push", "-q", "origin", "refs/tags/main"))
        assert git.run(repository, "echo", "git", "push", "origin", "main").stdout == "git push origin main\n"
        passed(git(repository, "fetch", "-q", "origin", "main"))
    passed(git(repository, "push", "-q", "origin", "topic:refs/heads/main"))


@pytest.mark.rule("Y1")
def test_of_two_remotes_the_one_that_is_pushed_to_counts(git: Git, tmp_path: Path) -> None:
    repository = git.repository(tmp_path.resolve() / "project", "origin", "fork")
    git.install(repository)
    git.must(repository, "commit", "-q", "--allow-empty", "-m", "second")
    with git.held(repository, "branch:fork/main"):
        passed(git(repository, "push", "-q", "origin", "main"))
        refused(git(repository, "push", "-q", "fork", "main"), "push", "/fork.git:main")
        git.must(repository, "remote", "set-url", "--push", "origin", "../fork.git")
        git.must(repository, "commit", "-q", "--allow-empty", "-m", "third")
        refused(git(repository, "push", "-q", "origin", "main"), "push", "/fork.git:main")


@pytest.mark.rule("Y1")
def test_of_many_branches_that_are_pushed_those_that_are_held_are_found(git: Git, repository: Path) -> None:
    for number in range(20):
        git.must(repository, "branch", f"topic{number}")
    with git.held(repository, "branch:topic7"):
        refused(git(repository, "push", "--all", "origin"), "push", 'Here: "topic7"')
    with git.held(repository, "branch:topic21", "file:src/"):
        passed(git(repository, "push", "-q", "--all", "origin"))


@pytest.mark.rule("Y1")
def test_a_push_to_a_server_is_known_by_its_url_without_what_differs_between_clones(git: Git, repository: Path) -> None:
    refs = "refs/heads/x 1 refs/heads/main 2\n(delete) 0 refs/heads/old 3\n:/a b 1 refs/heads/other 0\n"

    def push(url: str, text: str = refs) -> subprocess.CompletedProcess[str]:
        hook = [sys.executable, "-P", "-m", "mcp_claims", "git-hook", "pre-push", "up", url]
        return git.run(repository, *hook, text=text)

    for branch in ("main", "old", "other"):
        with git.held(repository, f"branch:github.com/acme/web:{branch}"):
            refused(push("git@github.com:Acme/web.git"), "push", f'Here: "{branch}"')
            refused(push("https://user:secret@github.com/acme/web"), "push")
            passed(push("git@github.com:acme/other.git"))
            passed(push("git@github.com:acme/web.git", ""))
    unreadable = push("https://user:secret@/acme/web")
    assert unreadable.returncode == 0
    assert "git goes on: " in unreadable.stderr and "secret" not in unreadable.stderr


# Trouble


@pytest.mark.rule("Y2")
def test_while_the_store_is_in_trouble_git_goes_on_and_a_line_says_so_unless_strict(
    git: Git, repository: Path, claims_dir: Path
) -> None:
    claims_dir.write_text("no directory")
    (repository / "src" / "a.py").write_text("changed")
    done = git(repository, "commit", "-qam", "x")
    assert done.returncode == 0
    assert (
        done.stderr.startswith("mcp-claims: the claims were not checked, git goes on: ")
        and done.stderr.count("\n") == 1
    )
    assert str(claims_dir) in done.stderr
    done = git(repository, "push", "-q")
    assert done.returncode == 0 and "git goes on" in done.stderr
    git.install(repository, "--strict")
    git.must(repository, "mv", "src/a.py", "src/c.py")
    for arguments in (("commit", "-qm", "y"), ("push", "-q", "origin", "main:other")):
        done = git(repository, *arguments)
        assert done.returncode != 0 and "this hook is strict, so git stops" in done.stderr


@pytest.mark.rule("Y2")
@pytest.mark.parametrize(
    "variables", [{"MCP_CLAIMS_DIR": "relative"}, {"MCP_CLAIMS_LAYOUT": "nonsense"}, {"PATH": "/nowhere"}], ids=str
)
def test_wrong_settings_stop_nobody(git: Git, repository: Path, variables: dict[str, str]) -> None:
    done = git.claims(repository, "git-hook", "pre-commit", **variables)
    assert done.returncode == 0 and "git goes on" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.rule("Y2")
def test_a_store_that_does_not_answer_is_not_waited_for(git: Git, repository: Path) -> None:
    git.must(repository, "rm", "-q", "src/a.py")
    del git.environment["MCP_CLAIMS_DIR"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = f"etcd://127.0.0.1:{silent.getsockname()[1]}/claims"
        done = git.claims(repository, "git-hook", "pre-commit", "--store", store)
    assert done.returncode == 0 and "has not answered within 1 s" in done.stderr, done.stderr


@pytest.mark.rule("Y2")
def test_a_lock_that_another_process_keeps_does_not_keep_the_hook_from_reading(
    git: Git, repository: Path, claims_dir: Path
) -> None:
    git.must(repository, "rm", "-q", "src/a.py")
    with git.held(repository, "file:src/a.py"):
        lock = next(each for each in (claims_dir / "places").iterdir() if "lock" in each.name)
        keep = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", keep, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as keeper:
            assert keeper.stdout is not None and keeper.stdout.readline()
            refused(git(repository, "commit", "-qm", "x"), "commit")
            keeper.communicate(timeout=TIMEOUT)


@pytest.mark.rule("Y2")
def test_a_claim_that_cannot_be_read_is_warned_of(git: Git, repository: Path, claims_dir: Path) -> None:
    git.must(repository, "rm", "-q", "src/a.py")
    with git.held(repository, "file:src/a.py"):
        record = next(each for each in (claims_dir / "places").iterdir() if "a.py" in each.name)
        record.write_text("{")
        strict = git.claims(repository, "git-hook", "pre-commit", "--strict")
        assert strict.returncode == 1 and "cannot be read" in strict.stderr
        done = git(repository, "commit", "-qm", "x")
        assert done.returncode == 0 and "cannot be read" in done.stderr and str(record) in done.stderr


def test_an_agent_reads_times_in_utc_and_a_person_in_their_own(git: Git, repository: Path) -> None:
    git.must(repository, "rm", "-q", "src/a.py")
    with git.held(repository, "file:src/a.py"):
        assert "s ago)" in git(repository, "commit", "-qm", "x").stderr
        assert "s ago)" not in git(repository, "commit", "-qm", "x", CLAUDE_CODE_SESSION_ID="one").stderr


def test_the_command_to_wait_names_a_store_that_is_not_the_usual_one(git: Git, repository: Path) -> None:
    git.must(repository, "rm", "-q", "src/a.py")
    other = str(repository.parent / "other claims")
    with git.held(repository, "file:src/a.py", MCP_CLAIMS_DIR=other):
        done = git.claims(repository, "git-hook", "pre-commit", "--dir", other)
        refused(done, "commit", f"mcp-claims wait --dir '{other}' file:{repository}/src/a.py")
