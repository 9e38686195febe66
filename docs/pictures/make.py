"""`python docs/pictures/make.py`: make the pictures of the README from a real run: the demo, and the board of six sessions.

Needs Chromium, and what `pip install -e '.[dev]'` installs.  Takes two minutes.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "mcp_claims"]
_COLUMNS, _LINE, _CHARACTER = 100, 18, 8.4
_FIRST, _LONGEST = 0.5, 2.5
"""Seconds before the first line, and the longest pause that is shown: a busy machine takes longer to start three servers."""


class Line(NamedTuple):
    """A line of a terminal, and the second in which it came."""

    at: float
    text: str


def record(command: list[str], home: Path) -> list[Line]:
    """Run *command* at a terminal, in a directory of *home*; return what it prints."""
    ours, theirs = pty.openpty()
    began, lines, rest = time.monotonic(), [], ""
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "TERM": "xterm-256color", "HOME": str(home)}
    here = home / "src" / "web"
    here.mkdir(parents=True)
    with subprocess.Popen(command, stdout=theirs, env=environment, cwd=here):
        os.close(theirs)
        with suppress(OSError):  # The other side of the terminal is closed.
            while data := os.read(ours, 65_536):
                *complete, rest = (rest + data.decode()).split("\r\n")
                lines += [Line(time.monotonic() - began, each) for each in complete]
    os.close(ours)
    return lines


def animation(lines: list[Line], title: str) -> str:
    """Return *lines* as a picture in which each appears when it came, and all at once for who wants no motion."""
    console = Console(width=_COLUMNS)
    shown, before = _FIRST, lines[0].at
    height = (len(lines) + 3) * _LINE
    rows = []
    for number, (at, text) in enumerate(lines):
        spans = "".join(
            f'<tspan x="{16 + left * _CHARACTER:g}" style="{_css(style)}">{escape(part)}</tspan>'
            for left, part, style in _parts(Text.from_ansi(text), console)
        )
        shown, before = shown + min(at - before, _LONGEST), at
        delay = f"animation-delay:{shown:.2f}s"
        rows.append(
            f'<text class="line" y="{(number + 3) * _LINE}" style="{delay}" xml:space="preserve">{spans}</text>'
        )
    width = round(_COLUMNS * _CHARACTER + 32)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">
<style>
text {{ font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #c9d1d9; }}
.line {{ opacity: 0; animation: appear 0s linear forwards; }}
@keyframes appear {{ to {{ opacity: 1; }} }}
@media (prefers-reduced-motion: reduce) {{ .line {{ opacity: 1; animation: none; }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>
<text x="16" y="24" style="fill:#8b949e">$ {escape(title)}</text>
{chr(10).join(rows)}
</svg>
"""


def _parts(text: Text, console: Console) -> Iterator[tuple[int, str, Style]]:
    left = 0
    for segment in text.render(console):
        if segment.text.strip():
            yield left, segment.text, segment.style or Style()
        left += len(segment.text)


def _css(style: Style) -> str:
    css = [f"fill:{style.color.get_truecolor(SVG_EXPORT_THEME).hex}"] if style.color else []
    return ";".join(
        [*css, *(["font-weight:700"] if style.bold else []), *(["font-style:italic"] if style.italic else [])]
    )


class Agent:
    """An agent: a server as its host starts it, and a client that speaks to it."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.process, self._name, self._last = process, name, 0
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": name, "version": "1.0"}}
        self._send("initialize", hello)
        self._read()

    def call(self, tool: str, **arguments: object) -> None:
        """Call *tool* and wait for the answer."""
        self.begin(tool, **arguments)
        self._read()

    def begin(self, tool: str, **arguments: object) -> None:
        """Call *tool*, whose answer comes later."""
        self._send("tools/call", {"name": tool, "arguments": arguments})

    def _send(self, method: str, params: Mapping[str, object]) -> None:
        assert self.process.stdin is not None
        self._last += 1
        message = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.readline()


@contextmanager
def agents(environment: dict[str, str], directory: Path) -> Iterator[dict[str, Agent]]:
    """Start the agents; they are killed in the end."""
    known = {
        "ada": ("claude-code", "web"),
        "ben": ("codex", "web"),
        "cleo": ("gemini-cli", "web"),
        "dan": ("opencode", "api"),
        "eve": ("qwen-code", "docs"),
    }
    with ExitStack() as stack:
        started = {}
        for name, (client, place) in known.items():
            there = directory / "src" / place
            there.mkdir(parents=True, exist_ok=True)
            process = stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, "serve", "--label", name],
                    cwd=there,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            started[name] = Agent(process, client)
        yield started


def play(team: dict[str, Agent], command: list[str], environment: dict[str, str]) -> None:
    """Let the agents work for a minute and a half."""
    ada, ben, cleo, dan, eve = team.values()
    red = "acme/web#4521:checks_failed@3f2a91c"
    ada.call("try_claim", key=red, note="the login test fails since 3f2a91c; looking at the clock in it")
    ben.call("try_claim", key=red)
    cleo.call("try_claim", key=red)
    ben.call("try_claim", key="acme/web#4519:review_comment@88", note="answering the question on caching")
    time.sleep(6)
    dan.call("try_claim", key="nightly:2026-11-30", namespace="ci", note="building 1.4.2")
    eve.call("try_claim", key="docs:glossary", namespace="docs", shared=True)
    time.sleep(8)
    cleo.call("try_claim", key="nightly:2026-11-30", namespace="ci")
    cleo.call("try_claim", key="docs:glossary", namespace="docs", shared=True)
    time.sleep(8)
    ada.process.kill()
    ada.process.wait()
    ben.call("try_claim", key=red, note="taking over; the fix is on a branch")
    time.sleep(10)
    dan.call("release", key="nightly:2026-11-30", namespace="ci", outcome="done", note="1.4.2 is built")
    for each in (cleo, dan, eve):
        each.call("try_claim", key="simulator", namespace="ci", slots=3, note="end-to-end tests")
    time.sleep(12)
    cleo.call("release", key="simulator", namespace="ci")
    cleo.call("try_claim", key="acme/api#77:flaky", note="runs it a hundred times")
    time.sleep(10)
    cleo.call("release", key="acme/api#77:flaky", outcome="failed", note="cannot be reproduced")
    ben.call("release", key=red, outcome="done", note="fixed in #4530")
    cleo.call("try_claim", key=red)
    cleo.call("try_claim", key="simulator", namespace="ci", slots=3)
    time.sleep(8)
    hold = [*command, "hold", "deploy:prod", "-n", "ops", "--for", "2h", "--note", "by hand, release train"]
    subprocess.run(hold, env=environment, check=True, stdout=subprocess.DEVNULL)
    dan.begin("try_claim", key="deploy:prod", namespace="ops", wait_seconds=40)
    eve.begin("try_claim", key="deploy:prod", namespace="ops", wait_seconds=40)
    time.sleep(6)


def photograph(environment: dict[str, str]) -> None:
    """Look at the board in Chromium, on a wide and on a narrow screen, light and dark."""
    command = [*COMMAND, "board", "--no-open"]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process,
        sync_playwright() as it,
    ):
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        browser = it.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width, height in ((1280, 860), (390, 844)):
                size = {"width": width, "height": height}
                page = browser.new_page(viewport=size, color_scheme=scheme, locale="en-GB")  # type: ignore[arg-type]
                page.goto(found[0])
                page.locator("#rows .row").first.wait_for()
                page.screenshot(path=HERE / f"board-{width}-{scheme}.png")
                page.close()
        browser.close()
        process.terminate()


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as home:
        lines = record([*COMMAND, "demo"], Path(home).resolve())
        (HERE / "demo.svg").write_text(animation(lines, "mcp-claims demo"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as home:
        variables = {"HOME": home, "XDG_STATE_HOME": "", "MCP_CLAIMS_DIR": ""}
        environment = {name: value for name, value in (os.environ | variables).items() if value}
        with agents(environment, Path(home)) as team:
            play(team, COMMAND, environment)
            photograph(environment)


if __name__ == "__main__":
    main()
