"""The page in Chromium: it shows what is stored, follows it, and can be used by everybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mcp_claims import FileStore, open_session
from mcp_claims.errors import NotClaimedError
from mcp_claims.session.session import Session
from mcp_claims.stores.threads import start_daemon_thread
from tests.cli.commands import Commands
from tests.support.boards import RunningBoard, looking, running_board

AXE = os.environ.get("MCP_CLAIMS_AXE")


def row(page: Page, key: str) -> Locator:
    return page.locator("#rows .row", has_text=key)


def wait_for_key(store: FileStore, key: str) -> None:
    """Let another session wait for *key*, until that is released."""
    waiting = open_session(store)
    waiting.describe(label="the one behind")

    def wait() -> None:
        try:
            with waiting.claim(key, wait=120):
                pass
        except NotClaimedError:
            return

    start_daemon_thread(wait, "waiter of a test")


@pytest.mark.rule("B1")
def test_who_holds_what_and_who_waits_is_shown_and_what_others_do_appears_by_itself(
    board: RunningBoard, browser: Browser, session: Session, store: FileStore, claims_dir: Path
) -> None:
    session.try_claim("red-check", note="looking at the login test")
    commands = Commands(claims_dir)
    with looking(browser, board.url) as page:
        expect(row(page, "red-check")).to_contain_text("held")
        expect(row(page, "red-check")).to_contain_text("web fixer")
        expect(row(page, "red-check")).to_contain_text("looking at the login test")
        assert commands("try", "nightly", "--session", "cron", "--note", "by another process").returncode == 0
        expect(row(page, "nightly")).to_contain_text("by another process")
        expect(page.locator("#held")).to_have_text("2")
        wait_for_key(store, "red-check")
        expect(page.locator("#waiting")).to_have_text("1")
        row(page, "red-check").click()
        expect(page.locator("#details")).to_contain_text("the one behind")
        page.keyboard.press("Escape")
        assert commands("release", "nightly", "--session", "cron", "--outcome", "done").returncode == 0
        expect(row(page, "nightly")).to_contain_text("done")
        expect(page.locator("#done")).to_have_text("1")
        session.release("red-check")
        expect(page.locator("#waiting")).to_have_text("0")


@pytest.mark.rule("B2")
def test_the_time_line_has_holds_takeovers_and_refusals_and_duplicates_prevented_are_counted(
    board: RunningBoard, browser: Browser, session: Session, claims_dir: Path
) -> None:
    commands = Commands(claims_dir)
    dies = "import os; from mcp_claims import open_session; open_session().try_claim('red-check'); os._exit(9)"
    subprocess.run([sys.executable, "-c", dies], env=commands.environment, check=False)
    assert session.try_claim("red-check").claimed
    for _ in range(2):
        assert commands("try", "red-check", "--session", "other").returncode == 1
    with looking(browser, board.url) as page:
        lane = page.locator("button.lane", has_text="red-check")
        expect(lane).to_have_attribute("aria-label", "red-check: 2 holds, 1 takeovers, 2 refusals")
        assert lane.locator(".takeover").count() == 1
        colours = lane.locator(".hold").evaluate_all("holds => holds.map(hold => hold.style.background)")
        assert len(set(colours)) == 2, "each session has its own"
        expect(page.locator("#prevented")).to_have_text("1")
        lane.click()
        expect(page.locator("#details")).to_contain_text("orphaned")


@pytest.mark.rule("B2")
def test_the_time_line_is_drawn_although_something_changes_all_the_time(
    board: RunningBoard, browser: Browser, session: Session
) -> None:
    with looking(browser, board.url) as page:
        page.evaluate("void setInterval(arrange, 10)")
        session.try_claim("red-check")
        expect(page.locator("button.lane", has_text="red-check")).to_be_visible()


@pytest.mark.rule("B5")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(
    AXE is None and "CI" not in os.environ, reason="install axe-core as .ci/run does, and set MCP_CLAIMS_AXE"
)
def test_axe_finds_no_serious_fault(
    board: RunningBoard, browser: Browser, session: Session, store: FileStore, scheme: str
) -> None:
    assert AXE, "CI has to install axe-core"
    for number in range(60):
        session.try_claim(f"key {number}", f"namespace {number % 3}", note="at work")
    session.release("key 1", "namespace 1", outcome="failed")
    session.release("key 2", "namespace 2", outcome="done")
    session.try_claim("read", shared=True)
    session.try_claim("waited for")
    wait_for_key(store, "waited for")
    axe = (Path(AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    for size in ({"width": 1280, "height": 800}, {"width": 390, "height": 844}):
        with looking(browser, board.url, color_scheme=scheme, viewport=size) as page:
            expect(page.locator("#waiting")).to_have_text("1")
            page.evaluate(axe)
            assert serious(page) == []
            row(page, "waited for").click()
            assert serious(page) == []
            page.locator("#release").click()
            assert serious(page) == []


def serious(page: Page) -> list[tuple[str, str]]:
    """Return the rule and the element of each serious or critical fault that axe finds."""
    found = page.evaluate("axe.run().then((result) => result.violations)")
    return [
        (fault["id"], node["html"])
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.rule("B5")
def test_everything_can_be_done_by_keys(board: RunningBoard, browser: Browser, session: Session) -> None:
    for number in range(300):
        session.try_claim(f"key {number:03}")
    with looking(browser, board.url) as page:
        expect(page.locator("#count")).to_have_text("300")
        page.keyboard.press("/")
        page.keyboard.type("key 29")
        expect(page.locator("#count")).to_have_text("10 of 300")
        page.keyboard.press("Escape")
        expect(page.locator("#count")).to_have_text("300")
        page.locator("#rows .row").first.focus()
        first = focused(page)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert focused(page) != first
        page.keyboard.press("End")
        expect(page.locator("#rows .row:focus")).to_have_attribute("aria-rowindex", "301")
        page.keyboard.press("Home")
        assert focused(page) == first
        page.keyboard.press("PageDown")
        key = focused(page)
        page.keyboard.press("Enter")
        expect(page.locator("#details-title")).to_have_text(key)
        page.keyboard.press("Escape")
        expect(page.locator("#details")).to_be_hidden()
        assert focused(page) == key, "the focus is where it was"
        session.release("key 150")
        expect(page.locator("#count")).to_have_text("299")
        session.try_claim(key, note="goes on")
        expect(row(page, key)).to_contain_text("goes on")
        assert focused(page) == key, "a change takes the focus from nobody, not even one of that row"


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.closest('#rows .row')?.children[1].title"))


def test_the_list_is_filtered_by_text_namespace_session_and_state(
    board: RunningBoard, browser: Browser, session: Session, store: FileStore
) -> None:
    other = open_session(store)
    other.describe(label="the other")
    session.try_claim("red")
    session.try_claim("blue", "docs")
    other.try_claim("green", "docs")
    other.try_claim("nightly", "docs")
    other.release("nightly", "docs", outcome="done")
    with looking(browser, board.url) as page:
        shown = page.locator("#rows .row")
        expect(shown).to_have_count(4)
        page.locator("#namespace").select_option("docs")
        expect(shown).to_have_count(3)
        page.locator("#session").select_option(label="the other")
        expect(shown).to_have_count(2)
        page.get_by_text("Held", exact=True).click()
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("green")
        page.get_by_text("Done", exact=True).click()
        expect(shown).to_contain_text("nightly")
        page.locator("#text").fill("nothing like it")
        expect(page.locator("#rows")).to_contain_text("Nothing matches")


@pytest.mark.rule("B6")
def test_a_release_by_force_asks_first_and_the_holder_learns_of_it(
    board: RunningBoard, browser: Browser, session: Session
) -> None:
    session.try_claim("red-check")
    with looking(browser, board.url) as page:
        row(page, "red-check").click()
        page.locator("#release").click()
        expect(page.locator("#confirm")).to_contain_text("may still be acting on red-check")
        assert page.evaluate("document.activeElement.id") == "cancel"
        page.keyboard.press("Enter")
        expect(page.locator("#confirm")).to_be_hidden()
        assert session.inspect("red-check").held_by_you
        page.locator("#release").click()
        page.locator("#reason").fill("it hangs")
        page.locator("#sure").click()
        expect(page.locator("#details")).to_be_hidden()
        expect(row(page, "red-check")).to_contain_text("revoked")
    found = session.inspect("red-check")
    assert not found.held_by_you and found.lost is not None
    assert found.marker is not None and str(found.marker.note).endswith("it hangs")


@pytest.mark.rule("B7")
def test_of_thousands_of_claims_only_those_on_the_screen_are_drawn(
    board: RunningBoard, browser: Browser, session: Session
) -> None:
    for number in range(3_000):
        session.try_claim(f"key {number:04}")
    with looking(browser, board.url) as page:
        expect(page.locator("#count")).to_have_text("3,000")
        assert page.locator("#rows .row").count() < 100
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(page.locator("#rows .row[aria-rowindex='3001']")).to_be_visible()
        assert page.locator("#rows .row").count() < 100
        session.release("key 2999")
        expect(page.locator("#count")).to_have_text("2,999")


@pytest.mark.rule("B4")
def test_without_the_token_in_its_address_the_page_asks_for_it(
    board: RunningBoard, browser: Browser, session: Session
) -> None:
    session.try_claim("red-check")
    page = browser.new_page()
    try:
        page.goto(f"http://{board.host}/")
        for token in ("a wrong one", board.token):
            expect(page.locator("#ask")).to_be_visible()
            assert row(page, "red-check").count() == 0
            page.locator("#token").fill(token)
            page.keyboard.press("Enter")
        expect(row(page, "red-check")).to_be_visible()
    finally:
        page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(board: RunningBoard, browser: Browser, session: Session, width: int) -> None:
    session.describe(label="l" * 60, directory="/" + "d" * 150)
    session.try_claim("k" * 300, "n" * 60, note="n" * 400)
    with looking(browser, board.url, viewport={"width": width, "height": 800}) as page:
        expect(page.locator("#rows .row")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#rows .row").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_ends_is_noticed_and_what_was_shown_stays(
    browser: Browser, session: Session, claims_dir: Path
) -> None:
    session.try_claim("red-check")
    page = browser.new_page()
    try:
        with running_board(claims_dir) as first:
            page.goto(first.url)
            expect(row(page, "red-check")).to_be_visible()
        expect(page.locator("#status")).to_have_class("bad")
        expect(row(page, "red-check")).to_be_visible()
        with running_board(claims_dir, "--no-open", "--port", first.host.rpartition(":")[2]):
            # It has another token: whoever listens on this port now need not be the one of before.
            expect(page.locator("#ask")).to_be_visible()
    finally:
        page.close()
