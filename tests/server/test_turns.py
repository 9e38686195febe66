"""What becomes of a call that waits, over real servers: a turn is a reservation, and a call that nobody reads costs a minute."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Mode, Ticket
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.server.test_quick_handover import hand_over
from tests.support.http_servers import RawHttp, http_server, structured_in
from tests.support.servers import BOTH_STAGES, RawServer, raw_server

WITHIN = 120.0
SHORT = 2.0
SHORT_TURNS = {"model.expiry.RESERVATION": timedelta(seconds=SHORT)}
SILENT = {"server.tools.LONGEST_SILENT_WAIT": 0.5}
WAIT = {"key": "red", "wait_seconds": 300}


@pytest.fixture
def holder(claims_dir: Path) -> Iterator[Session]:
    with process_session(FileStore(claims_dir)) as session:
        assert session.try_claim("red").claimed
        yield session


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this process reserve for no longer than the servers that are started with `SHORT_TURNS`."""
    monkeypatch.setattr(expiry, "RESERVATION", timedelta(seconds=SHORT))


def tickets(claims_dir: Path) -> tuple[Ticket, ...]:
    return FileStore(claims_dir).tickets("default")


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_until_queued(claims_dir: Path, calls: int = 1) -> None:
    """Return once so many *calls* wait, each of which has its alarm open."""

    def open_alarms() -> int:
        count = 0
        for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
            with suppress(OSError):
                count += os.readlink(descriptor).startswith(f"{claims_dir}/default/.alarm-")
        return count

    if sys.platform == "linux":
        until(lambda: open_alarms() == calls)
    else:
        until(lambda: len(list((claims_dir / "default").glob(".alarm-*"))) >= 1)


def stored(claims_dir: Path) -> Claim | None:
    found = process_session(FileStore(claims_dir)).read("red").claims
    return found[0].found if found and isinstance(found[0].found, Claim) else None


def is_reserved(claims_dir: Path) -> bool:
    found = stored(claims_dir)
    return found is not None and found.mode is Mode.RESERVED


class Waiter:
    """A client that waits for `red` in *count* calls, and reads none of the answers."""

    def __init__(
        self, process: subprocess.Popen[str], client: RawServer | RawHttp, handle: str | None, count: int
    ) -> None:
        self.process, self._client = process, client
        self._identity = {} if handle is None else {"session": handle}
        self._sent: list[int | HTTPConnection] = []
        for _ in range(count):
            self.start()

    def start(self, *, token: int | None = None) -> None:
        """Begin another wait."""
        self._sent.append(self._client.send("try_claim", WAIT | self._identity, token=token))

    def answer(self) -> dict[str, Any]:
        """Return the structured answer of the wait that began last."""
        sent = self._sent[-1]
        if isinstance(sent, HTTPConnection):
            return structured_in(sent)
        assert isinstance(self._client, RawServer)
        return answer_to(self._client, sent)

    def close(self) -> None:
        """Cut the connections of the waits, over HTTP."""
        for connection in self._sent:
            if isinstance(connection, HTTPConnection):
                connection.close()

    def cancel(self) -> None:
        """Cancel the wait that began last."""
        if isinstance(self._client, RawHttp):
            self._client.notify("notifications/cancelled", requestId=1)
        else:
            notice = {"method": "notifications/cancelled", "params": {"requestId": self._sent[-1]}}
            self._client.send_line(json.dumps({"jsonrpc": "2.0", **notice}))

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call *tool* and return its structured answer, as the same session."""
        arguments |= self._identity
        if isinstance(self._client, RawHttp):
            return self._client.call(tool, **arguments)
        return answer_to(self._client, self._client.send(tool, arguments))


def answer_to(server: RawServer, number: int) -> dict[str, Any]:
    """Read until the answer to that request; return its structured part."""
    while (message := server.receive()).get("id") != number:
        continue
    structured: dict[str, Any] = message["result"]["structuredContent"]
    return structured


@contextmanager
def waiter(
    way: str, claims_dir: Path, count: int = 1, constants: Mapping[str, object] | None = None
) -> Iterator[Waiter]:
    """Start a server and a client that waits; *way* has the transport, and whether it acts with a handle."""
    transport, _, handle = way.partition("+")
    with ExitStack() as stack:
        client: RawServer | RawHttp
        if transport.endswith("stdio"):
            options = ["--no-quick"] if transport == "sdk-stdio" else []
            client = stack.enter_context(raw_server(claims_dir, *options, constants=constants))
            process = client.process
        else:
            server = stack.enter_context(http_server(claims_dir, constants=constants))
            process = server.process
            client = RawHttp(server.url, modern=transport == "http-2026-07-28")
        waiting = Waiter(process, client, client.call("open_session")["session"] if handle else None, count)
        try:
            yield waiting
        finally:
            waiting.close()


STDIO = ["stdio", "sdk-stdio", "stdio+handle"]
HTTP = ["http-2025-11-25", "http-2025-11-25+handle", "http-2026-07-28+handle"]


def gets_it_after(claims_dir: Path, since: float, within: float) -> float:
    """Let a stranger ask until it gets `red`; return how many seconds after *since* that was."""
    with process_session(FileStore(claims_dir)) as stranger:
        while not (result := stranger.try_claim("red")).claimed:
            assert result.status is Status.HELD
            assert time.monotonic() - since < within, "the call that was given up still has it"
            time.sleep(0.05)
        return time.monotonic() - since


def abandoned(
    way: str,
    claims_dir: Path,
    holder: Session,
    turn: float,
    *,
    cut: bool,
    count: int,
    constants: Mapping[str, object] | None = None,
) -> None:
    with waiter(way, claims_dir, count, constants=constants) as waiting:
        wait_until_queued(claims_dir, count)
        if cut:
            waiting.close()
        holder.release("red")
        released = time.monotonic()
        until(lambda: is_reserved(claims_dir))
        taken = gets_it_after(claims_dir, released, turn + WITHIN)
        print(f"{way}, {count} waits{', cut' if cut else ''}: free {taken:.1f} s after the release", file=sys.stderr)
        assert turn <= taken + 0.5
        if turn > SHORT:
            assert taken <= 65


@pytest.mark.rule("V8")
@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("count", [1, 10], ids=["one", "ten"])
@pytest.mark.parametrize("way", [*STDIO, *HTTP])
def test_after_abandoned_waits_a_stranger_has_the_key_as_soon_as_one_turn_is_over(
    claims_dir: Path, holder: Session, way: str, count: int
) -> None:
    abandoned(way, claims_dir, holder, SHORT, cut=False, count=count, constants=SHORT_TURNS)


@pytest.mark.rule("V8")
@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("way", HTTP)
def test_a_connection_that_is_cut_changes_nothing_about_that(claims_dir: Path, holder: Session, way: str) -> None:
    abandoned(way, claims_dir, holder, SHORT, cut=True, count=1, constants=SHORT_TURNS)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1, 10], ids=["one", "ten"])
@pytest.mark.parametrize("way", [*STDIO, *HTTP])
def test_after_abandoned_waits_a_stranger_has_the_key_within_65_seconds(
    claims_dir: Path, holder: Session, way: str, count: int
) -> None:
    abandoned(way, claims_dir, holder, 60.0, cut=way in HTTP, count=count)


@pytest.mark.rule("V8")
# Stdio has one connection, whose end is that of the session.
@pytest.mark.parametrize(
    ("way", "cut"),
    [*((way, False) for way in [*STDIO, *HTTP]), *((way, True) for way in HTTP)],
)
def test_whoever_lost_the_answer_takes_its_turn_by_the_next_call(
    claims_dir: Path, holder: Session, way: str, cut: bool
) -> None:
    with waiter(way, claims_dir) as waiting:
        wait_until_queued(claims_dir)
        if cut:
            waiting.close()
        holder.release("red")
        until(lambda: is_reserved(claims_dir))
        seen = waiting.call("is_claimed_by_other", key="red", generation=1)
        assert (seen["claimed_by_other"], seen["held_by_you"], seen["in_force"]) == (False, False, False)
        assert "call try_claim again" in waiting.call("is_claimed_by_other", key="red")["advice"]
        assert not holder.try_claim("red").claimed
        assert holder.inspect("red").claimed_by_other
        taken = waiting.call("try_claim", key="red", note="mine", ttl_minutes=5, keep_alive=True)
        assert (taken["status"], taken["note"]) == ("acquired", "mine")
        assert waiting.call("is_claimed_by_other", key="red", generation=taken["generation"])["in_force"]
        assert tickets(claims_dir) == ()


@pytest.mark.rule("V8")
@pytest.mark.parametrize("way", [*STDIO, *HTTP])
def test_a_turn_that_is_declined_is_the_next_ones(claims_dir: Path, holder: Session, way: str) -> None:
    with waiter(way, claims_dir) as first, raw_server(claims_dir) as second:
        wait_until_queued(claims_dir)
        wait = second.send("try_claim", WAIT)
        wait_until_queued(claims_dir, 2)
        holder.release("red")
        until(lambda: is_reserved(claims_dir))
        declined = first.call("release", key="red")
        assert declined["released"] and "next session that waits" in declined["advice"]
        assert answer_to(second, wait)["status"] == "your_turn"
        assert not first.call("release", key="red")["released"]


@pytest.mark.rule("V8")
@pytest.mark.parametrize("way", [*STDIO, *HTTP[:2]])
def test_a_call_that_is_cancelled_gives_up_its_place(claims_dir: Path, holder: Session, way: str) -> None:
    with waiter(way, claims_dir) as waiting:
        wait_until_queued(claims_dir)
        waiting.cancel()
        until(lambda: not tickets(claims_dir))
        holder.release("red")
        assert holder.try_claim("red").status is Status.ACQUIRED


@pytest.mark.rule("V8")
def test_a_session_that_lets_its_turn_lapse_and_comes_back_has_its_old_number_once(
    claims_dir: Path, holder: Session, short_turns: None
) -> None:
    def lapse() -> None:
        """Let the turn of the first session lapse, and let the holder have the key after it."""
        assert holder.release("red").released
        until(lambda: is_reserved(claims_dir))
        gets_it_after(claims_dir, time.monotonic(), WITHIN)  # The stranger releases it at its end.
        until(lambda: holder.try_claim("red").claimed)

    def number(session: str) -> int | None:
        return next(
            (each.number for each in tickets(claims_dir) if each.holder.name == session and not each.lapsed), None
        )

    with (
        raw_server(claims_dir, constants=SHORT_TURNS) as server,
        raw_server(claims_dir, constants=SHORT_TURNS) as other,
    ):
        own = server.call("try_claim", key="whoami")["holder"]
        server.send("try_claim", WAIT)
        wait_until_queued(claims_dir)
        first = number(own)
        assert first is not None
        lapse()
        assert number(own) is None
        server.send("try_claim", WAIT)
        until(lambda: number(own) == first)
        wait_until_queued(claims_dir)
        lapse()
        other.send("try_claim", WAIT)
        wait_until_queued(claims_dir)
        server.send("try_claim", WAIT)
        wait_until_queued(claims_dir, 2)
        assert [each.holder.name == own for each in tickets(claims_dir)] == [False, True]


@pytest.mark.rule("V8", "V2")
@BOTH_STAGES
@pytest.mark.parametrize("end", ["EOF", "SIGTERM", "SIGINT", "SIGKILL"])
@pytest.mark.parametrize("reserved", [False, True], ids=["waiting", "reserved"])
def test_the_end_of_a_session_frees_its_reservation_and_its_place(
    claims_dir: Path, holder: Session, options: list[str], end: str, reserved: bool
) -> None:
    with raw_server(claims_dir, *options) as server:
        server.send("try_claim", WAIT)
        wait_until_queued(claims_dir)
        if reserved:
            holder.release("red")
            until(lambda: is_reserved(claims_dir))
        if end == "EOF":
            server.stdin.close()
        else:
            server.process.send_signal(signal.Signals[end])
        assert server.process.wait(WITHIN) == (-signal.SIGKILL if end == "SIGKILL" else 0)
        if end == "EOF":
            assert tickets(claims_dir) == ()
        # At a signal a thread that waits may have taken its ticket again, which is that of a dead process.
        if end != "SIGKILL":
            assert reserved is (stored(claims_dir) is None)
    if not reserved:
        holder.release("red")
    assert holder.try_claim("red").status is Status.ACQUIRED


@pytest.mark.rule("V8")
@pytest.mark.parametrize("cut", [False, True], ids=["open", "cut"])
@pytest.mark.parametrize("way", HTTP)
def test_the_end_of_an_http_server_ends_its_waits(claims_dir: Path, holder: Session, way: str, cut: bool) -> None:
    with waiter(way, claims_dir) as waiting:
        wait_until_queued(claims_dir)
        if cut:
            waiting.close()
        waiting.process.send_signal(signal.SIGTERM)
        assert waiting.process.wait(WITHIN) in (0, -signal.SIGTERM)
    assert not tickets(claims_dir) or "handle" in way


@pytest.mark.rule("V8")
def test_the_end_of_an_http_session_gives_up_its_place(claims_dir: Path, holder: Session) -> None:
    with http_server(claims_dir, constants=SILENT) as server:
        client = RawHttp(server.url, modern=False)
        assert client.call("try_claim", **WAIT)["status"] == "held"
        assert len(tickets(claims_dir)) == 1
        client.end()
        until(lambda: not tickets(claims_dir))
        holder.release("red")
        assert holder.try_claim("red").status is Status.ACQUIRED


@pytest.mark.rule("V8", "Q4")
@pytest.mark.skipif(sys.platform != "linux", reason="reads what the server has mapped")
def test_a_turn_outlives_the_hand_over(claims_dir: Path, holder: Session) -> None:
    with raw_server(claims_dir) as server:
        wait = server.send("try_claim", WAIT)
        wait_until_queued(claims_dir)
        hand_over(server)
        holder.release("red")
        assert answer_to(server, wait)["status"] == "your_turn"
        assert answer_to(server, server.send("try_claim", {"key": "red"}))["status"] == "acquired"


@pytest.mark.rule("V8")
@pytest.mark.parametrize("way", [*STDIO, *HTTP])
def test_without_a_progress_token_a_wait_is_answered_in_time_and_keeps_its_place(
    claims_dir: Path, holder: Session, way: str
) -> None:
    with waiter(way, claims_dir, 0, constants=SILENT) as waiting:
        refused = waiting.call("try_claim", **WAIT)
        assert refused["status"] == "held" and "you keep your place for 30 s" in refused["advice"]
        (place,) = tickets(claims_dir)
        assert waiting.call("try_claim", **WAIT)["status"] == "held"
        assert tickets(claims_dir)[0].number == place.number
        # Meanwhile it is the turn of this session: the key is kept for it from the release on.
        holder.release("red")
        assert is_reserved(claims_dir) and not holder.try_claim("red").claimed
        assert waiting.call("try_claim", **WAIT)["status"] == "acquired"


@pytest.mark.rule("V8")
@pytest.mark.parametrize("way", ["stdio", "sdk-stdio", "http-2025-11-25", "http-2026-07-28+handle"])
def test_with_a_progress_token_a_wait_is_not_cut_short(claims_dir: Path, holder: Session, way: str) -> None:
    with waiter(way, claims_dir, 0, constants=SILENT) as waiting:
        waiting.start(token=7)
        wait_until_queued(claims_dir)
        time.sleep(1.5)  # Three times as long as a silent one may take.
        wait_until_queued(claims_dir)
        holder.release("red")
        assert waiting.answer()["status"] == "your_turn"


@pytest.mark.rule("V8")
def test_a_wait_that_would_never_end_is_refused_at_once_and_names_the_cycle(claims_dir: Path, holder: Session) -> None:
    with raw_server(claims_dir) as one, raw_server(claims_dir) as two:
        own = one.call("try_claim", key="a")["holder"]
        two.call("try_claim", key="b")
        one.send("try_claim", {"key": "b", "wait_seconds": 300})
        wait_until_queued(claims_dir)
        refused = two.call("try_claim", key="a", wait_seconds=300)
        assert refused["status"] == "held"
        assert f'you hold "b", for which {own}' in refused["advice"] and 'release "b" first' in refused["advice"]
        assert [each.holder.name for each in tickets(claims_dir)] == [own]
