"""Which files a shell command may write, move or delete, as far as its text shows.  Pure: it runs nothing and reads no file.

`Lexer` cuts the text into words, redirections and operators as bash does; `_Reader` goes through the commands and follows
`cd`, which it takes to succeed.  Each goes through the text once for each level of nesting, and levels are bounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from mcp_claims.guard.patches import MAX_PATH, MAX_PATHS, patched_paths
from mcp_claims.guard.shell import (
    BEFORE_THE_NAME,
    EMPTY,
    HERE_DOCUMENT,
    MAX_DEPTH,
    PIPE,
    Lexer,
    Redirection,
    Token,
    Word,
)

_MAX_COMMAND = 64 * 1024
_MAX_PUSHES = 8
_MAX_ALTERNATIVES = 4 * MAX_PATHS  # Of one command, about.

_DUPLICATED = re.compile(r"\d+-?|-", re.ASCII)
_ALTERNATIVES = re.compile(r"\{([^{}]*+)\}")

_WRITING = frozenset({">", ">>", ">|", "&>", "&>>", ">&", "<>"})


def _options(*lines: str) -> dict[str, str]:
    """Return, for each program, its options with a value, as getopt(1) writes them: `::` if it has to be in the same word."""
    return dict(entry.partition("=")[::2] for line in lines for entry in line.split())


_STARTERS = _options(
    "builtin busybox command nohup setsid exec=a: ionice=c:n: nice=n: stdbuf=i:o:e: time=f:o: timeout=k:s:",
    "doas=u:C: env=u:C:S: sudo=u:g:C:D:h:p:R:r:T:t:U: xargs=a:d:E:I:L:n:P:s:i::l::e::",
)
_SHELLS = _options("ash=o:O: bash=o:O: dash=o:O: ksh=o:O: sh=o:O: zsh=o:O:")
_ON_ALL = _options("rm rmdir shred=n:s: tee touch=d:r:t: truncate=r:s: unlink")
_INTO = _options("cp=S:t: install=g:m:o:S:t: ln=S:t: mv=S:t:")
_IN_PLACE = _options("gsed=e:f:i::l: perl=C::D::e:E:F::I:i::m:M:x:: ruby=C:e:E:F::I:i::r: sed=e:f:i::l:")
_LONG_WITH_VALUE = re.compile(
    "chdir|date|delimiter|expression|file|git-dir|group|kill-after|max-args|max-procs|mode|output|owner|rcfile|reference|"
    "signal|size|source|suffix|target-directory|unset|user|work-tree"
)


class Push(NamedTuple):
    """A `git push` with its *words*, which runs in *directory*."""

    directory: str
    words: list[str]


class Written(NamedTuple):
    """What a command may write: files, and branches by its pushes."""

    paths: list[str]
    pushes: list[Push]


def written_paths(command: str, cwd: str) -> list[str]:
    """Return the absolute paths that *command* may write, move or delete when it runs in *cwd*, each once.

    Links are not resolved.  A pattern (`*`, `?`, `[`) stays as it is, also one that was quoted, and `{a,b}` becomes `*` where
    that would be too many: the caller takes a pattern for all that it may match, and a directory for all that is in it.
    A path in which a variable or a substitution stands is left out, as is all that `NOT_SEEN` says.
    """
    return list(read_command(command, cwd).paths)


def read_command(command: str, cwd: str) -> Written:
    """Return what *command* may write when it runs in *cwd*: paths as `written_paths` returns them, and pushes."""
    reader = _Reader(cwd)
    reader.script(command[:_MAX_COMMAND])
    return Written(list(reader.paths), reader.pushes)


class _Reader:
    """Goes through the commands of a script and collects the paths that they write."""

    def __init__(self, cwd: str) -> None:
        self.paths: dict[str, None] = {}
        self.pushes: list[Push] = []
        self._cwd: str | None = cwd  # `None` once it depends on a variable.
        self._pushed: list[str | None] = []
        self._previous: str | None = None
        self._depth = 0

    def script(self, text: str) -> None:
        if self._depth < MAX_DEPTH:
            self._depth += 1
            self._commands(Lexer(text, self._depth).tokens())
            self._depth -= 1

    def _commands(self, tokens: list[Token]) -> None:
        words: list[Word] = []
        redirections: list[Redirection] = []
        inherited: list[Redirection] = []  # What the command before the pipe reads, and most likely writes to it.
        levels: list[tuple[str | None, str | None]] = []
        start, piped = self._cwd, False
        for token in [*tokens, "\n"]:
            if isinstance(token, Word):
                words.append(token)
            elif isinstance(token, Redirection):
                redirections.append(token)
            else:
                before = self._cwd
                if words or redirections:
                    self._command(words, redirections, [*inherited, *redirections])
                # A part of a pipeline and what runs in the background are processes of their own, and so is their directory.
                if piped or token in PIPE:
                    self._cwd = before
                piped = token in PIPE
                inherited = redirections if piped else []
                if token == "&":
                    self._cwd = start
                elif token == "(":
                    levels.append((self._cwd, start))
                elif token == ")" and levels:
                    self._cwd, start = levels.pop()
                if token in ("&", "(", ";", "\n"):
                    start = self._cwd
                words, redirections = [], []

    def _command(self, words: list[Word], redirections: list[Redirection], inputs: list[Redirection]) -> None:
        cwd = self._cwd
        for word in (*words, *(each.target for each in redirections)):
            for tokens in word.inner:
                self._commands(tokens)
                self._cwd = cwd
        for each in redirections:
            if each.operator in _WRITING and not (each.operator == ">&" and _DUPLICATED.fullmatch(each.target.text)):
                self._add([each.target])
        self._run(words, [each for each in inputs if each.operator in HERE_DOCUMENT])

    def _run(self, words: list[Word], documents: list[Redirection], starters: int = 0) -> None:
        """Add what the command in *words* writes, perhaps after assignments; *documents* are its here-documents."""
        first = next((at for at, word in enumerate(words) if not BEFORE_THE_NAME.match(word.live)), len(words))
        if first == len(words) or not words[first].known:
            return
        name, arguments, cwd = os.path.basename(words[first].text), words[first + 1 :], self._cwd
        if name in ("cd", "pushd", "popd"):
            self._change_directory(name, [word for word in arguments if not re.match("-.", word.text)])
        elif name == "eval":
            self.script(" ".join(word.text for word in arguments))
        elif name in _STARTERS and starters < MAX_DEPTH:
            options, started = _parsed(arguments, _STARTERS[name], intermixed=False)
            if name == "command" and options.keys() & set("vV"):
                return
            if name == "xargs":
                place = "".join(word.text for word in options.get("I", [])) or "{}"
                started = [word._replace(known=word.known and place not in word.text) for word in started]
            self._enter([*options.get({"env": "C", "sudo": "D"}.get(name, ""), []), *options.get("chdir", [])])
            self._run(started[1:] if name == "timeout" else started, documents, starters + 1)
            # `command cd` is the shell's own.
            self._cwd = self._cwd if name in ("builtin", "command", "time") else cwd
        elif name in _SHELLS:
            options, operands = _parsed(arguments, _SHELLS[name], intermixed=False)
            scripts = [word.text for word in operands[:1]] if "c" in options else []
            if not scripts and ("s" in options or not operands or operands[0].text == "-"):
                scripts = [_taken(document) for document in documents]
            for script in scripts:
                self.script(script)
                self._cwd = cwd
        elif name in ("apply_patch", "applypatch"):
            inner = [token for word in arguments for tokens in word.inner for token in tokens]
            documents = [*documents, *(token for token in inner if isinstance(token, Redirection))]
            for patch in (*(word.text for word in arguments), *map(_taken, documents)):
                self._add(Word(path, "") for path in patched_paths(patch))
        else:
            self._write(name, arguments)
            self._cwd = cwd

    def _write(self, name: str, words: list[Word]) -> None:
        arguments: list[Word] = []
        for word in words:
            arguments += _alternatives(word) if len(arguments) < _MAX_ALTERNATIVES else [word]
        if name in _ON_ALL:
            self._add(_parsed(arguments, _ON_ALL[name])[1])
        elif name in _INTO:
            self._write_into(name, arguments)
        elif name in _IN_PLACE:
            self._write_in_place(name, arguments)
        elif name == "dd":
            self._add(word.slice(3) for word in arguments if word.text.startswith("of="))
        elif name == "patch":
            options, operands = _parsed(arguments, "B:d:D:F:g:i:o:p:r:V:Y:z:")
            self._enter(options.get("d", []))
            self._add([*operands[:1], *options.get("o", []), *options.get("output", [])])
        elif name == "git":
            options, operands = _parsed(arguments, "c:C:", intermixed=False)
            self._enter(options.get("C", []))
            if operands:
                self._write_git(operands[0].text, operands[1:])

    def _write_into(self, name: str, arguments: list[Word]) -> None:
        options, sources = _parsed(arguments, _INTO[name])
        targets = [*options.get("t", []), *options.get("target-directory", [])]
        inside = bool(targets) or len(sources) > 2
        if name == "install" and options.keys() & {"d", "directory"}:
            self._add(sources)
            return
        if not targets and (len(sources) > 1 or name == "ln"):
            targets = [sources.pop()] if len(sources) > 1 else [Word(".", "")]
        if name == "mv":
            self._add(sources)
        for target in targets[-1:]:
            # Of a directory only what is written by its name counts: the directory itself stands for all that is in it.
            here = os.path.basename(target.text) in (".", "..")
            if inside or here or target.text.endswith("/"):
                self._add(_in_directory(target, source) for source in sources)
                if here or all(source.known for source in sources):
                    continue
            self._add([target])

    def _write_in_place(self, name: str, arguments: list[Word]) -> None:
        options, files = _parsed(arguments, _IN_PLACE[name])
        suffix = [*options.get("i", []), *options.get("in-place", [])][-1:]
        if suffix and files and files[0] == EMPTY:  # `sed -i ''`, as on macOS.
            del files[0]
        if not options.keys() & ({"e", "f", "expression", "file"} if name.endswith("sed") else {"e", "E"}):
            del files[:1]  # The script.
        for file in files if suffix else []:
            directory, base = os.path.split(file.text)
            backup = suffix[0].text.replace("*", base) if "*" in suffix[0].text else base + suffix[0].text
            self._add([file, file._replace(text=os.path.join(directory, backup))])

    def _write_git(self, command: str, arguments: list[Word]) -> None:
        if command == "push" and self._cwd is not None and len(self.pushes) < _MAX_PUSHES:
            self.pushes.append(Push(self._cwd, [word.text for word in arguments if word.known]))
        options, operands = _parsed(arguments, {"checkout": "b:B:", "restore": "s:"}.get(command, ""))
        texts = [word.text for word in arguments]
        if command == "mv":
            self._write_into("mv", arguments)
        elif command == "checkout" and "--" in texts:
            operands = arguments[texts.index("--") + 1 :]
        elif command == "checkout" and not options.keys() & {"ours", "theirs"}:
            # The first may be a branch, but no branch begins like that.
            operands = [word for at, word in enumerate(operands) if at or word.text.startswith((".", "/"))]
        in_index = options.keys() & {"cached", "staged", "S"} and not options.keys() & {"worktree", "W"}
        if command in ("checkout", "restore", "rm") and not in_index:
            self._add(word for word in operands if not word.text.startswith(":"))

    def _change_directory(self, name: str, operands: list[Word]) -> None:
        before = self._cwd
        if name == "popd":
            self._cwd = self._pushed.pop() if self._pushed else None
        elif operands and operands[0].text == "-":
            self._cwd = self._previous
        else:
            self._enter(operands[:1] or [Word("~", "~")])
        if name == "pushd":
            self._pushed.append(before)
        self._previous = before

    def _enter(self, directories: Iterable[Word]) -> None:
        for directory in directories:
            self._cwd = self._joined(directory)

    def _add(self, words: Iterable[Word]) -> None:
        for word in words:
            path = self._joined(word) if len(self.paths) < MAX_PATHS else None
            if path and (not path.startswith("/dev/") or path.startswith("/dev/shm/")):
                self.paths[path] = None

    def _joined(self, word: Word) -> str | None:
        """Return the absolute path that *word* names; `None` if that is not known."""
        if not word.known or not 0 < len(word.text) <= MAX_PATH or "\0" in word.text:
            return None
        text = word.text
        if word.live.startswith("~"):
            if not f"{text}/".startswith("~/"):  # The home of somebody else.
                return None
            text = os.path.expanduser(text)
        if self._cwd is None and not os.path.isabs(text):
            return None
        path = os.path.normpath(os.path.join(self._cwd or "", text))
        # `normpath` keeps two slashes, and a key that begins with them names a host.
        path = re.sub("^//+", "/", path) if os.sep == "/" else path
        return path if len(path) <= MAX_PATH else None


def _parsed(arguments: list[Word], spec: str, *, intermixed: bool = True) -> tuple[dict[str, list[Word]], list[Word]]:
    """Return the values of each option, and the operands; with the first one, options end, unless *intermixed*."""
    options: dict[str, list[Word]] = {}
    operands: list[Word] = []
    rest = iter(arguments)
    for word in rest:
        text = word.text
        if text == "--":
            operands += rest
        elif text.startswith("--"):
            name, equals, _ = text[2:].partition("=")
            value = next(rest, EMPTY) if not equals and _LONG_WITH_VALUE.fullmatch(name) else word.slice(len(name) + 3)
            options.setdefault(name, []).append(value)
        elif len(text) > 1 and text.startswith("-"):
            for position, letter in enumerate(text[1:], 2):
                takes = spec.partition(letter)[2][:2]
                value = word.slice(position) if takes.startswith(":") else EMPTY
                if not value.text and takes.startswith(":") and takes != "::":
                    value = next(rest, EMPTY)
                options.setdefault(letter, []).append(value)
                if takes.startswith(":"):
                    break
        else:
            operands += [word] if intermixed else [word, *rest]
    return options, operands


def _alternatives(word: Word) -> list[Word]:
    """Return the words that `{a,b}` in *word* stands for."""
    done: list[Word] = []
    left = [word]
    while left:
        word = left.pop()
        groups = _ALTERNATIVES.finditer(word.live if len(word.live) <= MAX_PATH else "")
        group = next((each for each in groups if "," in each[1] or ".." in each[1]), None)
        if group is None:
            done.append(word)
            continue
        head, tail = word.slice(0, group.start()), word.slice(group.end())
        texts, start = [Word("*", "*")], group.start(1)
        if len(done) + len(left) >= _MAX_ALTERNATIVES:
            tail = word.slice(word.live.rindex("}") + 1)
        elif "," in group[1]:
            texts = []
            for name in group[1].split(","):
                texts.append(word.slice(start, start + len(name)))
                start += len(name) + 1
        left += (
            word._replace(text=head.text + each.text + tail.text, live=head.live + each.live + tail.live)
            for each in reversed(texts)
        )
    return done


def _in_directory(directory: Word, source: Word) -> Word:
    """Return the path of *source* once it was put into *directory* under its own name."""
    path = os.path.join(directory.text, os.path.basename(source.text.rstrip("/")))
    return Word(path, f"{directory.live}/", directory.known and source.known)


def _taken(document: Redirection) -> str:
    """Return the body of a here-document, once: else each of a hundred programs behind a pipe would read it again."""
    body, document.body = document.body, ""
    return body
