"""Which files a shell command may write, move or delete, as far as its text shows.  Pure: it runs nothing and reads no file.

`_Lexer` cuts the text into words, redirections and operators as bash does; `_Reader` goes through the commands and follows
`cd`, which it takes to succeed.  Each goes through the text once for each level of nesting, and levels are bounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mcp_claims.guard.patches import MAX_PATH, MAX_PATHS, patched_paths

NOT_SEEN = (
    "The guard does not see what programs and scripts write by themselves (`make`, `python x.py`, formatters, editors, build "
    "tools, `find -delete`), what a variable or the output of a command names, what `xargs`, or `patch` without a file, reads "
    "from standard input, and what `git checkout BRANCH`, `git switch`, `git reset`, `git stash`, `git apply`, `git merge` "
    "or `git pull` change."
)

_MAX_COMMAND = 64 * 1024
_MAX_DEPTH = 8  # Of substitutions in each other, of scripts in each other, and of programs that start programs.
_MAX_ALTERNATIVES = 4 * MAX_PATHS  # Of one command, about.

_UNKNOWN = "$_"
"""Stands in a word for what only the shell knows; a script in such a word is read, and there it is as unknown."""

_PLAIN = re.compile(r"""[^ \t\r\n;&|<>()'"\\`$]++""")
_PLAIN_IN_QUOTES, _PLAIN_IN_BRACES = re.compile(r'[^"\\`$]++'), re.compile(r"""[^}'"\\`$]++""")
_BACKQUOTED = re.compile(r"`((?:[^`\\]++|\\.)*+)`", re.DOTALL)
_WITH_ESCAPES = re.compile(r"\$'(?:[^'\\]++|\\.)*+'", re.DOTALL)
_HOME = re.compile(r"\$(?:\{HOME\}|HOME(?!\w))", re.ASCII)
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*+|[0-9@*#?$!-])", re.ASCII)
_REDIRECTION = re.compile(r"&>>?|<<<|<<-?|<[>&]?|>[>&|]?")
_OPERATOR = re.compile(r"&&|\|[|&]?|;;?&?|[&()\n]")
_DESCRIPTOR = re.compile(r"\d++|\{\w+\}", re.ASCII)
_DUPLICATED = re.compile(r"\d+-?|-", re.ASCII)
_BEFORE_THE_NAME = re.compile(r"(?:if|then|elif|else|while|until|do|!|\{)\Z|[A-Za-z_]\w*+(?:\[[^]]*+\])?\+?=", re.ASCII)
_ALTERNATIVES = re.compile(r"\{([^{}]*+)\}")

_WRITING = frozenset({">", ">>", ">|", "&>", "&>>", ">&", "<>"})
_HERE_DOCUMENT, _PIPE = frozenset({"<<", "<<-"}), frozenset({"|", "|&"})


def _options(*lines: str) -> dict[str, str]:
    """Return the options that take a value of each program, as getopt(1) writes them: `::` if only what is right behind is one."""
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


def written_paths(command: str, cwd: str) -> list[str]:
    """Return the absolute paths that *command* may write, move or delete when it runs in *cwd*, each once.

    Links are not resolved.  A pattern (`*`, `?`, `[`) stays as it is, also one that was quoted, and `{a,b}` becomes `*` where
    that would be too many: the caller takes a pattern for all that it may match, and a directory for all that is in it.
    A path in which a variable or a substitution stands is left out, as is all that `NOT_SEEN` says.
    """
    reader = _Reader(cwd)
    reader.script(command[:_MAX_COMMAND])
    return list(reader.paths)


@dataclass(frozen=True, slots=True)
class _Word:
    """A word; *live* is *text* with a NUL for each character that was quoted, *inner* what `$(` and `<(` in it run."""

    text: str
    live: str
    known: bool = True
    inner: tuple[list[_Token], ...] = ()

    def slice(self, start: int, stop: int | None = None) -> _Word:
        return replace(self, text=self.text[start:stop], live=self.live[start:stop])


@dataclass(slots=True)
class _Redirection:
    operator: str
    target: _Word
    body: str = ""  #: Of a here-document; empty once it was read as a script or a patch.


_Token: TypeAlias = _Word | _Redirection | str
_EMPTY = _Word("", "")


@dataclass(slots=True)
class _Parts:
    """A word that is being read."""

    text: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    inner: list[list[_Token]] = field(default_factory=list)
    known: bool = True

    def add(self, text: str, *, quoted: bool) -> None:
        self.text.append(text)
        self.live.append("\0" * len(text) if quoted else text)

    def add_unknown(self, inner: Iterable[list[_Token]] = ()) -> None:
        self.add(_UNKNOWN, quoted=True)
        self.inner += inner
        self.known = False


class _Lexer:
    """Cuts a script into tokens; what nobody closes ends the script."""

    def __init__(self, text: str, depth: int = 0) -> None:
        self._text, self._at, self._end, self._depth = text, 0, len(text), depth
        self._expected: list[_Redirection] = []  # Here-documents whose bodies begin with the next line.

    def tokens(self, *, nested: bool = False) -> list[_Token]:
        """Return the tokens up to the end or, if *nested*, up to the `)` that closes a substitution."""
        found: list[_Token] = []
        if self._depth >= _MAX_DEPTH:
            self._at = self._end
        self._depth += 1
        opened, comparing = 0, False
        while self._at < self._end:
            next_ = self._text[self._at]
            if next_ in " \t\r" or (comparing and next_ in "<>;&|()\n"):
                self._at += 1
            elif self._next_is("\\\n"):
                self._at += 2
            elif next_ == "#":
                self._at = self._position_of("\n")
            elif self._next_is("(("):
                self._skip_arithmetic()
            elif not self._next_is("<(", ">(") and (redirection := _REDIRECTION.match(self._text, self._at)):
                self._at = redirection.end()
                found.append(self._redirection(redirection[0]))
            elif operator := _OPERATOR.match(self._text, self._at):
                self._at = operator.end()
                opened += {"(": 1, ")": -1}.get(operator[0], 0)
                if nested and opened < 0:
                    break
                if operator[0] == "\n":
                    self._read_bodies()
                found.append(operator[0])
            else:
                before, word = found[-1] if found else "\n", self._word()
                # Between `[[` and `]]`, `>` compares.
                if word.live in ("[[", "]]"):
                    comparing = word.live == "[[" and (comparing or _begins_command(before))
                if not (self._next_is("<", ">") and _DESCRIPTOR.fullmatch(word.live)):
                    found.append(word)
        self._depth -= 1
        return found

    def _next_is(self, *texts: str) -> bool:
        return self._text.startswith(texts, self._at)

    def _position_of(self, text: str) -> int:
        """Return where *text* is found next, or the end."""
        found = self._text.find(text, self._at)
        return self._end if found < 0 else found

    def _skip_arithmetic(self) -> None:
        """Go behind what closes the next parenthesis; `<<` in it shifts, and begins no here-document."""
        opened = 0
        for found in re.compile("[()]").finditer(self._text, self._at):
            opened += 1 if found[0] == "(" else -1
            if not opened:
                self._at = found.end()
                return
        self._at = self._end

    def _redirection(self, operator: str) -> _Redirection:
        while self._next_is(" ", "\t", "\\\n"):
            self._at += 2 if self._next_is("\\") else 1
        redirection = _Redirection(operator, self._word())
        if operator in _HERE_DOCUMENT:
            self._expected.append(redirection)
        return redirection

    def _read_bodies(self) -> None:
        for redirection in self._expected:
            lines: list[str] = []
            while self._at < self._end:
                stop = self._position_of("\n")
                line = self._text[self._at : stop].lstrip("\t" if redirection.operator == "<<-" else "\n")
                self._at = stop + 1
                if line.rstrip("\r") == redirection.target.text:
                    break
                lines.append(line)
            redirection.body = "\n".join(lines)
        self._expected.clear()

    def _word(self) -> _Word:
        parts = _Parts()
        self._read_word(parts)
        return _Word("".join(parts.text), "".join(parts.live), parts.known, tuple(parts.inner))

    def _read_word(self, parts: _Parts) -> None:
        while self._at < self._end:
            if plain := _PLAIN.match(self._text, self._at):
                self._at = plain.end()
                parts.add(plain[0], quoted=False)
            elif self._next_is("<(", ">("):
                self._at += 2
                parts.add_unknown([self.tokens(nested=True)])
            elif self._text[self._at] in " \t\r\n;&|<>()":
                return
            else:
                self._read_special(parts, quoted=False)

    def _read_until(self, closing: str, parts: _Parts, plain_text: re.Pattern[str], *, quoted: bool) -> None:
        """Read up to the `"` or `}` that closes what was opened."""
        while self._at < self._end:
            if plain := plain_text.match(self._text, self._at):
                self._at = plain.end()
                parts.add(plain[0], quoted=True)
            elif self._next_is(closing):
                self._at += 1
                return
            else:
                self._read_special(parts, quoted=quoted)
        parts.known = False

    def _read_special(self, parts: _Parts, *, quoted: bool) -> None:
        r"""Read what begins with `\`, a quote, a backquote or `$`, *quoted* if it stands between `"` and `"`."""
        start, self._at = self._at, self._at + 1
        first, both = self._text[start], self._text[start : start + 2]
        if first == "\\":
            self._at += 1
            stays = len(both) < 2 or (quoted and both[1] not in '"\\`$\n')
            parts.add(both if stays else both[1].strip("\n"), quoted=True)
        elif first == "'" and not quoted:
            stop = self._position_of("'")
            parts.add(self._text[self._at : stop], quoted=True)
            parts.known = parts.known and stop < self._end
            self._at = stop + 1
        elif first == '"':
            self._read_until('"', parts, _PLAIN_IN_QUOTES, quoted=True)
        elif first == "`":
            body = _BACKQUOTED.match(self._text, start)
            self._at = body.end() if body else self._end
            script = re.sub(r"\\([`$\\])", r"\1", body[1]) if body else ""
            parts.add_unknown([_Lexer(script, self._depth).tokens()])
        elif first != "$" or (both == '$"' and not quoted):
            parts.add(first.rstrip("$"), quoted=True)
        elif home := _HOME.match(self._text, start):
            self._at = home.end()
            parts.add(os.path.expanduser("~"), quoted=True)
        elif self._next_is("(("):
            self._skip_arithmetic()
            parts.add_unknown()
        elif both == "$(":
            self._at += 1
            parts.add_unknown([self.tokens(nested=True)])
        elif both == "${":
            self._at = self._at + 1 if self._depth < _MAX_DEPTH else self._end
            inner = _Parts()
            self._depth += 1
            self._read_until("}", inner, _PLAIN_IN_BRACES, quoted=quoted)
            self._depth -= 1
            parts.add_unknown(inner.inner)
        elif both == "$'" and not quoted:
            escapes = _WITH_ESCAPES.match(self._text, start)
            self._at = escapes.end() if escapes else self._end
            if escapes and "\\" not in escapes[0]:
                parts.add(escapes[0][2:-1], quoted=True)
            else:
                parts.add_unknown()
        elif variable := _VARIABLE.match(self._text, start):
            self._at = variable.end()
            parts.add_unknown()
        else:
            parts.add("$", quoted=True)


class _Reader:
    """Goes through the commands of a script and collects the paths that they write."""

    def __init__(self, cwd: str) -> None:
        self.paths: dict[str, None] = {}
        self._cwd: str | None = cwd  # `None` once it depends on a variable.
        self._pushed: list[str | None] = []
        self._previous: str | None = None
        self._depth = 0

    def script(self, text: str) -> None:
        if self._depth < _MAX_DEPTH:
            self._depth += 1
            self._commands(_Lexer(text, self._depth).tokens())
            self._depth -= 1

    def _commands(self, tokens: list[_Token]) -> None:
        words: list[_Word] = []
        redirections: list[_Redirection] = []
        inherited: list[_Redirection] = []  # What the command before the pipe reads, and most likely writes to it.
        levels: list[tuple[str | None, str | None]] = []
        start, piped = self._cwd, False
        for token in [*tokens, "\n"]:
            if isinstance(token, _Word):
                words.append(token)
            elif isinstance(token, _Redirection):
                redirections.append(token)
            else:
                before = self._cwd
                if words or redirections:
                    self._command(words, redirections, [*inherited, *redirections])
                # A part of a pipeline and what runs in the background are processes of their own, and so is their directory.
                if piped or token in _PIPE:
                    self._cwd = before
                piped = token in _PIPE
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

    def _command(self, words: list[_Word], redirections: list[_Redirection], inputs: list[_Redirection]) -> None:
        cwd = self._cwd
        for word in (*words, *(each.target for each in redirections)):
            for tokens in word.inner:
                self._commands(tokens)
                self._cwd = cwd
        for each in redirections:
            if each.operator in _WRITING and not (each.operator == ">&" and _DUPLICATED.fullmatch(each.target.text)):
                self._add([each.target])
        self._run(words, [each for each in inputs if each.operator in _HERE_DOCUMENT])

    def _run(self, words: list[_Word], documents: list[_Redirection], starters: int = 0) -> None:
        """Add what the command writes that *words* begin with, perhaps behind assignments; it reads *documents*."""
        first = next((at for at, word in enumerate(words) if not _BEFORE_THE_NAME.match(word.live)), len(words))
        if first == len(words) or not words[first].known:
            return
        name, arguments, cwd = os.path.basename(words[first].text), words[first + 1 :], self._cwd
        if name in ("cd", "pushd", "popd"):
            self._change_directory(name, [word for word in arguments if not re.match("-.", word.text)])
        elif name == "eval":
            self.script(" ".join(word.text for word in arguments))
        elif name in _STARTERS and starters < _MAX_DEPTH:
            options, started = _parsed(arguments, _STARTERS[name], intermixed=False)
            if name == "command" and options.keys() & set("vV"):
                return
            if name == "xargs":
                place = "".join(word.text for word in options.get("I", [])) or "{}"
                started = [replace(word, known=word.known and place not in word.text) for word in started]
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
            documents = [*documents, *(token for token in inner if isinstance(token, _Redirection))]
            for patch in (*(word.text for word in arguments), *map(_taken, documents)):
                self._add(_Word(path, "") for path in patched_paths(patch))
        else:
            self._write(name, arguments)
            self._cwd = cwd

    def _write(self, name: str, words: list[_Word]) -> None:
        arguments: list[_Word] = []
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

    def _write_into(self, name: str, arguments: list[_Word]) -> None:
        options, sources = _parsed(arguments, _INTO[name])
        targets = [*options.get("t", []), *options.get("target-directory", [])]
        inside = bool(targets) or len(sources) > 2
        if name == "install" and options.keys() & {"d", "directory"}:
            self._add(sources)
            return
        if not targets and (len(sources) > 1 or name == "ln"):
            targets = [sources.pop()] if len(sources) > 1 else [_Word(".", "")]
        if name == "mv":
            self._add(sources)
        for target in targets[-1:]:
            # In `.`, only what is written by its name counts: the directory stands for all that is in it.
            if not (here := os.path.basename(target.text) in (".", "..")):
                self._add([target])
            if inside or here or target.text.endswith("/"):
                self._add(_in_directory(target, source) for source in sources)

    def _write_in_place(self, name: str, arguments: list[_Word]) -> None:
        options, files = _parsed(arguments, _IN_PLACE[name])
        suffix = [*options.get("i", []), *options.get("in-place", [])][-1:]
        if suffix and files and files[0] == _EMPTY:  # `sed -i ''`, as on macOS.
            del files[0]
        if not options.keys() & ({"e", "f", "expression", "file"} if name.endswith("sed") else {"e", "E"}):
            del files[:1]  # The script.
        for file in files if suffix else []:
            directory, base = os.path.split(file.text)
            backup = suffix[0].text.replace("*", base) if "*" in suffix[0].text else base + suffix[0].text
            self._add([file, replace(file, text=os.path.join(directory, backup))])

    def _write_git(self, command: str, arguments: list[_Word]) -> None:
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

    def _change_directory(self, name: str, operands: list[_Word]) -> None:
        before = self._cwd
        if name == "popd":
            self._cwd = self._pushed.pop() if self._pushed else None
        elif operands and operands[0].text == "-":
            self._cwd = self._previous
        else:
            self._enter(operands[:1] or [_Word("~", "~")])
        if name == "pushd":
            self._pushed.append(before)
        self._previous = before

    def _enter(self, directories: Iterable[_Word]) -> None:
        for directory in directories:
            self._cwd = self._joined(directory)

    def _add(self, words: Iterable[_Word]) -> None:
        for word in words:
            path = self._joined(word) if len(self.paths) < MAX_PATHS else None
            if path and (not path.startswith("/dev/") or path.startswith("/dev/shm/")):
                self.paths[path] = None

    def _joined(self, word: _Word) -> str | None:
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


def _parsed(
    arguments: list[_Word], spec: str, *, intermixed: bool = True
) -> tuple[dict[str, list[_Word]], list[_Word]]:
    """Return the values of each option, and the operands; with the first one, options end, unless *intermixed*."""
    options: dict[str, list[_Word]] = {}
    operands: list[_Word] = []
    rest = iter(arguments)
    for word in rest:
        text = word.text
        if text == "--":
            operands += rest
        elif text.startswith("--"):
            name, equals, _ = text[2:].partition("=")
            value = next(rest, _EMPTY) if not equals and _LONG_WITH_VALUE.fullmatch(name) else word.slice(len(name) + 3)
            options.setdefault(name, []).append(value)
        elif len(text) > 1 and text.startswith("-"):
            for position, letter in enumerate(text[1:], 2):
                takes = spec.partition(letter)[2][:2]
                value = word.slice(position) if takes.startswith(":") else _EMPTY
                if not value.text and takes.startswith(":") and takes != "::":
                    value = next(rest, _EMPTY)
                options.setdefault(letter, []).append(value)
                if takes.startswith(":"):
                    break
        else:
            operands += [word] if intermixed else [word, *rest]
    return options, operands


def _alternatives(word: _Word) -> list[_Word]:
    """Return the words that `{a,b}` in *word* stands for."""
    done: list[_Word] = []
    left = [word]
    while left:
        word = left.pop()
        groups = _ALTERNATIVES.finditer(word.live if len(word.live) <= MAX_PATH else "")
        group = next((each for each in groups if "," in each[1] or ".." in each[1]), None)
        if group is None:
            done.append(word)
            continue
        head, tail = word.slice(0, group.start()), word.slice(group.end())
        texts, start = [_Word("*", "*")], group.start(1)
        if len(done) + len(left) >= _MAX_ALTERNATIVES:
            tail = word.slice(word.live.rindex("}") + 1)
        elif "," in group[1]:
            texts = []
            for name in group[1].split(","):
                texts.append(word.slice(start, start + len(name)))
                start += len(name) + 1
        left += (
            replace(word, text=head.text + each.text + tail.text, live=head.live + each.live + tail.live)
            for each in reversed(texts)
        )
    return done


def _in_directory(directory: _Word, source: _Word) -> _Word:
    """Return the path of *source* once it was put into *directory* under its own name."""
    path = os.path.join(directory.text, os.path.basename(source.text.rstrip("/")))
    return _Word(path, f"{directory.live}/", directory.known and source.known)


def _begins_command(before: _Token) -> bool:
    """Return whether the word behind the token *before* may be the name of a command."""
    return not isinstance(before, _Redirection) and (
        isinstance(before, str) or _BEFORE_THE_NAME.match(before.live) is not None
    )


def _taken(document: _Redirection) -> str:
    """Return the body of a here-document, once: else each of a hundred programs behind a pipe would read it again."""
    body, document.body = document.body, ""
    return body
