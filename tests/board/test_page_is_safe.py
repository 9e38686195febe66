"""The page in Chromium: what others have written is text, and no request leaves this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

import mcp_claims
from mcp_claims import FileStore, open_session
from mcp_claims.session.session import Session
from tests.support.boards import RunningBoard, looking

PAGE = Path(mcp_claims.__file__).with_name("board") / "page.html"
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\"'><svg/onload=alert(3)>",
    "javascript:alert(4)//${alert(5)}{{alert(6)}}",
)
NAMESPACES = ("__proto__", "constructor", "<b>bold</b>", "&lt;i&gt;")


@pytest.mark.rule("B3")
def test_hostile_keys_notes_labels_clients_and_paths_are_text(
    board: RunningBoard, browser: Browser, store: FileStore, claims_dir: Path
) -> None:
    sessions = []
    for text, namespace in zip(HOSTILE, NAMESPACES, strict=True):
        hostile = open_session(store)
        sessions.append(hostile)
        hostile.describe_client(text)
        hostile.describe(label=text[:60], directory=f"~/{text}")
        hostile.try_claim(text, namespace, note=text)
        hostile.release(text, namespace, outcome="failed", note=text)
        hostile.try_claim(text, namespace, note=text)
    broken = claims_dir / next(claims_dir.iterdir()).name / "%3cimg%20src%3dx.json"
    broken.write_text('{"<img src=x onerror=alert(7)>')
    dialogs: list[Dialog] = []

    def refuse(dialog: Dialog) -> None:
        dialogs.append(dialog)
        dialog.dismiss()

    with looking(browser, board.url) as page:
        page.on("dialog", refuse)
        page.evaluate("document.addEventListener('securitypolicyviolation', () => { window.violated = true; })")
        expect(page.locator("#rows .row")).to_have_count(len(HOSTILE) + 1)
        for text, namespace in zip(HOSTILE, NAMESPACES, strict=True):
            page.locator("#text").fill(text)
            page.locator("#rows .row").first.click()
            expect(page.locator("#details-title")).to_have_text(text)
            expect(page.locator("#about")).to_contain_text(f"~/{text}")
            expect(page.locator("#about")).to_contain_text(namespace)
            page.locator("#release").click()
            expect(page.locator("#question")).to_contain_text(text)
            page.keyboard.press("Escape")
            page.keyboard.press("Escape")
        page.locator("#text").fill("")
        for lane in range(page.locator("button.lane").count()):
            page.locator("button.lane").nth(lane).click()
            page.keyboard.press("Escape")
        assert page.locator("img, svg, iframe, object, embed, a, b b, i").count() == 0
        assert page.locator("script").count() == 1, "its own"
        handlers = "[...document.querySelectorAll('*')].some((e) => [...e.attributes].some((a) => /^on/.test(a.name)))"
        assert not page.evaluate(handlers)
        assert not page.evaluate("window.violated")
    assert not dialogs


@pytest.mark.rule("B3")
def test_the_browser_makes_no_markup_of_text_even_if_the_script_tried(board: RunningBoard, browser: Browser) -> None:
    tries = (
        "() => { try { document.body.innerHTML = '<p>x</p>'; return 'made'; } catch (error) { return error.name; } }"
    )
    page = browser.new_page()
    try:
        page.goto(board.url)
        assert page.evaluate(tries) == "TypeError"
    finally:
        page.close()


@pytest.mark.rule("B4")
def test_no_request_goes_anywhere_but_to_the_server_of_the_page(
    board: RunningBoard, browser: Browser, session: Session
) -> None:
    session.try_claim("red-check", note="https://example.org/x.png")
    asked: list[str] = []
    context = browser.new_context()
    try:
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.goto(board.url)
        page.locator("#rows .row").click()
        expect(page.locator("#details")).to_contain_text("example.org")
    finally:
        context.close()
    # The fragment, with the token, is part of the first one, but not of what the browser sends.
    asked = [url.partition("#")[0] for url in asked]
    assert set(asked) == {f"http://{board.host}/", f"http://{board.host}/board/stream"} | {
        url for url in asked if url.startswith("data:")
    }


@pytest.mark.rule("B8")
def test_inside_of_a_host_it_reads_by_the_host_and_releases_nothing(browser: Browser) -> None:
    held = {"ns": "default", "key": "red", "state": "held", "session": "vm:1:a", "since": 1_789_999_000_000}
    facts = {"where": "", "history": False, "releases": False, "now": 1_790_000_000_000, "problem": None, "waits": []}
    text = json.dumps(facts | {"rows": [["default\0red", held]]})
    page = browser.new_page()
    try:
        page.evaluate(HOST, [text, PAGE.read_text()])
        frame = page.frame_locator("iframe")
        expect(frame.locator("#rows .row")).to_contain_text("red")
        frame.locator("#rows .row").click()
        expect(frame.locator("#details")).to_be_visible()
        expect(frame.locator("#release")).to_be_hidden()
        assert scheme_of(page) == "dark"
        asked = page.evaluate("window.asked")
        assert asked[:2] == ["ui/initialize", "ui/notifications/initialized"]
        assert set(asked[2:]) == {"resources/read", "ui/notifications/size-changed"}
    finally:
        page.close()


HOST = """([text, html]) => {
    window.asked = [];
    const frame = document.createElement("iframe");
    Object.assign(frame, { sandbox: "allow-scripts", width: 800, height: 600, srcdoc: html });
    const answers = {
        "ui/initialize": { protocolVersion: "2026-01-26", hostInfo: {}, hostCapabilities: {}, hostContext: { theme: "dark" } },
        "resources/read": { contents: [{ uri: "ui://claims/board.json", text }] },
    };
    addEventListener("message", ({ data }) => {
        window.asked.push(data.method);
        if (data.id !== undefined) {
            frame.contentWindow.postMessage({ jsonrpc: "2.0", id: data.id, result: answers[data.method] }, "*");
        }
    });
    document.body.append(frame);
}"""


def scheme_of(page: Page) -> str:
    (frame,) = page.main_frame.child_frames
    return str(frame.evaluate("document.documentElement.style.colorScheme"))


def test_the_page_is_one_file_that_names_no_address_and_makes_no_markup() -> None:
    text = PAGE.read_text()
    assert re.findall(r"https?://[^\s'\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon\w+=", text)
