"""The board in Chromium: how soon 10,000 claims are drawn, a change is seen, and a scrolled list follows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from playwright.sync_api import Page, sync_playwright

from benchmarks.measure import Bar, Effort, Figure, p99
from benchmarks.servers import ENVIRONMENT
from mcp_claims import FileStore, open_session

_CLAIMS, _FEW = 10_000, 10
_DRAWN, _SEEN = Bar(1_000, of="value"), Bar(300, of="value")
_FRAME = Bar(1_000 / 60, of="value")
_SETTLED = 2.5
"""Seconds after which no claim is read again just because it has been written a moment ago."""

# Another process, which claims and releases what it reads, a line each, and prints when it had done that.
_OTHER = """
import sys, time
from mcp_claims import FileStore, open_session
session = open_session(FileStore(sys.argv[1]))
for line in sys.stdin:
    session.release(line.strip()) if session.inspect(line.strip()).held_by_you else session.try_claim(line.strip())
    print(time.time(), flush=True)
"""
_APPEARS = """(count) => new Promise((seen) => {
    const look = () => document.getElementById("held").textContent === count
        ? requestAnimationFrame(() => seen(Date.now())) : requestAnimationFrame(look);
    look();
})"""
_NOTHING_IS = "a page of this height with nothing on it"
_IS_HIGH = "document.body.append(Object.assign(document.createElement('div'), { style: 'height: 380000px' }))"
_SCROLLS = """() => new Promise((done) => {
    const times = [];
    let before = performance.now();
    const step = (now) => {
        times.push(now - before);
        before = now;
        scrollBy({ top: 400, behavior: "instant" });
        times.length < 300 ? requestAnimationFrame(step) : done(times.slice(1));
    };
    requestAnimationFrame(step);
})"""


def measure(effort: Effort) -> Iterator[Figure]:
    """Open the board of many claims, change one of them, scroll; then change one of few."""
    number = effort.of(_CLAIMS)
    with _board(number) as (url, directory), _page() as page:
        drawn = [_drawn(page, url, number) for _ in range(effort.of(10))]
        yield Figure("board", f"{number:,} claims drawn, from the click", "ms", median(drawn), bar=_DRAWN)
        seen = _seen(page, directory, number, effort.of(30))
        yield Figure("board", f"a change by another process seen, {number:,} claims", "ms", median(seen), bar=_SEEN)
        yield Figure("board", f"the slowest such of {len(seen)}", "ms", max(seen))
        frames, cpu = _scrolled(page)
        yield Figure("board", "CPU of the page for a frame while the list scrolls", "ms", cpu, bar=_FRAME)
        page.goto("about:blank")
        page.evaluate(_IS_HIGH)
        nothing, _ = _scrolled(page)
        for what, of in (("99th percentile", p99), ("the longest", max)):
            yield Figure("board", f"a frame while the list scrolls, {what}", "ms", of(frames), of(nothing), _NOTHING_IS)
    with _board(_FEW) as (url, directory), _page() as page:
        _drawn(page, url, _FEW)
        seen = _seen(page, directory, _FEW, effort.of(30))
        yield Figure("board", f"a change by another process seen, {_FEW} claims", "ms", median(seen), bar=_SEEN)


@contextmanager
def _board(number: int) -> Iterator[tuple[str, str]]:
    """Serve the board of so many claims; yields its address and their directory."""
    with tempfile.TemporaryDirectory() as directory:
        session = open_session(FileStore(directory))
        for each in range(number):
            session.try_claim(f"acme/web#{each}:checks_failed@3f2a91c", f"repository {each % 7}", note="at work on it")
        time.sleep(_SETTLED)
        command = [sys.executable, "-m", "mcp_claims", "board", "--no-open", "--dir", directory]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"http://\S+", process.stdout.readline())
                assert found
                time.sleep(_SETTLED)  # The first reading, which a person does not wait for longer than for the browser.
                yield found[0], directory
            finally:
                process.terminate()


@contextmanager
def _page() -> Iterator[Page]:
    """Start Chromium; yields a page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": 1280, "height": 800})
        finally:
            browser.close()


def _drawn(page: Page, url: str, number: int) -> float:
    """Return the milliseconds from the request for the page until all claims are there and those on the screen are drawn."""
    page.goto("about:blank")
    began = time.time()
    page.goto(url, wait_until="commit")
    seen: float = page.evaluate(_APPEARS, f"{number:,}")
    return seen - 1_000 * began


def _scrolled(page: Page) -> tuple[list[float], float]:
    """Scroll, as fast as it is drawn; return the milliseconds of each frame, and those of CPU that the page takes for one.

    On a busy machine the former say more about the others that run.
    """
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cpu() -> float:
        metrics = client.send("Performance.getMetrics")["metrics"]
        return 1_000 * float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))

    began = cpu()
    frames: list[float] = page.evaluate(_SCROLLS)
    return frames, (cpu() - began) / len(frames)


def _seen(page: Page, directory: str, number: int, rounds: int) -> list[float]:
    """Return the milliseconds from each change by another process until it is drawn."""
    took: list[float] = []
    command = [sys.executable, "-c", _OTHER, directory]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        for each in range(rounds):
            count = number + 1 - each % 2
            page.evaluate(f"void (window.seen = ({_APPEARS})({f'{count:,}'!r}))")
            other.stdin.write("another\n")
            other.stdin.flush()
            changed = float(other.stdout.readline())
            took.append(page.evaluate("window.seen") - 1_000 * changed)
            time.sleep(0.7)
        other.stdin.close()
    return took
