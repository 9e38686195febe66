"""Which files a shell command may write: a table of commands, what bash really does with some, and hostile text."""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_claims.guard import NOT_SEEN
from mcp_claims.guard.commands import written_paths

CWD = os.path.abspath(os.sep + "p")

PATCH = "*** Begin Patch\n*** Update File: src/a.py\n*** Move to: src/b.py\n@@\n-x\n+don't\n*** Delete File: c\n*** End Patch"


def paths(*names: str) -> list[str]:
    return [os.path.normpath(os.path.join(CWD, name)) for name in names]


# Each command, and the paths that it writes, relative to the directory that it runs in.
REDIRECTIONS = [
    ("echo x > a", ["a"]),
    ("echo x >a", ["a"]),
    ("echo x>>a", ["a"]),
    ("echo x >| a", ["a"]),
    ("make &> log", ["log"]),
    ("make &>> log", ["log"]),
    ("make >& log", ["log"]),
    ("make > log 2>&1", ["log"]),
    ("make 2> errors >out", ["errors", "out"]),
    ("make 2>&1 | tail", []),
    ("make >&2", []),
    ("make 3>&-", []),
    ("exec {fd}> a", ["a"]),
    ("cat < a > b", ["b"]),
    ("exec 3<> a", ["a"]),
    ("> a", ["a"]),
    ("echo x > /dev/null 2>/dev/stderr", []),
    ("echo x > /dev/shm/a", ["/dev/shm/a"]),
    ("echo x > ../q/./a", ["../q/a"]),
    ("echo x > /etc/../tmp//a", ["/tmp/a"]),
    ("echo x > //tmp/a", ["/tmp/a"]),
    ("echo x > 'a b'\" c\"\\ d", ["a b c d"]),
    ("echo 'a > b'", []),
    ('echo "a > b"', []),
    (r"echo a \> b", []),
    ("echo a # > b", []),
    ("echo a#b > c", ["c"]),
    ("echo x > $OUT", []),
    ('echo x > "$DIR/a"', []),
    ("echo x > '$a'", ["$a"]),
    (r"echo x > \$a", ["$a"]),
    ("echo x > a$", ["a$"]),
    ("echo x > $'a\\'b' > c", ["c"]),
    ("[[ a > b && c < d ]] && echo x > e", ["e"]),
    ("if [[ a > b ]]; then rm c; fi", ["c"]),
    ("(( a > b )) && rm c", ["c"]),
    ("echo $(( 1 << 3 > 2 )); rm a", ["a"]),
    ("(echo x; echo y) > a", ["a"]),
    ("for f in *.py; do echo $f; done > a", ["a"]),
    ("cat < <(sort a > b) > c", ["b", "c"]),
    ("make | tee >(gzip > log.gz) log", ["log.gz", "log"]),
]
PROGRAMS = [
    ("rm a b", ["a", "b"]),
    ("rm $'a b'", ["a b"]),
    ("rm a\\", ["a\\"]),
    ("rm -rf -- -a dir/", ["-a", "dir"]),
    ("rm -f *.py", ["*.py"]),
    ("rm src/[ab]?.py", ["src/[ab]?.py"]),
    ("rm -f {a,b}.txt", ["a.txt", "b.txt"]),
    ("rm x{1..9}", ["x*"]),
    ("rm {a,{b,c}}/d", ["a/d", "b/d", "c/d"]),
    ("rm '{a,b}' {} {c}", ["{a,b}", "{}", "{c}"]),
    ("/bin/rm a", ["a"]),
    (r"\rm a", ["a"]),
    ("rm \\\n  a", ["a"]),
    ("rm $A b", ["b"]),
    ("unlink a; rmdir b", ["a", "b"]),
    ("sed -i 's/a/b/' a b", ["a", "b"]),
    ("sed -i.bak 's/a/b/' d/a", ["d/a", "d/a.bak"]),
    ("sed --in-place=.bak -e s/a/b/ a", ["a", "a.bak"]),
    ("sed --in-place s/a/b/ a", ["a"]),
    ("sed -n -i -e s/a/b/ -e s/c/d/ a", ["a"]),
    ("sed -Ei 's/a/b/' a", ["a"]),
    ("sed -i -f script a", ["a"]),
    ("sed s/a/b/ -i a", ["a"]),
    ("sed -i '' 's/a/b/' a", ["a"]),
    ('sed -i "s/$A/b/" a', ["a"]),
    ("sed 's/a/b/' a", []),
    ("sed -n 's/i/b/p' a", []),
    ("perl -i -pe 's/a/b/' a", ["a"]),
    ("perl -pi -e 's/a/b/' a b", ["a", "b"]),
    ("perl -0777 -pi.bak -e 's/a/b/' a", ["a", "a.bak"]),
    ("perl -0pi -e 's/a/b/' a", ["a"]),
    ("perl -i script.pl a", ["a"]),
    ("perl -pe 's/i/b/' a", []),
    ("ruby -i -pe 'x' a", ["a"]),
    ("mv a b", ["a", "b"]),
    ("mv a b dir", ["a", "b", "dir/a", "dir/b"]),
    ("mv x/a dir/", ["x/a", "dir/a"]),
    ("mv -t dir x/a b", ["x/a", "b", "dir/a", "dir/b"]),
    ("mv --target-directory dir a", ["a", "dir/a"]),
    ("mv x/a .", ["x/a", "a"]),
    ("mv old.{txt,md}", ["old.txt", "old.md"]),
    ("mv $A b/", ["b"]),
    ("cp a b", ["b"]),
    ("cp -r a b/ c/", ["c/a", "c/b"]),
    ("cp -t d a", ["d/a"]),
    ("cp a{,.bak}", ["a.bak"]),
    ("cp ../x/a .", ["a"]),
    ("cp a", []),
    ("tee -a a b < c", ["a", "b"]),
    ("touch -d 2020-01-01 a", ["a"]),
    ("touch -r ref a", ["a"]),
    ("truncate -s 0 a", ["a"]),
    ("truncate --size 0 a", ["a"]),
    ("shred -u a", ["a"]),
    ("install -m 644 a b", ["b"]),
    ("install -Dm644 a b/c", ["b/c"]),
    ("install -d a b", ["a", "b"]),
    ("ln -s target a", ["a"]),
    ("ln -sf ../x/a", ["a"]),
    ("ln -s a dir/", ["dir/a"]),
    ("dd if=a of=b bs=1", ["b"]),
    ("patch a < x.diff", ["a"]),
    ("patch -d dir -p1 a x.diff", ["dir/a"]),
    ("patch -o b a", ["a", "b"]),
    ("patch -p1 < x.diff", []),
]
GIT = [
    ("git checkout -- a b", ["a", "b"]),
    ("git checkout HEAD~1 -- a", ["a"]),
    ("git checkout HEAD a", ["a"]),
    ("git checkout .", ["."]),
    ("git checkout --theirs a", ["a"]),
    ("git checkout main", []),
    ("git checkout -b new origin/main", []),
    ("git restore a", ["a"]),
    ("git restore -s HEAD~1 a", ["a"]),
    ("git restore --source HEAD~1 -- a", ["a"]),
    ("git restore --staged a", []),
    ("git restore --staged --worktree a", ["a"]),
    ("git rm -r a", ["a"]),
    ("git rm --cached a", []),
    ("git mv a b/", ["a", "b/a"]),
    ("git -C dir checkout -- a", ["dir/a"]),
    ("git -C dir -C x --no-pager -c a=b rm a && rm b", ["dir/x/a", "b"]),
    ("git restore :/a", []),
    ("git add a; git commit -m x a; git push origin main", []),
    ("git commit -m \"$(cat <<'EOF'\nDon't (quite\nEOF\n)\" && rm a", ["a"]),
]
NESTING = [
    ("X=1 Y='a b' rm a", ["a"]),
    ("sudo -u me rm a", ["a"]),
    ("sudo -D dir rm a; rm b", ["dir/a", "b"]),
    ("env -i A=1 rm a", ["a"]),
    ("env -C dir rm a", ["dir/a"]),
    ("doas -C doas.conf rm a", ["a"]),
    ("command rm a", ["a"]),
    ("command -v rm a", []),
    ("nohup time -p nice -n 5 rm a &", ["a"]),
    ("timeout -s KILL 5 rm a", ["a"]),
    ("ls | xargs rm -f", []),
    ("ls | xargs -n 1 sed -i s/a/b/ a", ["a"]),
    ("ls | xargs -I{} cp {} dir/", ["dir"]),
    ("ls | xargs -I % mv % a", ["a"]),
    ("bash -c 'rm a; echo x > b'", ["a", "b"]),
    ("bash -lc \"cd dir && rm 'a b'\"; rm c", ["dir/a b", "c"]),
    ("bash -o pipefail -ec 'rm a'", ["a"]),
    ("""sh -c "bash -c 'rm a'" """, ["a"]),
    ('bash -c "rm $A b"', ["b"]),
    ("bash script.sh", []),
    ("bash <<'EOF'\nrm a\nEOF\nrm b", ["a", "b"]),
    ("cat <<EOF | bash | bash\nrm a\nEOF", ["a"]),
    ("eval 'cd dir' && rm a", ["dir/a"]),
    ('x=$(rm a) y=`rm b` echo "$(rm c)" ${z:-$(rm d)}', ["a", "b", "c", "d"]),
    ("echo ${x:-')'} \"${y:-don't}\" && rm a", ["a"]),
    ("rm a && rm b || rm c; rm d | rm e & rm f\nrm g", ["a", "b", "c", "d", "e", "f", "g"]),
    ("{ rm a; }; ! rm b", ["a", "b"]),
    ("if true; then rm a; elif true; then rm b; else rm c; fi", ["a", "b", "c"]),
    ("while read x; do rm a; done < b", ["a"]),
    ("case $x in a) rm a;; b|c) rm b;; esac", ["a", "b"]),
    ("f() { rm a; }; f", ["a"]),
    ("echo git push; echo rm a", []),
    ("grep -rn 'rm a' .", []),
]
DIRECTORIES = [
    ("cd dir && rm a", ["dir/a"]),
    ("cd dir; cd ../x; rm a", ["x/a"]),
    ("cd -P -- dir && rm a", ["dir/a"]),
    ("cd dir && cd - && rm a", ["a"]),
    ("pushd dir; rm a; popd; rm b", ["dir/a", "b"]),
    ("cd /x && rm a", ["/x/a"]),
    ("(cd dir && rm a); rm b", ["dir/a", "b"]),
    ("(cd x; (cd y; rm a); rm b); rm c", ["x/y/a", "x/b", "c"]),
    ("cd x | rm a; rm b", ["a", "b"]),
    ("cd x && rm a & rm b", ["x/a", "b"]),
    ("y=$(cd x && rm a); rm b", ["x/a", "b"]),
    ("command cd dir && rm a", ["dir/a"]),
    ("cd $DIR && rm a /b", ["/b"]),
    ("cd $DIR; cd /x; rm a", ["/x/a"]),
]
HERE_DOCUMENTS = [
    ("cat <<EOF > a\nrm b\necho x > c\nEOF\nrm d", ["a", "d"]),
    ("cat <<-'E F' >> a\n\trm b\n\tE F\nrm d", ["a", "d"]),
    ("cat <<A <<B > a\nrm x\nA\nrm y\nB\nrm d", ["a", "d"]),
    ("cat <<EOF > a\r\nrm b\r\nEOF\r\nrm d\r\n", ["a", "d"]),
    ("cat <<EOF > a\nrm b", ["a"]),
    ("cat <<< 'rm b' > a", ["a"]),
    (f"apply_patch <<'EOF'\n{PATCH}\nEOF\nrm d", ["src/a.py", "src/b.py", "c", "d"]),
    (f"cd dir && applypatch <<EOF\n{PATCH}\nEOF", ["dir/src/a.py", "dir/src/b.py", "dir/c"]),
    (f"cat <<'EOF' | apply_patch\n{PATCH}\nEOF", ["src/a.py", "src/b.py", "c"]),
    (f'apply_patch "{PATCH}"', ["src/a.py", "src/b.py", "c"]),
    (f"bash -lc \"apply_patch <<'EOF'\n{PATCH}\nEOF\"", ["src/a.py", "src/b.py", "c"]),
    (f"apply_patch \"$(cat <<'EOF'\n{PATCH}\nEOF\n)\"; rm d", ["src/a.py", "src/b.py", "c", "d"]),
    (f"cat > a <<'EOF'\n{PATCH}\nEOF", ["a"]),
]
BROKEN = [
    ("rm a 'b", ["a"]),
    ('rm a; echo "x > b', ["a"]),
    ("rm a; echo $(rm b", ["a", "b"]),
    ("rm a; echo `rm b", ["a"]),
    ("rm a >", ["a"]),
    ("rm a )))) rm b", ["a", "b"]),
    ("rm a\0b c ''", ["c"]),
    (f"rm {'x' * 4_097} a", ["a"]),
]


@pytest.mark.parametrize(
    ("command", "names"),
    [*REDIRECTIONS, *PROGRAMS, *GIT, *NESTING, *DIRECTORIES, *HERE_DOCUMENTS, *BROKEN],
    ids=lambda value: value[:60].encode("unicode_escape").decode() if isinstance(value, str) else "",
)
def test_the_paths_that_a_command_writes(command: str, names: list[str]) -> None:
    assert written_paths(command, CWD) == paths(*names)


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}", '"$HOME"'])
def test_the_home_directory_is_known(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, os.path.join(CWD, "home"))
    assert written_paths(f"rm {home}/a ~other/b $HOMES/c '~/d'; cd; rm e", CWD) == paths("home/a", "~/d", "home/e")


def test_a_command_runs_in_the_directory_that_the_caller_names() -> None:
    assert written_paths("rm a", os.path.join(CWD, "x", "..", "y")) == paths("y/a")


def test_only_the_first_64_kib_are_read() -> None:
    assert written_paths(f"rm a; echo {'x' * 65_536}; rm b", CWD) == paths("a")


def test_a_script_may_be_longer_than_a_path() -> None:
    assert written_paths(f"bash -c 'rm a; echo {'x' * 5_000}; rm b'", CWD) == paths("a", "b")


def test_at_most_two_hundred_paths_are_returned() -> None:
    assert written_paths("rm " + " ".join(map(str, range(300))), CWD) == paths(*map(str, range(200)))


def test_the_help_names_what_is_not_seen() -> None:
    assert all(word in NOT_SEEN for word in ("make", "variable", "git stash", "git apply", "git checkout BRANCH"))


# Repeated up to the bound, each takes seconds or more where something is read again for each level or each word.
HOSTILE = [
    *"\\\"'`;>(){[#&|\n",
    *(
        "$(",
        "${",
        "$((",
        "((",
        "<(",
        "$'\\",
        '"$(',
        '${x:-"',
        "`\\`",
        "\\\n",
        "[[ ",
        "a[",
        "A[",
        "~",
        "-",
        "--a=",
        "{a,",
    ),
    *(
        "a ",
        "a{a,b}",
        "{a,b} ",
        ">a ",
        "A=1 ",
        "sudo ",
        "eval ",
        "cd a;",
        "pushd a;",
        "<<a\n",
        "<<E ",
        "bash -c '",
        "a|",
    ),
    *("x() {", "((x)", "case a in ", "$(cat <<E\n", "git -C a ", "sed -i a ", "bash <<E|", "apply_patch <<E|"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_within_the_time_of_a_test(text: str) -> None:
    written_paths((text * 65_536)[:65_536], CWD)
    written_paths(f"mv -t a {text * (32_000 // len(text))}\n{'rm a;' * 5_000}", CWD)


def test_many_programs_behind_one_here_document_read_it_once() -> None:
    body = "rm a;" * 5_000
    assert written_paths(f"cat <<E {'|bash <<F' * 3_000}\n{body}\nE\n{body}\nF\n", CWD) == paths("a")


PIECES = st.sampled_from(
    [
        *HOSTILE,
        *"ab/.*?-~!=, \t\r",
        "rm",
        "cd",
        "mv",
        "cp",
        "sed -i",
        "git checkout --",
        "xargs",
        "$HOME",
        "$x",
        "<<",
        "E",
        "if",
        "]]",
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join) | st.text())
@example("rm ~\0x ~\ud800")
def test_any_text_has_a_list_of_paths(command: str) -> None:
    found = written_paths(command, CWD)
    assert len(set(found)) == len(found) and all(os.path.isabs(path) for path in found)


NAMES = st.text(min_size=1, max_size=40).filter(lambda name: "\0" not in name and name.strip("/"))


@given(st.lists(NAMES, min_size=2, max_size=4, unique_by=os.path.normpath))
def test_every_name_is_known_once_it_is_quoted(names: list[str]) -> None:
    quoted = " ".join(map(shlex.quote, names))
    expected = [os.path.normpath(os.path.join(CWD, name)).replace("//", "/") for name in names]
    assert written_paths(f"rm -- {quoted}", CWD) == list(dict.fromkeys(expected))
    assert written_paths(f"bash -c {shlex.quote(f'rm -- {quoted}')}", CWD) == list(dict.fromkeys(expected))


# What bash really does

TREE = {
    "a.txt": "one\ntwo\n",
    "b.txt": "b\n",
    "with space.txt": "s\n",
    "x[1].txt": "x\n",
    "dirty.txt": "committed\n",
    "src/app.py": "app\n",
    "src/dirty.py": "committed\n",
    "src/deep/x.py": "x\n",
    "docs/one.md": "1\n",
    "docs/two.md": "2\n",
}
DIRTY = {
    "dirty.txt": "changed\n",
    "src/dirty.py": "changed\n",
    "one.diff": "--- a.txt\n+++ a.txt\n@@ -1,2 +1,2 @@\n-one\n+1\n two\n",
}
REAL = [
    "echo x > a.txt",
    "echo x >> new; echo y 2> errors >| b.txt",
    "ls nothing &> log",
    "ls nothing >& log",
    "exec {fd}> opened; echo x >&$fd",
    "(cd src && echo x > a.txt); rm b.txt",
    "cd src && rm app.py && cd .. && rm a.txt",
    "cd src; cd deep; touch new; cd - > /dev/null; touch other",
    "pushd src > /dev/null; touch new; popd > /dev/null; touch other",
    "cd src | touch new; touch other",
    "cd src && touch new & wait; touch other",
    "rm -rf src",
    "rm *.txt",
    "rm d*/[ot]*.md",
    "rm 'with space.txt' x\\[1].txt",
    "rm {a,b}.txt src/{app,dirty}.py",
    "mkdir empty && rmdir empty docs || rm -r docs",
    "unlink a.txt",
    "sed -i s/one/1/ a.txt b.txt",
    "sed -i.bak -e s/one/1/ a.txt src/app.py",
    "sed -n --in-place=.orig -e p a.txt",
    "sed -Ei'old-*' 's/(one)/1/' a.txt",
    "perl -i -pe 's/one/1/' a.txt",
    "perl -0pi.bak -e 's/one/1/' a.txt src/app.py",
    "mv a.txt c.txt",
    "mv a.txt src",
    "mv a.txt b.txt src/",
    "mv -t src a.txt docs/one.md",
    "mv src/*.py docs",
    "mv src/deep docs/",
    "mv docs/one.md .",
    "mv docs/one.{md,txt}",
    "cp a.txt c.txt",
    "cp a.txt src/app.py docs/",
    "cp -r src new",
    "cp -rt docs src a.txt",
    "cp a.txt{,.bak}",
    "cp src/app.py .",
    "echo x | tee a.txt new > /dev/null",
    "echo x | tee >(cat > copied) a.txt > /dev/null; wait; while ! [ -s copied ]; do :; done",
    "touch -d 2020-01-01 a.txt",
    "touch -r b.txt a.txt 'new one'",
    "truncate -s 1 a.txt src/app.py",
    "install -m 600 a.txt new",
    "install -Dm644 a.txt new/dir/file",
    "install a.txt b.txt docs",
    "ln -s a.txt link",
    "ln a.txt docs/",
    "ln -sf ../a.txt src/app.py; ln -s src/deep/x.py",
    "dd if=a.txt of=new 2> /dev/null",
    "patch -s a.txt one.diff",
    "patch -s -o new a.txt one.diff",
    "git checkout -q -- dirty.txt",
    "git checkout -q HEAD -- src/dirty.py",
    "git checkout -q HEAD dirty.txt",
    "git checkout -q .",
    "git restore dirty.txt",
    "git -C src restore --source HEAD dirty.py",
    "git rm -q a.txt; git rm -qr docs",
    "git mv a.txt src/",
    "cd src && git mv app.py ../docs/new.py",
    "A=1 env B=2 nice -n 1 timeout 60 rm a.txt",
    "command rm a.txt; command cd src; rm app.py",
    "echo a.txt | xargs -I{} cp {} docs/new",
    "echo s/one/1/ | xargs -I{} sed -i {} a.txt",
    "bash -c 'cd src && rm app.py'; rm a.txt",
    "bash -euo pipefail -c \"cd docs; sh -c 'rm one.md'; rm two.md\"",
    "eval 'cd src' && rm app.py",
    "bash <<'EOF'\ncd src\nrm app.py\nEOF\nrm a.txt",
    "cat <<EOF | bash\nrm a.txt\nEOF",
    "cat <<A > one <<-'B'\nrm x > y\nA\n\trm z\n\tB\nrm a.txt",
    'x=$(rm a.txt; echo ")") y=`rm b.txt`; echo "$(cat <<\'E\' > new\ndon\'t (\nE\n)"',
    "f() { rm a.txt; }; f; ! rm b.txt",
    "if [[ b > a ]]; then rm a.txt; fi; (( 2 > 1 )) && rm b.txt",
    "for x in 1; do touch new; done > log; case a in b) ;; a) rm a.txt;; esac",
    "echo $((1<<2)) > new\nrm a.txt",
    "rm \"a\"'.t'\\x\\\nt # > b.txt",
    'touch ~/new $HOME/other "${HOME}/third"',
    'touch \'a$b\' a$ "c\\$d" "e\\f"',
]


def snapshot(root: Path) -> dict[str, object]:
    """Return all below *root* that git does not keep for itself: directories, links and files with content and time."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        if ".git" not in path.parts:
            status = path.lstat()
            content = (
                os.readlink(path)
                if path.is_symlink()
                else (status.st_mtime_ns, path.read_bytes())
                if path.is_file()
                else None
            )
            found[str(path)] = content
    return found


def covers(written: str, path: str) -> bool:
    """Return whether *written* is or matches *path*, or a directory above it."""
    names = path.split("/")
    candidates = ["/".join(names[:depth]) for depth in range(2, len(names) + 1)]
    return any(
        each == written or (each.count("/") == written.count("/") and fnmatch.fnmatchcase(each, written))
        for each in candidates
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with changes that are not committed."""
    root = tmp_path_factory.mktemp("tree") / "project"
    for files in (TREE, DIRTY):
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        if files is TREE:
            identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
            for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "x")):
                subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the options are those of the GNU programs")
@pytest.mark.parametrize("command", REAL)
def test_whatever_changes_when_bash_runs_the_command_was_known_before(command: str, tree: Path, tmp_path: Path) -> None:
    program = command.split(maxsplit=1)[0]
    if program in ("patch", "perl") and shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    project, home = tmp_path / "project", tmp_path / "home"
    shutil.copytree(tree, project, symlinks=True)
    home.mkdir()
    before = snapshot(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        written = written_paths(command, str(project))
        subprocess.run(["bash", "-c", command], cwd=project, timeout=60, check=False)
    after = snapshot(tmp_path)
    # A new directory is nobody's file yet; what is in it is.
    changed = {
        path for path in before | after if before.get(path, 0) != after.get(path, 0) and after.get(path, 0) is not None
    }
    assert changed and {path for path in changed if not any(covers(each, path) for each in written)} == set()
