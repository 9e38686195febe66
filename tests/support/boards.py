"""The board as a person has it: `mcp-claims board` in a process, and its page in Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT, mcp_claims

TIMEOUT = 60_000.0
"""Milliseconds within which anything happens, on a machine that is busy with other things, too."""


@dataclass(frozen=True)
class RunningBoard:
    """A process, and the address that it has printed, with its token."""

    process: subprocess.Popen[str]
    url: str

    @property
    def token(self) -> str:
        return urlsplit(self.url).fragment

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str | None) -> Answer:
        """Send a request with the token; *headers* of `None` are left out, `_` stands for `-` in their names."""
        return ask(self.url, path, method, body, **({"authorization": f"Bearer {self.token}"} | headers))


class Answer(NamedTuple):
    """The answer of a server; of a stream, the first thing that it says."""

    status: int
    headers: Message
    text: str

    @property
    def facts(self) -> dict[str, Any]:
        """What it says, which is JSON."""
        found: dict[str, Any] = json.loads(self.text)
        return found


def ask(url: str, path: str, method: str = "GET", body: object = None, **headers: str | None) -> Answer:
    """Send a request to the server at *url*; headers as for `RunningBoard.ask`."""
    with answering(url, path, method, body, **headers) as response:
        text = (
            response.read().decode() if response.headers.get_content_type() != "text/event-stream" else first(response)
        )
        return Answer(response.status, response.headers, text)


@contextmanager
def answering(
    url: str, path: str, method: str = "GET", body: object = None, **headers: str | None
) -> Iterator[HTTPResponse]:
    """Send a request as `ask` does; yields the answer, which may be a stream."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    given = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    with closing(HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT / 1_000)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), given)
        with connection.getresponse() as response:
            yield response


def first(stream: HTTPResponse) -> str:
    """Return what *stream* says first."""
    while line := stream.readline().decode():
        if line.startswith("data: "):
            return line.removeprefix("data: ")
    raise AssertionError("the stream has ended")


@contextmanager
def running_board(directory: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[RunningBoard]:
    """Start `mcp-claims board` on *directory*; it opens no browser unless *arguments* say so."""
    process = subprocess.Popen(
        [*mcp_claims(), "board", "--dir", str(directory), *(arguments or ["--no-open"])],
        stdout=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT | (env or {}),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        yield RunningBoard(process, found[0])
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, without a window."""
    path = installed("chromium")
    # As root it has no sandbox, and CI is root in a container.
    with (
        sync_playwright() as playwright,
        _closing(
            playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        ) as browser,
    ):
        yield browser


@contextmanager
def _closing(browser: Browser) -> Iterator[Browser]:
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def looking(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """Open *url* in a page of its own, as soon as it shows what is stored; nothing may go wrong in its script."""
    problems: list[str] = []
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        page.locator("#status.live").wait_for()
        yield page
    finally:
        context.close()
    assert not problems
