"""Cuts a shell script into words, redirections and operators, as bash does.  Pure, and linear in the length of the script."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

MAX_DEPTH = 8  # Of substitutions in each other, of scripts in each other, and of programs that start programs.

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
BEFORE_THE_NAME = re.compile(r"(?:if|then|elif|else|while|until|do|!|\{)\Z|[A-Za-z_]\w*+(?:\[[^]]*+\])?\+?=", re.ASCII)
"""What may stand before the name of a command: a word of the shell, or an assignment."""

HERE_DOCUMENT, PIPE = frozenset({"<<", "<<-"}), frozenset({"|", "|&"})


class Word(NamedTuple):
    """A word; *live* is *text* with a NUL for each character that was quoted, *inner* what `$(` and `<(` in it run."""

    text: str
    live: str
    known: bool = True
    inner: tuple[list[Token], ...] = ()

    def slice(self, start: int, stop: int | None = None) -> Word:
        """Return a part of the word, as long as it is known."""
        return self._replace(text=self.text[start:stop], live=self.live[start:stop])


class Redirection:
    """A redirection; *body* is that of a here-document, empty once it was read as a script or a patch."""

    def __init__(self, operator: str, target: Word) -> None:
        self.operator, self.target, self.body = operator, target, ""


Token: TypeAlias = Word | Redirection | str
EMPTY = Word("", "")


class _Parts:
    """A word that is being read."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.live: list[str] = []
        self.inner: list[list[Token]] = []
        self.known = True

    def add(self, text: str, *, quoted: bool) -> None:
        self.text.append(text)
        self.live.append("\0" * len(text) if quoted else text)

    def add_unknown(self, inner: Iterable[list[Token]] = ()) -> None:
        self.add(_UNKNOWN, quoted=True)
        self.inner += inner
        self.known = False


class Lexer:
    """Cuts a script into tokens; what nobody closes ends the script."""

    def __init__(self, text: str, depth: int = 0) -> None:
        self._text, self._at, self._end, self._depth = text, 0, len(text), depth
        self._expected: list[Redirection] = []  # Here-documents whose bodies begin with the next line.

    def tokens(self, *, nested: bool = False) -> list[Token]:
        """Return the tokens up to the end or, if *nested*, up to the `)` that closes a substitution."""
        found: list[Token] = []
        if self._depth >= MAX_DEPTH:
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
        """Skip to after what closes the next parenthesis: in it `<<` shifts, and begins no here-document."""
        opened = 0
        for found in re.compile("[()]").finditer(self._text, self._at):
            opened += 1 if found[0] == "(" else -1
            if not opened:
                self._at = found.end()
                return
        self._at = self._end

    def _redirection(self, operator: str) -> Redirection:
        while self._next_is(" ", "\t", "\\\n"):
            self._at += 2 if self._next_is("\\") else 1
        redirection = Redirection(operator, self._word())
        if operator in HERE_DOCUMENT:
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

    def _word(self) -> Word:
        parts = _Parts()
        self._read_word(parts)
        return Word("".join(parts.text), "".join(parts.live), parts.known, tuple(parts.inner))

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
            parts.add_unknown([Lexer(script, self._depth).tokens()])
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
            self._at = self._at + 1 if self._depth < MAX_DEPTH else self._end
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


def _begins_command(before: Token) -> bool:
    """Return whether the word after the token *before* may be the name of a command."""
    return not isinstance(before, Redirection) and (
        isinstance(before, str) or BEFORE_THE_NAME.match(before.live) is not None
    )
