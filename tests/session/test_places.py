"""What `file:` and `branch:` keys name, on real directories and repositories; Windows and file systems that fold case by rule."""

from __future__ import annotations

import ntpath
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.keys import PLACES, conflict
from mcp_claims.model.records import ScopedKey
from mcp_claims.session import places
from mcp_claims.session.places import Resolver
from tests.support.programs import installed


def resolved(key: str, directory: Path | str | None, host: str | None = None) -> str:
    return Resolver(None if directory is None else str(directory), host).resolve(ScopedKey("ci", key)).key


def refusal(key: str, directory: Path | str | None, host: str | None = None) -> str:
    with pytest.raises(InvalidInputError) as error:
        resolved(key, directory, host)
    assert error.value.field == "key"
    return str(error.value)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project directory: `src/a.py`, and beside it the directory `elsewhere`."""
    project = tmp_path.resolve() / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "a.py").touch()
    (project.parent / "elsewhere").mkdir()
    return project


# Which keys are resolved


@pytest.mark.rule("K1")
@pytest.mark.parametrize("key", ["red-check", "src/a.py", "File:src", "files:src", " file:src", "http://host/file:src"])
def test_an_opaque_key_stays_as_it_is(key: str, project: Path) -> None:
    scoped = ScopedKey("ci", key)
    assert Resolver(str(project)).resolve(scoped) is scoped


@pytest.mark.rule("K1")
def test_whatever_the_namespace_a_resolved_key_is_in_the_one_of_places(project: Path) -> None:
    for namespace in ("ci", "default", PLACES):
        key = Resolver(str(project)).resolve(ScopedKey(namespace, "file:src"))
        assert key == ScopedKey(PLACES, f"file:{project}/src/")


# Paths


@pytest.mark.rule("K2", "K3")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("src/a.py", "{project}/src/a.py", id="relative"),
        pytest.param("{project}/src/a.py", "{project}/src/a.py", id="absolute"),
        pytest.param("//{project}//src/./a.py", "{project}/src/a.py", id="more-slashes-than-needed"),
        pytest.param("src", "{project}/src/", id="a-directory"),
        pytest.param("src/", "{project}/src/", id="slash-at-the-end"),
        pytest.param("new/", "{project}/new/", id="a-directory-to-be"),
        pytest.param("*/", "{project}/*/", id="all-below-what-matches"),
        pytest.param("src/**", "{project}/src/", id="all-below"),
        pytest.param(".", "{project}/", id="the-project"),
        pytest.param("**", "{project}/", id="all-of-the-project"),
        pytest.param("/", "/", id="the-root"),
        pytest.param("/*", "/*", id="all-in-the-root"),
        pytest.param("*.py", "{project}/*.py", id="a-pattern"),
        pytest.param("src/**/**/x**/?", "{project}/src/**/x*/?", id="a-pattern-in-its-only-form"),
        pytest.param("src/../elsewhere/../*", "{project}/*", id="up-before-a-wildcard"),
        pytest.param("new/dir/file.txt", "{project}/new/dir/file.txt", id="not-there-yet"),
        pytest.param("new/../src", "{project}/src/", id="up-from-what-is-not-there"),
        pytest.param("src/a.py/x", "{project}/src/a.py/x", id="below-a-file"),
        pytest.param("[a-c].py", "{project}/[a-c].py", id="brackets-are-no-wildcards"),
        pytest.param("a%20b", "{project}/a%20b", id="a-path-is-no-url"),
        pytest.param("~user/x", "{project}/~user/x", id="a-name-with-a-tilde"),
        pytest.param("../../" * 60 + "etc", "/etc/", id="up-to-the-root"),
    ],
)
def test_a_path_has_one_text(path: str, expected: str, project: Path) -> None:
    key = resolved(f"file:{path.format(project=project)}", project)
    assert key == f"file:{expected.format(project=project)}"
    assert resolved(key, "/") == key


@pytest.mark.rule("K9")
@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("file:", "must have a path right after `file:`"),
        ("file: src", "must have a path right after `file:`"),
        ("file:a\0b", "must have a path right after `file:`"),
        ("file:~", "must not begin with `~`: write the path"),
        ("file:~/src", "must not begin with `~`: write the path"),
        ("file:*/../x", "must not contain `..` after a wildcard"),
        ("file:*/..", "must not contain `..` after a wildcard"),
        ("file:" + "x/" * 500 + "y", "must be at most 1,024 bytes of UTF-8 once it is resolved"),
        ("file://host/src", "must not name a host, since one machine uses this store: write `/src`"),
    ],
)
def test_a_path_that_cannot_be_resolved_is_refused_with_the_rule(key: str, rule: str, project: Path) -> None:
    assert refusal(key, project).startswith(f"key {rule}")


@pytest.mark.rule("K9")
def test_without_a_project_directory_a_path_has_to_be_absolute(project: Path) -> None:
    assert "absolute path after `file:`, since this session has no project directory" in refusal("file:src", None)
    assert resolved(f"file:{project}/src/*", None) == f"file:{project}/src/*"


@pytest.mark.rule("K9")
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("two\nlines", "must not contain line breaks"),
        ("hid\u200bden", "must not contain line breaks, control characters, invisible ones"),
        (os.fsdecode(b"no-text-\xff"), "must not contain"),
        ("blank ", "must not begin or end with a blank once it is resolved"),
        ("what?", "must not lead to or through a name with `*` or `?`"),
        ("a*", "must not lead to or through a name with `*` or `?`"),
    ],
)
def test_a_link_does_not_lead_past_the_rules_of_keys(name: str, rule: str, project: Path) -> None:
    (project / name).touch()
    (project / "link").symlink_to(name)
    assert refusal("file:link", project).startswith(f"key {rule}")


@pytest.mark.rule("K9")
def test_a_session_in_a_directory_that_reads_as_a_pattern_names_no_files(project: Path) -> None:
    (project / "what?").mkdir()
    assert "a name with `*` or `?`" in refusal("file:a.py", project / "what?")
    git(project / "what?", "init", "-q")
    assert "a name with `*` or `?`" in refusal("branch:main", project / "what?")


# Links


@pytest.fixture
def linked(project: Path) -> Path:
    """The project with links: `out` to `elsewhere`, `file` to `src/a.py`, `new` to what does not exist, and a loop."""
    (project / "out").symlink_to(project.parent / "elsewhere")
    (project / "file").symlink_to("src/a.py")
    (project / "chain").symlink_to("file")
    (project / "new").symlink_to("src/new.py")
    (project / "loop").symlink_to("loop")
    return project


@pytest.mark.rule("K3")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("out", "{above}/elsewhere/", id="a-directory"),
        pytest.param("out/x.py", "{above}/elsewhere/x.py", id="below-a-link"),
        pytest.param("out/*.py", "{above}/elsewhere/*.py", id="a-pattern-below-a-link"),
        pytest.param("out/../x", "{above}/x", id="up-from-the-target-of-a-link"),
        pytest.param("out/../*", "{above}/*", id="up-from-the-target-of-a-link-before-a-wildcard"),
        pytest.param("file", "{above}/project/src/a.py", id="a-file"),
        pytest.param("chain", "{above}/project/src/a.py", id="a-chain"),
        pytest.param("new", "{above}/project/src/new.py", id="a-target-that-is-not-there-yet"),
        pytest.param("loop/x", "{above}/project/loop/x", id="a-loop-leads-nowhere"),
        pytest.param("loop/../src", "{above}/project/src/", id="up-from-a-loop"),
    ],
)
def test_links_are_followed_as_far_as_the_path_exists(path: str, expected: str, linked: Path) -> None:
    assert resolved(f"file:{path}", linked) == f"file:{expected.format(above=linked.parent)}"


@pytest.mark.rule("K3", "K9")
def test_a_path_up_from_a_circle_of_links_leaves_no_link_in_the_key(linked: Path) -> None:
    try:
        found = resolved("file:loop/../out", linked)
    except InvalidInputError as error:
        found = str(error)
    # Newer versions of Python, from 3.13.4 on or so, resolve what is behind the circle as well.
    assert found == resolved("file:out", linked) or "must not go up from links that lead in a circle" in found


@pytest.mark.rule("K3")
def test_the_project_directory_may_be_a_link(linked: Path) -> None:
    assert resolved("file:x", linked / "out") == f"file:{linked.parent}/elsewhere/x"


@pytest.mark.rule("K3")
def test_a_link_below_a_wildcard_is_not_followed(linked: Path) -> None:
    pattern, file = (ScopedKey(PLACES, resolved(f"file:{path}", linked)) for path in ("o*", "out/x"))
    assert pattern.key == f"file:{linked}/o*"
    assert not conflict(pattern, file), "a limit, which the design notes state"


@pytest.mark.rule("K3")
def test_two_hard_links_are_two_keys(project: Path) -> None:
    os.link(project / "src" / "a.py", project / "b.py")
    assert resolved("file:src/a.py", project) != resolved("file:b.py", project), "a limit, which the design notes state"


# Case and accents


@pytest.mark.rule("K4")
def test_case_counts_exactly_where_this_file_system_distinguishes_it(project: Path) -> None:
    (project / "README.md").touch()
    folds = (project / "readme.md").exists()
    for one, other in [("README.md", "readme.md"), ("New.txt", "new.txt"), ("New/X", "new/x"), ("*.TXT", "*.txt")]:
        assert (resolved(f"file:{one}", project) == resolved(f"file:{other}", project)) is folds


@pytest.mark.rule("K4")
def test_composed_and_decomposed_accents_are_one_key_even_where_they_are_two_files(project: Path) -> None:
    for name in (composed := "caf\u00e9", "cafe\u0301"):
        (project / name).touch()
        for path in ("{}", "{}/*", "*/{}"):
            assert resolved(f"file:{path.format(name)}", project) == f"file:{project}/{path.format(composed)}"
        assert resolved(f"branch:host/{name}:{name}", None) == f"branch:host/{composed}:{composed}"
        assert resolved(f"file://box/{name}", None, "rig") == f"file://box/{composed}"


class Folding:
    """What a file system would answer that folds case in *top* and below it."""

    def __init__(self, top: Path) -> None:
        self._top = str(top)
        self.asked = 0

    def status_of(self, path: str) -> os.stat_result:
        self.asked += 1
        if path.startswith(f"{self._top}/"):
            found = self._top
            for name in path[len(found) :].split("/")[1:]:
                equal = (each for each in os.listdir(found) if each.casefold() == name.casefold())
                found = f"{found}/{next(equal, name)}"
            path = found
        return os.lstat(path)

    def resolved(self, key: str, directory: Path) -> str:
        return Resolver(str(directory), status_of=self.status_of).resolve(ScopedKey("ci", key)).key


@pytest.mark.rule("K4")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("README.md", "readme.md", id="exists"),
        pytest.param("readme.MD", "readme.md", id="exists-in-another-case"),
        pytest.param("New.txt", "new.txt", id="not-there-yet"),
        pytest.param("New/Dir/X", "new/dir/x", id="in-directories-that-are-not-there-yet"),
        pytest.param("Src/*.PY", "src/*.py", id="a-pattern"),
        pytest.param("**/T?ST_*", "**/t?st_*", id="a-pattern-of-any-depth"),
        pytest.param("STRASSE", "strasse", id="sharp-s-in-capitals"),
        pytest.param("Stra\u00dfe", "strasse", id="sharp-s"),
        pytest.param("\u00c9", "\u00e9", id="accent"),
        pytest.param("E\u0301", "\u00e9", id="decomposed-accent"),
        pytest.param("123/X", "123/x", id="below-a-name-without-letters"),
        pytest.param("Empty/X", "empty/x", id="in-an-empty-directory"),
    ],
)
def test_where_the_file_system_folds_case_names_are_folded(path: str, expected: str, project: Path) -> None:
    (project / "README.md").touch()
    (project / "Empty").mkdir()
    assert Folding(project).resolved(f"file:{path}", project) == f"file:{project}/{expected}"


@pytest.mark.rule("K4")
def test_each_name_is_folded_as_the_directory_does_that_it_lies_in(project: Path) -> None:
    (project / "Mount").mkdir()
    (project / "Mount" / "file").touch()
    folding = Folding(project / "Mount")
    assert folding.resolved("file:Mount/New", project) == f"file:{project}/Mount/new"
    (project / "123").mkdir()
    for path in ("Src/New", "123/New"):
        assert folding.resolved(f"file:{path}", project) == f"file:{project}/{path}"


@pytest.mark.rule("K4")
def test_a_file_that_an_editor_replaces_between_two_looks_is_not_taken_for_two(project: Path) -> None:
    (project / "README.md").touch()
    folding = Folding(project)

    def status_of(path: str) -> os.stat_result:
        if path == f"{project}/readme.MD" and not (project / "backup").exists():
            (project / "README.md").rename(project / "backup")
            (project / "README.md").touch()
        return folding.status_of(path)

    resolver = Resolver(str(project), status_of=status_of)
    assert resolver.resolve(ScopedKey("ci", "file:README.md")).key == f"file:{project}/readme.md"
    assert (project / "backup").exists()


@pytest.mark.rule("K4")
def test_a_path_in_small_letters_costs_one_look_at_the_file_system(project: Path) -> None:
    folding = Folding(project)
    folding.resolved("file:src/a.py", Path("/etc"))
    assert folding.asked == 1


# Machines


@pytest.mark.rule("K5")
def test_on_a_shared_store_the_host_is_part_of_the_key(linked: Path) -> None:
    assert resolved("file:out", linked, "Rig") == f"file://rig{linked.parent}/elsewhere/"
    assert resolved("file:/", linked, "rig") == "file://rig/"
    assert resolved("file:/*", linked, "rig") == "file://rig/*"


@pytest.mark.rule("K5")
def test_with_the_own_host_a_path_is_resolved_and_with_another_it_is_only_normalised(linked: Path) -> None:
    assert resolved(f"file://RIG/{linked}/out/", None, "rig") == f"file://rig{linked.parent}/elsewhere/"
    assert resolved("file://RIG", None, "rig") == "file://rig/"
    assert resolved(f"file://Box{linked}/out/./**", None, "rig") == f"file://box{linked}/out/"
    assert resolved("file://box", None, "rig") == "file://box/"
    assert "after a wildcard or a host" in refusal("file://box/a/../b", None, "rig")
    assert "a wildcard in the name of a host" in refusal("file://b*/a", None, "rig")


# Windows


def on_windows(key: str, host: str | None = None, directory: str | None = "C:\\Proj") -> str:
    windows: ModuleType = ntpath
    return Resolver(directory, host, paths=windows).resolve(ScopedKey("ci", key)).key.removeprefix("file:")


@pytest.mark.rule("K8")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Src\\A.py", "C:/proj/src/a.py"),
        ("src/a.py", "C:/proj/src/a.py"),
        ("src\\..\\B", "C:/proj/b"),
        ("c:\\x\\", "C:/x/"),
        ("d:", "D:/"),
        ("d:\\", "D:/"),
        ("D:/*.PY", "D:/*.py"),
        ("src\\**\\*.py", "C:/proj/src/**/*.py"),
        ("C:x", "C:/proj/x"),
        ("\\x", "C:/x"),
        ("\\\\Server\\Share\\X", "UNC/server/share/x"),
        ("//Server/Share/X", "UNC/server/share/x"),
        ("UNC/server/share/x", "UNC/server/share/x"),
        ("\\\\?\\C:\\x", "C:/x"),
        ("\\\\?\\UNC\\server\\share\\x", "UNC/server/share/x"),
        ("\\\\?\\unc\\server\\share\\x", "UNC/server/share/x"),
        ("\\\\.\\C:\\x", "C:/x"),
        ("/C:/x", "C:/x"),
        ("///C:/x", "C:/x"),
        ("a. /b..\\c ", "C:/proj/a/b/c"),
        ("a.txt::$DATA", "C:/proj/a.txt"),
        ("a.txt:stream", "C:/proj/a.txt"),
        (".git", "C:/proj/.git"),
    ],
)
def test_a_path_of_windows_has_one_text(path: str, expected: str) -> None:
    assert on_windows(f"file:{path}") == expected
    assert on_windows(f"file:{expected}", directory=None) == expected


@pytest.mark.rule("K8")
@pytest.mark.parametrize("path", ["src", "\\x", "C:x", "/x"])
def test_a_path_of_windows_that_needs_a_current_directory_is_refused_without_one(path: str) -> None:
    with pytest.raises(InvalidInputError, match="absolute path"):
        on_windows(f"file:{path}", directory=None)


@pytest.mark.rule("K8")
def test_a_path_relative_to_another_drive_than_that_of_the_project_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="absolute path"):
        on_windows("file:D:x")


@pytest.mark.rule("K8")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src", "//rig/C:/proj/src"),
        ("//RIG/c:/X", "//rig/C:/x"),
        ("//rig/C:", "//rig/C:/"),
        ("\\\\server\\share\\x", "//rig/UNC/server/share/x"),
        ("//rig/UNC/server/share/x", "//rig/UNC/server/share/x"),
        ("//box/C:/X", "//box/C:/X"),
    ],
)
def test_on_a_shared_store_two_slashes_of_windows_name_a_host(path: str, expected: str) -> None:
    assert on_windows(f"file:{path}", "rig") == expected
    assert on_windows(f"file:{expected}", "rig", directory=None) == expected


# Branches


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run([installed("git"), "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(project: Path) -> Path:
    """The project directory as a repository with one commit."""
    git(project, "init", "-q", "-b", "main")
    git(project, "commit", "-q", "--allow-empty", "-m", "first")
    return project


def with_remotes(repository: Path, **urls: str) -> Path:
    for name, url in urls.items():
        # Not by `git remote add`, which newer versions refuse for a name below another one's.
        git(repository, "config", f"remote.{name}.url", url)
    return repository


@pytest.mark.rule("K6")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("git@github.com:owner/repo.git", "github.com/owner/repo"),
        ("ssh://git@github.com:22/owner/repo", "github.com/owner/repo"),
        ("https://user:secret@github.com/owner/repo.git/", "github.com/owner/repo"),
        ("https://GitHub.com:443//owner/repo", "github.com/owner/repo"),
        ("github.com:/owner/repo", "github.com/owner/repo"),
        ("git+ssh://github.com/owner/repo/.git", "github.com/owner/repo"),
        ("http://github.com:80/owner/repo.git.git", "github.com/owner/repo"),
        ("git://github.com:9418/owner/repo", "github.com/owner/repo"),
        ("https://user:se@cret@github.com/owner/repo", "github.com/owner/repo"),
        ("https://github.com:/Owner/Repo", "github.com/owner/repo"),
        ("https://host:22/owner/repo", "host:22/owner/repo"),
        ("ssh://git@host:2222/owner/repo", "host:2222/owner/repo"),
        ("git@host:2222/owner/repo", "host/2222/owner/repo"),
        ("ssh://git@[::1]:2222/repo", "[::1]:2222/repo"),
        ("git@[::1]:repo", "[::1]/repo"),
        ("host:~me/repo", "host/~me/repo"),
        ("codecommit::region://user:secret@repo", "codecommit::region://repo"),
    ],
)
def test_a_branch_belongs_to_the_url_of_its_remote_without_what_differs_between_clones(
    url: str, expected: str, repository: Path
) -> None:
    key = resolved("branch:main", with_remotes(repository, origin=url))
    assert key == f"branch:{expected}:main"
    assert resolved(key, None) == key
    if "://" in url or "@" in url:
        assert resolved(f"branch:{url}:main", None) == key, "written out"


@pytest.mark.rule("K6")
def test_every_worktree_and_clone_has_one_key_for_a_branch_and_its_own_for_a_file(repository: Path) -> None:
    worktree, clone = repository.parent / "worktree", repository.parent / "clone"
    git(repository, "worktree", "add", "-q", str(worktree), "-b", "topic")
    git(repository.parent, "clone", "-q", str(repository), str(clone))
    (repository / "link").symlink_to(worktree / "src")
    # The clone's remote is the repository, which itself has none.
    for directory in (repository, repository / "src", worktree, clone):
        assert resolved("branch:main", directory) == f"branch:{repository}/.git:main"
    assert len({resolved("file:src/a.py", directory) for directory in (repository, worktree, clone)}) == 3
    assert resolved("file:link", repository) == f"file:{worktree}/src"


@pytest.mark.rule("K6")
def test_a_submodule_is_a_repository_of_its_own(repository: Path) -> None:
    inner = repository.parent / "inner"
    git(repository.parent, "init", "-q", "-b", "main", str(inner))
    git(inner, "commit", "-q", "--allow-empty", "-m", "first")
    git(repository, "submodule", "add", "-q", str(inner), "sub")
    assert resolved("branch:main", repository / "sub") == resolved("branch:main", inner) == f"branch:{inner}/.git:main"
    git(repository / "sub", "remote", "remove", "origin")
    assert resolved("branch:main", repository / "sub") == f"branch:{repository}/.git/modules/sub:main"


@pytest.mark.rule("K6")
def test_a_bare_repository_and_its_clones_have_one_key(project: Path) -> None:
    bare, clone = project.parent / "hub.git", project.parent / "clone"
    git(project, "init", "-q", "--bare", str(bare))
    git(project, "clone", "-q", str(bare), str(clone))
    expected = f"branch:{bare}:main"
    assert resolved("branch:main", bare) == resolved("branch:main", clone) == expected
    for url in (
        f"file://{bare}",
        str(bare).removesuffix(".git"),
        "../hub.git",
        f"file://{bare}".replace("hub", "%68ub"),
    ):
        git(clone, "remote", "set-url", "origin", url)
        (clone / "sub").mkdir(exist_ok=True)
        assert resolved("branch:main", clone / "sub") == expected
    assert resolved(expected, None) == expected


@pytest.mark.rule("K6")
@pytest.mark.parametrize(
    ("remotes", "name", "expected"),
    [
        (("origin", "fork"), "main", "origin:main"),
        (("origin", "fork"), "fork/main", "fork:main"),
        (("origin", "fork"), "origin/main", "origin:main"),
        (("origin", "fork"), "fork/fork/main", "fork:fork/main"),
        (("origin", "fork"), "feature/x", "origin:feature/x"),
        (("origin", "fork"), "refs/heads/main", "origin:main"),
        (("origin", "fork"), "refs/heads/fork/main", "origin:fork/main"),
        (("fork",), "main", "fork:main"),
        (("fork", "fork/deep"), "fork/deep/main", "fork/deep:main"),
    ],
)
def test_which_remote_a_branch_is_about(remotes: tuple[str, ...], name: str, expected: str, repository: Path) -> None:
    with_remotes(repository, **{remote: f"https://host/{remote}" for remote in remotes})
    assert resolved(f"branch:{name}", repository) == f"branch:host/{expected}"


@pytest.mark.rule("K6")
def test_with_several_remotes_and_no_origin_the_caller_chooses(repository: Path) -> None:
    with_remotes(repository, fork="https://host/fork", upstream="https://host/up")
    assert "has several: `branch:fork/main` or `branch:upstream/main`" in refusal("branch:main", repository)


@pytest.mark.rule("K6")
def test_a_remote_without_a_url_is_none(repository: Path) -> None:
    git(repository, "config", "remote.origin.prune", "true")
    assert resolved("branch:main", repository) == f"branch:{repository}/.git:main"


@pytest.mark.rule("K6")
@pytest.mark.parametrize(
    ("name", "is_branch"),
    [
        *((name, True) for name in ("main", "feature/x", "a.b", "a./b", "v1@2", "x.locked", "émoji-🦀", "a{b", "heads/x", "head")),
        *((name, False) for name in ("", "-a", ".a", "a/.b", "a.", "a..b", "a b", "a~", "a^", "a?", "a*", "a[", "a\\b")),
        *((name, False) for name in ("/a", "a/", "a//b", "a.lock", "a.lock/b", "a@{b", "HEAD", "a\x7f", ".", "..")),
    ],
)  # fmt: skip
def test_a_branch_has_a_name_that_git_allows(name: str, is_branch: bool) -> None:
    of_git = subprocess.run([installed("git"), "check-ref-format", "--branch", name], check=False, capture_output=True)
    assert (of_git.returncode == 0) is is_branch
    if is_branch:
        assert resolved(f"branch:host/repo:{name}", None) == f"branch:host/repo:{name}"
    else:
        assert "branch" in refusal(f"branch:host/repo:{name}", None)


@pytest.mark.rule("K6")
def test_what_is_no_branch_is_refused_and_the_rule_says_why(repository: Path) -> None:
    assert "must name the branch, not `HEAD`" in refusal("branch:HEAD", repository)
    assert "must name the branch, not `@`" in refusal("branch:@", repository)
    assert "a name that git allows for a branch" in refusal("branch:refs/tags/v1", repository)
    for key in ("branch:origin:main", "branch:main:", "branch::main", "branch:https://host/:main", "branch:a@b:main"):
        assert "branch" in refusal(key, repository)


@pytest.mark.rule("K5")
def test_on_a_shared_store_a_repository_without_a_remote_has_the_host(repository: Path) -> None:
    key = resolved("branch:main", repository, "Rig")
    assert key == f"branch://rig{repository}/.git:main"
    assert resolved(key, None, "rig") == resolved(key, None, "box") == key
    assert "must not name a host" in refusal(key, None)


# Asking git


@pytest.mark.rule("K7")
def test_instead_of_counts_as_for_git(repository: Path) -> None:
    git(repository, "config", "url.https://new.example/.insteadOf", "gh:")
    git(repository, "config", "url.git@push.example:.pushInsteadOf", "https://new.example/")
    assert resolved("branch:main", with_remotes(repository, origin="gh:a/b")) == "branch:new.example/a/b:main"


@pytest.mark.rule("K7")
@pytest.mark.parametrize(
    "url", ["https://user:secret@host:port/repo", "https://user:secret@/repo", "ext::https://user:secret@\u200bhost/x"]
)
def test_no_error_shows_a_password(url: str, repository: Path) -> None:
    assert "secret" not in refusal("branch:main", with_remotes(repository, origin=url))


@pytest.mark.rule("K7")
def test_a_repository_that_a_hook_works_on_does_not_answer_for_the_project(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository.parent / "other"
    git(repository.parent, "init", "-q", str(other))
    for name in ("GIT_DIR", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert resolved("branch:main", repository) == f"branch:{repository}/.git:main"


@pytest.mark.rule("K7")
def test_git_is_asked_once_for_all_keys_of_a_request(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_remotes(repository, origin="https://host/repo")
    asked: list[list[str]] = []
    run = subprocess.run

    def counted(command: list[str], **options: object) -> object:
        asked.append(command)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    resolver = Resolver(str(repository))
    for name in ("main", "topic", "origin/main", "host/repo:main"):
        resolver.resolve(ScopedKey("ci", f"branch:{name}"))
    assert len(asked) == 1
    git_calls, asked[:] = len(asked), []
    monkeypatch.setattr(subprocess, "run", run)
    git(repository, "remote", "remove", "origin")
    monkeypatch.setattr(subprocess, "run", counted)
    assert resolved("branch:main", repository) == f"branch:{repository}/.git:main"
    assert git_calls == 1 and len(asked) == 2, "where there is no remote, for the directory of the repository too"


INSTEAD = "must be written as `branch:HOST/OWNER/REPOSITORY:NAME`, since"


@pytest.mark.rule("K7")
def test_where_git_cannot_answer_the_error_says_why_and_what_to_write(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{INSTEAD} this session has no project directory" in refusal("branch:main", None)
    assert f"{INSTEAD} {project} is in no git repository" in refusal("branch:main", project)
    assert f"{INSTEAD} git cannot read the repository: see `git -C {project}/none" in refusal(
        "branch:main", project / "none"
    )
    monkeypatch.setenv("PATH", str(project))
    assert f"{INSTEAD} git is not installed here" in refusal("branch:main", project)
    (project / "git").write_text('#!/bin/sh\n[ "$LC_ALL" = C ] && echo "fatal: not a git repository" >&2\nexit 128\n')
    (project / "git").chmod(stat.S_IRWXU)
    assert f"{INSTEAD} {project} is in no git repository" in refusal("branch:main", project), "in every language"
    (project / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(places, "_GIT_TIMEOUT", 0.05)
    assert f"{INSTEAD} git did not answer within" in refusal("branch:main", project)
    assert resolved("branch:host/repo:main", project) == "branch:host/repo:main", "which needs no git"


@pytest.mark.rule("K7")
def test_a_repository_that_git_distrusts_is_refused(repository: Path) -> None:
    (repository / ".git" / "config").write_text("[core\n")
    assert f"{INSTEAD} git cannot read the repository: see `git -C" in refusal("branch:main", repository)


# Whatever the key


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories, files, and links in all directions."""
    top = tmp_path_factory.mktemp("tree").resolve()
    for name in ("a/b", "B/a", "caf\u00e9"):
        (top / name).mkdir(parents=True)
    for name, target in [("up", ".."), ("link", "B"), ("a/link", "../B/a"), ("loop", "loop"), ("a/root", "/")]:
        (top / name).symlink_to(target)
    return top


NAMES = [
    "a",
    "b",
    "B",
    "link",
    "up",
    "loop",
    "root",
    "..",
    ".",
    "",
    "~",
    "*",
    "**",
    "?",
    "a*",
    "caf\u00e9",
    "cafe\u0301",
]
NAMES += ["\u00df", "\u1e9e", "\u212a", "\u01c5", "\u0345\u03b1", "new", "C:", "UNC", "a. ", "a:b", "x" * 300]
paths = st.tuples(
    st.sampled_from(["", "/", "//rig/", "//box/", "{tree}/"]), st.lists(st.sampled_from(NAMES), max_size=7)
)
URLS = [
    "https://u:p@host:{}/{}",
    "ssh://host:{}/{}.git",
    "git@host:{}/{}",
    "host:{}/{}/",
    "[::1]:{}/{}",
    "x::y://u@{}/{}",
]
urls = st.tuples(
    st.sampled_from([*URLS, "/{}/{}", "//rig/{}/{}", "//box/{}/{}"]), st.sampled_from(["22", "443", "1", "a"])
)


@pytest.mark.rule("K1")
@pytest.mark.parametrize("host", [None, "rig"])
@pytest.mark.parametrize("make", [Resolver, lambda *where: Resolver(*where, paths=ntpath)], ids=["here", "windows"])
@settings(deadline=None, max_examples=300)
@given(path=paths, url=urls, name=st.sampled_from(NAMES))
def test_what_is_resolved_resolves_to_itself(
    make: Callable[[str | None, str | None], Resolver],
    host: str | None,
    tree: Path,
    path: tuple[str, list[str]],
    url: tuple[str, str],
    name: str,
) -> None:
    beginning, names = path
    file = "file:" + beginning.format(tree=tree) + "/".join(names)
    for key in (file, f"branch:{url[0].format(url[1], name)}:main"):
        try:
            once = make(str(tree), host).resolve(ScopedKey("ci", key))
        except InvalidInputError:
            continue
        assert make(str(tree), host).resolve(once) == once
        assert make(None, host).resolve(once) == once, "with nothing that only one session knows"


@pytest.mark.rule("K4")
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\u03b1\u0345\u0301")
def test_a_folded_name_stays_as_it_is(name: str) -> None:
    folded = places._folded(name)
    assert places._folded(folded) == folded == places._composed(folded)
    assert places._folded(places._composed(name)) == folded
