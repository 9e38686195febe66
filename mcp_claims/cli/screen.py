"""The list on a terminal, drawn again as it changes: as many lines as fit, keys to scroll, `q` to end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Event
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mcp_claims.cli.claim_table import ClaimTable, headline
from mcp_claims.model.records import Claim
from mcp_claims.render import phrases
from mcp_claims.session.results import ClaimPage
from mcp_claims.stores.threads import start_daemon_thread

if sys.platform != "win32":
    import termios
    import tty

_HEADER, _TITLE, _FOOTER = 1, 1, 1  # lines
_STDIN = 0
_LINE, _SCREEN, _END = "line", "screen", "end"
_KEYS: dict[bytes, tuple[str, int]] = {
    **dict.fromkeys((b"j", b"\x1b[B", b"\x1bOB"), (_LINE, 1)),
    **dict.fromkeys((b"k", b"\x1b[A", b"\x1bOA"), (_LINE, -1)),
    **dict.fromkeys((b" ", b"f", b"\x1b[6~"), (_SCREEN, 1)),
    **dict.fromkeys((b"b", b"\x1b[5~"), (_SCREEN, -1)),
    **dict.fromkeys((b"g", b"\x1b[H", b"\x1b[1~"), (_END, -1)),
    **dict.fromkeys((b"G", b"\x1b[F", b"\x1b[4~"), (_END, 1)),
}


class Screen:
    """Shows pages of claims on the terminal; *make_table* returns the table for a width."""

    def __init__(self, make_table: Callable[[int], ClaimTable]) -> None:
        self._make_table = make_table
        self._page: ClaimPage | None = None
        self._top = 0  # the number of the first claim that is shown
        self._has_keys = False
        self._console = Console()

    def show(self, pages: Iterable[ClaimPage], ended: Event, wake: Callable[[], None]) -> None:
        """Show each of *pages* in its turn; set *ended* and call *wake* when the person wants to end."""
        with (
            _keys() as keys,
            Live(
                get_renderable=self._render, console=self._console, auto_refresh=False, vertical_overflow="crop"
            ) as live,
        ):
            self._has_keys = keys is not None
            if keys is not None:
                start_daemon_thread(lambda: self._follow(keys, live, ended, wake), "mcp-claims keys")
            for page in pages:
                self._page = page
                live.refresh()

    def _follow(self, keys: Iterator[bytes], live: Live, ended: Event, wake: Callable[[], None]) -> None:
        for key in keys:
            if key in (b"q", b"Q"):
                ended.set()
                wake()
                return
            if key in _KEYS:
                unit, direction = _KEYS[key]
                lines = {_LINE: 1, _SCREEN: self._lines(), _END: self._count()}[unit]
                self._top = self._within(self._top + direction * lines)
                live.refresh()

    def _count(self) -> int:
        return 0 if self._page is None else len(self._page.claims)

    def _lines(self) -> int:
        """Return how many claims fit, with the last line of the terminal free for the cursor."""
        free = self._console.size.height - _TITLE - _HEADER - 1
        return max(1, free if self._count() <= free else free - _FOOTER)

    def _within(self, top: int) -> int:
        return max(0, min(top, self._count() - self._lines()))

    def _render(self) -> RenderableType:
        page = self._page
        if page is None:
            return Text("")
        # The terminal may have become larger, and the list shorter.
        top = self._top = self._within(self._top)
        shown = page.claims[top : top + self._lines()]
        width = self._console.size.width
        keys = "; q ends" if self._has_keys else "; Ctrl-C ends"
        now = f"{page.now.wall.astimezone():%H:%M:%S}"
        namespaces = {each.found.scoped.namespace for each in page.claims if isinstance(each.found, Claim)}
        only = f" in {phrases.shown(namespaces.pop())}" if len(namespaces) == 1 else ""
        title = Text(f"{headline(page.claims, more=page.after is not None)}{only}; {now}{keys}", style="bold")
        title.truncate(width, overflow="ellipsis")
        if not page.claims:
            return Group(title, Text("Nothing is claimed."))
        parts: list[RenderableType] = [title, self._make_table(width).draw(shown, page.now)]
        below = len(page.claims) - top - len(shown)
        if top or below:
            counts = [f"{number} more {where}" for number, where in ((top, "above"), (below, "below")) if number]
            keys = " (j, k, space and b scroll)" if self._has_keys else ""
            footer = Text(f"{', '.join(counts)}{keys}", style="dim")
            footer.truncate(width, overflow="ellipsis")
            parts.append(footer)
        return Group(*parts)


if sys.platform == "win32":

    def _keys() -> AbstractContextManager[Iterator[bytes] | None]:
        return nullcontext()

else:

    @contextmanager
    def _keys() -> Iterator[Iterator[bytes] | None]:
        """Yield the keys that are pressed, `None` where none can be read: no terminal, or in the background of one."""
        if not os.isatty(_STDIN) or os.tcgetpgrp(_STDIN) != os.getpgrp():
            yield None
            return
        before = termios.tcgetattr(_STDIN)

        def begin(number: int = 0, frame: FrameType | None = None) -> None:
            tty.setcbreak(_STDIN, termios.TCSADRAIN)

        def end(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)  # The terminal must not be left without an echo.

        former = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
        former[signal.SIGCONT] = signal.signal(signal.SIGCONT, begin)  # The shell has set the terminal for itself.
        try:
            begin()
            yield _read_keys(_STDIN)
        finally:
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)
            for number, handler in former.items():
                signal.signal(number, handler)


def _read_keys(fd: int) -> Iterator[bytes]:
    with suppress(OSError):  # The terminal is gone.
        while data := os.read(fd, 64):
            while data:
                # The terminal sends the bytes of one key at once.
                key = next((key for key in _KEYS if len(key) > 1 and data.startswith(key)), data[:1])
                yield key
                data = data[len(key) :]
