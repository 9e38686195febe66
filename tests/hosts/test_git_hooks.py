"""`install git` and `uninstall git`: what is there keeps running, and comes back byte for byte."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from mcp_claims.hosts.git_scripts import GUARDED, OTHERS
from tests.support.git import Git

# What was there before: notes what it gets, and ends with the code that it is told.
FORMER = '#!/bin/sh\n{ echo "$(basename "$0")" "$@"; cat; } >>"$LOG"\nexit ${CODE:-0}\n'
_REFS = r"refs/heads/main [0-9a-f]{40} refs/heads/main [0-9a-f]{40}\n"


@pytest.fixture
def git(tmp_path: Path, claims_dir: Path) -> Git:
    git = Git(tmp_path / "home", claims_dir)
    git.environment["LOG"] = str(tmp_path / "log")
    return git


@pytest.fixture
def repository(git: Git, tmp_path: Path) -> Path:
    """A repository with one remote."""
    return git.repository(tmp_path.resolve() / "project", "origin")


def put(path: Path, text: str = FORMER, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def files(*directories: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and mode of each file below *directories*."""
    found = [path for each in directories for path in each.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in found}


def commit(git: Git, repository: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    (repository / "src" / "a.py").write_text(os.urandom(4).hex())
    return git(repository, "commit", "-qam", "x", **variables)


def check_guarded(git: Git, repository: Path) -> None:
    """Check that a commit and a push are refused while another session holds what they touch, and not afterwards."""
    with git.held(repository, "file:src/a.py", "branch:main"):
        assert "this commit is refused" in commit(git, repository).stderr
        assert "this push is refused" in git(repository, "push", "origin", ":main").stderr
    assert commit(git, repository).returncode == 0
    assert git(repository, "push", "-q").returncode == 0


def log(git: Git) -> str:
    """Return what the former hooks have noted, and forget it."""
    path = Path(git.environment["LOG"])
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


@pytest.mark.rule("Y4")
def test_install_makes_git_ask_a_second_one_changes_nothing_and_uninstall_restores(git: Git, repository: Path) -> None:
    hooks = repository / ".git" / "hooks"
    before = files(hooks)
    shown = git.claims(repository, "install", "git", "--dry-run").stdout
    assert f"{hooks}/pre-commit: written (dry run: not done)" in shown and files(hooks) == before
    git.install(repository / "src")
    after = files(hooks)
    assert {Path(path).name for path in after.keys() - before.keys()} == set(GUARDED)
    assert "nothing to do" in git.claims(repository, "install", "git").stdout and files(hooks) == after
    check_guarded(git, repository)
    git.install(repository, "--strict")
    assert "--strict" in (hooks / "pre-push").read_text()
    assert git.claims(repository, "uninstall", "git").returncode == 0
    assert files(hooks) == before
    assert "nothing to do" in git.claims(repository, "uninstall", "git").stdout


@pytest.mark.rule("Y4")
def test_a_hook_that_is_there_runs_with_the_same_input_and_its_exit_code_counts(git: Git, repository: Path) -> None:
    hooks = repository / ".git" / "hooks"
    put(hooks / "pre-commit")
    (hooks / "pre-push").symlink_to("../../pushes")
    put(repository / "pushes")
    put(hooks / "commit-msg")
    before = files(hooks)
    git.install(repository)
    assert commit(git, repository).returncode == 0
    assert log(git).splitlines()[0] == "pre-commit.before-mcp-claims"
    assert commit(git, repository, CODE="3").returncode == 1
    log(git)
    assert git(repository, "push", "-q", CODE="3").returncode == 1
    assert re.fullmatch(rf"pre-push\S* origin ../origin.git\n{_REFS}", log(git))
    assert git(repository, "push", "-q").returncode == 0
    log(git)
    check_guarded(git, repository)
    assert git.claims(repository, "uninstall", "git").returncode == 0
    assert files(hooks) == before and (hooks / "pre-push").is_symlink()


@pytest.mark.rule("Y4")
def test_what_a_hook_that_is_there_stages_is_checked_too_and_a_refused_push_does_not_run_it(
    git: Git, repository: Path
) -> None:
    put(repository / ".git" / "hooks" / "pre-commit", "#!/bin/sh\ngit add -u\n")
    put(repository / ".git" / "hooks" / "pre-push")
    git.install(repository)
    with git.held(repository, "file:src/b.py", "branch:main"):
        (repository / "src" / "a.py").write_text("changed")
        git.must(repository, "add", "-u")
        (repository / "src" / "b.py").write_text("changed by the other")
        assert 'Here: "src/b.py"' in git(repository, "commit", "-qm", "x").stderr
        assert "this push is refused" in git(repository, "push", "origin", ":main").stderr
    assert log(git) == ""


@pytest.mark.rule("Y4")
def test_a_hook_that_git_does_not_run_is_not_run_by_ours(git: Git, repository: Path) -> None:
    former = put(repository / ".git" / "hooks" / "pre-commit", mode=0o644)
    git.install(repository)
    assert commit(git, repository, CODE="3").returncode == 0 and log(git) == ""
    git.claims(repository, "uninstall", "git")
    assert (former.read_text(), stat.S_IMODE(former.stat().st_mode)) == (FORMER, 0o644)


@pytest.mark.rule("Y4")
def test_hooks_are_put_where_git_looks_for_them(git: Git, repository: Path) -> None:
    hooks = repository / ".hooks"
    git.must(repository, "config", "core.hooksPath", ".hooks")
    put(hooks / "pre-commit")
    worktree = repository.parent / "worktree"
    git.must(repository, "worktree", "add", "-q", str(worktree), "-b", "topic")
    git.install(repository / "src")
    check_guarded(git, repository)
    assert "pre-commit" in log(git)
    assert not (repository / ".git" / "hooks" / "pre-commit").exists()
    git.must(repository, "config", "--unset", "core.hooksPath")
    git.install(worktree)
    assert (repository / ".git" / "hooks" / "pre-commit").exists(), "all worktrees share them"
    git.must(repository, "config", "core.hooksPath", ".hooks")
    git.claims(repository, "uninstall", "git")
    assert not (repository / ".git" / "hooks" / "pre-commit").exists(), "it is taken away wherever it was put"
    assert (hooks / "pre-commit").read_text() == FORMER and not (hooks / "pre-push").exists()


@pytest.mark.rule("Y4")
def test_what_is_not_ours_is_not_overwritten(git: Git, repository: Path) -> None:
    hooks = repository / ".git" / "hooks"
    put(hooks / "pre-commit")
    git.install(repository)
    put(hooks / "pre-commit", "#!/bin/sh\n# Of another tool.\n")
    before = files(hooks)
    for command in ("install", "uninstall"):
        done = git.claims(repository, command, "git")
        assert done.returncode == 3 and "put one of them away" in done.stderr
        assert files(hooks) == before
    outside = git.claims(git.home, "install", "git")
    assert outside.returncode == 3 and "in no git repository" in outside.stderr


@pytest.mark.rule("Y2", "Y4")
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        pytest.param("program=.*", "program=/nowhere/python", id="the interpreter"),
        pytest.param("-m mcp_claims", "-m no_such_package", id="the package"),
        pytest.param("claims --dir", "claims --no-such-option --dir", id="an option"),
    ],
)
@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
def test_a_program_that_is_gone_stops_git_only_if_strict(
    git: Git, repository: Path, was: str, becomes: str, strict: bool
) -> None:
    git.install(repository, *(["--strict"] if strict else []))
    for name in GUARDED:
        path = repository / ".git" / "hooks" / name
        path.write_text(re.sub(was, becomes, path.read_text()))
    done = commit(git, repository)
    assert (done.returncode != 0) is strict
    assert ("this hook is strict, so git stops" if strict else "git goes on") in done.stderr
    if "nowhere" in becomes:
        assert done.stderr.count("\n") == 1
    git(repository, "commit", "-qam", "x", "--no-verify")
    assert (git(repository, "push", "-q").returncode != 0) is strict


# Husky and the pre-commit framework

# As husky 9 makes them.
HUSKY = {
    "_/h": '#!/usr/bin/env sh\nn=$(basename "$0")\ns=$(dirname "$(dirname "$0")")/$n\n[ ! -f "$s" ] && exit 0\n'
    'sh -e "$s" "$@"\nexit $?\n',
    "_/pre-commit": '#!/usr/bin/env sh\n. "$(dirname "$0")/h"',
    "_/pre-push": '#!/usr/bin/env sh\n. "$(dirname "$0")/h"',
}
_HUSKY_4_TO_8 = '#!/usr/bin/env sh\n. "$(dirname -- "$0")/_/husky.sh"\n\n'


@pytest.mark.rule("Y4")
@pytest.mark.parametrize("version", [8, 9])
def test_in_a_project_with_husky_our_lines_stand_in_its_own_hooks(git: Git, repository: Path, version: int) -> None:
    husky = repository / ".husky"
    start = _HUSKY_4_TO_8 if version == 8 else ""
    if version == 8:
        put(husky / "_" / "husky.sh", 'if [ -z "$again" ]; then export again=1; sh -e "$0" "$@"; exit $?; fi\n')
    else:
        for name, text in HUSKY.items():
            put(husky / name, text)
    git.must(repository, "config", "core.hooksPath", ".husky/_" if version == 9 else ".husky")
    put(husky / "pre-push", f'{start}cat >>"$LOG"\nexit ${{CODE:-0}}')
    before = files(husky)
    git.install(repository)
    text = (husky / "pre-push").read_text()
    assert text.startswith(start.rstrip()) and "\nif command -v mcp-claims >" in text and str(git.home) not in text
    assert "nothing to do" in git.claims(repository, "install", "git").stdout
    check_guarded(git, repository)
    log(git)
    assert commit(git, repository).returncode == 0
    assert git(repository, "push", "-q", CODE="3").returncode == 1
    assert re.fullmatch(_REFS, log(git))
    elsewhere = ":".join(
        each for each in git.environment["PATH"].split(":") if not (Path(each) / "mcp-claims").exists()
    )
    assert git(repository, "push", "-q", PATH=elsewhere).returncode == 0
    assert git.claims(repository, "uninstall", "git").returncode == 0
    assert files(husky) == before


@pytest.mark.rule("Y4")
def test_a_repository_with_the_pre_commit_framework_is_left_alone_and_the_lines_are_shown(
    git: Git, repository: Path
) -> None:
    (repository / ".pre-commit-config.yaml").write_text("repos: []\n")
    before = files(repository)
    done = git.claims(repository, "install", "git")
    assert done.returncode == 1 and files(repository) == before
    assert "id: mcp-claims-commit" in done.stdout and "pre-commit install -t pre-commit -t pre-push" in done.stdout


@pytest.mark.rule("Y4")
@pytest.mark.parametrize("source", ["the printed lines", "the file of this repository"])
def test_the_framework_runs_our_hooks(git: Git, repository: Path, tmp_path: Path, source: str) -> None:
    framework = os.environ.get("MCP_CLAIMS_PRE_COMMIT")
    if framework is None:
        pytest.skip("MCP_CLAIMS_PRE_COMMIT does not name the pre-commit framework")
    config = repository / ".pre-commit-config.yaml"
    config.write_text("repos: []\n")
    if source == "the printed lines":
        shown = git.claims(repository, "install", "git").stdout
        config.write_text("repos:\n" + "".join(re.findall(r"^  .*\n", shown, re.MULTILINE)))
    else:
        # As it is, but for the installation: that takes minutes.
        ours = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"
        hooks = git.repository(tmp_path / "hooks")
        (hooks / ours.name).write_text(ours.read_text().replace("language: python", "language: system"))
        git.must(hooks, "add", ".")
        git.must(hooks, "commit", "-qm", "hooks")
        commit_id = git.must(hooks, "rev-parse", "HEAD").strip()
        config.write_text(
            f"repos:\n  - repo: {hooks}\n    rev: {commit_id}\n"
            "    hooks: [{id: mcp-claims-commit}, {id: mcp-claims-push}]\n"
        )
    git.must(repository, "add", ".")
    git.must(repository, "commit", "-qm", "config")
    done = git.run(repository, framework, "install", "-t", "pre-commit", "-t", "pre-push")
    assert done.returncode == 0, done.stderr
    (repository / "src" / "a.py").write_text("changed")
    with git.held(repository, "file:src/a.py", "branch:main"):
        stopped = git(repository, "commit", "-qam", "x")
        assert stopped.returncode == 1 and "this commit is refused" in stopped.stdout + stopped.stderr
        stopped = git(repository, "push", "-q")
        assert stopped.returncode == 1 and "this push is refused" in stopped.stdout + stopped.stderr
    assert commit(git, repository).returncode == 0
    assert git(repository, "push", "-q").returncode == 0


# All repositories of a user


@pytest.mark.rule("Y5")
@pytest.mark.parametrize(
    "config", ["[user]\n\tname = A\n\temail = a@b", "", None], ids=["no line end", "empty", "none"]
)
def test_for_all_repositories_the_users_configuration_leads_to_ours_and_gets_its_bytes_back(
    git: Git, repository: Path, config: str | None
) -> None:
    path = git.home / ".gitconfig"
    path.unlink()
    if config is not None:
        path.write_text(config)
    git.environment |= {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A"}
    git.environment |= {"GIT_COMMITTER_EMAIL": "a@b"}
    git.install(git.home, "--global")
    after = files(git.home)
    directory = git.home / ".config" / "mcp-claims" / "git-hooks"
    assert {each.name for each in directory.iterdir()} == {*GUARDED, *OTHERS}
    assert "nothing to do" in git.claims(git.home, "install", "git", "--global").stdout and files(git.home) == after
    assert "covers this repository" in git.claims(repository, "install", "git").stdout
    check_guarded(git, repository)
    assert git.claims(git.home, "uninstall", "git", "--global").returncode == 0
    assert not directory.exists()
    assert (path.read_text() if path.exists() else None) == config


@pytest.mark.rule("Y5")
def test_a_repositorys_own_hooks_run_all_the_same(git: Git, repository: Path) -> None:
    git.install(git.home, "--global")
    own = repository / ".git" / "hooks"
    worktree, bare = repository.parent / "worktree", repository.parent / "origin.git"
    names = ("pre-commit", "commit-msg", "post-commit", "post-checkout", "pre-push", "reference-transaction")
    git.must(repository, "worktree", "add", "-q", str(worktree), "-b", "topic")
    for name in names:
        put(own / name)
    put(bare / "hooks" / "post-receive")
    put(own / "post-merge", mode=0o644)
    for directory in (repository, repository / "src", worktree):
        log(git)
        git.must(directory, "commit", "-q", "--allow-empty", "-m", "x")
        noted = log(git)
        for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction"):
            assert re.search(rf"^{name}\b", noted, re.MULTILINE), (directory, name)
    git.must(worktree, "checkout", "-q", "-b", "another")
    assert re.search(r"^post-checkout ", log(git), re.MULTILINE)
    git.must(repository, "push", "-q", "origin", "main")
    noted = log(git)
    assert re.search(rf"^pre-push origin ../origin.git\n{_REFS}", noted, re.MULTILINE)
    assert re.search(r"^post-receive\n[0-9a-f]{40} [0-9a-f]{40} refs/heads/main$", noted, re.MULTILINE)
    git.must(repository, "commit", "-q", "--allow-empty", "-m", "y", "--no-verify")
    assert git(repository, "push", "-q", CODE="3").returncode == 1
    refused = git(repository, "commit", "--allow-empty", "-m", "z", CODE="3")
    assert refused.returncode == 1
    # Ours calls itself in no circle.
    directory = git.home / ".config" / "mcp-claims" / "git-hooks"
    for name in names:
        (own / name).unlink()
        (own / name).symlink_to(directory / name)
    git.must(repository, "commit", "-q", "--allow-empty", "-m", "z")


@pytest.mark.rule("Y5")
def test_a_hooks_path_that_is_somebody_elses_is_left_alone(git: Git, repository: Path) -> None:
    git.must(git.home, "config", "--global", "core.hooksPath", "~/mine")
    before = files(git.home)
    for directory, options in ((git.home, ["--global"]), (repository, [])):
        done = git.claims(directory, "install", "git", *options)
        assert done.returncode == 3 and f"{git.home}/mine" in done.stderr and "git-hook pre-push" in done.stderr
    assert files(git.home) == before
    git.must(git.home, "config", "--global", "--unset", "core.hooksPath")
    git.install(git.home, "--global")
    path = git.home / ".gitconfig"
    path.write_text(path.read_text().replace("# >>>", "#"))
    done = git.claims(git.home, "uninstall", "git", "--global")
    assert done.returncode == 3 and "--unset core.hooksPath" in done.stderr
    assert (git.home / ".config" / "mcp-claims" / "git-hooks" / "pre-push").exists()


def test_options_are_for_git_or_for_hosts(git: Git) -> None:
    for arguments in (("claude-code", "--global"), ("codex", "--strict"), ("git", "--allow"), ("git", "--hooks")):
        done = git.claims(git.home, "install", *arguments)
        assert done.returncode == 2 and f"{arguments[1]} is for" in done.stderr
    done = git.claims(git.home, "install", "git", "--layout", "agent-awareness", "--provider", "claude")
    assert done.returncode == 2
