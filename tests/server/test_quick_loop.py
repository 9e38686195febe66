"""The loop of the quick stage: lines are served before the end of the input, and no signal is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.server import quick, stop
from mcp_claims.server.pipes import HostPipes, Lines, Output
from mcp_claims.server.plain import NotPlainError
from mcp_claims.server.quick import QuickStage
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore
from tests.server.test_calls import Slow
from tests.server.test_quick import META, encoded, request
from tests.server.test_quick_handover import NOT_PLAIN, WITHIN, send
from tests.support.servers import PYTHON_ENVIRONMENT, RawServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick stage needs pipes that can be polled")


class EndedError(Exception):
    """The process would have ended."""


class Pipes:
    """A quick stage, and the test's ends of its pipes."""

    def __init__(self, registry: SessionRegistry) -> None:
        reading, self.input = os.pipe()
        self.output, writing = os.pipe()
        self._fds = [reading, writing, self.output]
        self.stage = QuickStage(registry, HostPipes(Lines(reading), Output(writing)))

    def close(self) -> None:
        self.stage.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def lasting() -> bool:
    """Whether the session outlives the process."""
    return False


@pytest.fixture
def pipes(store: Store, lasting: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipes]:
    def end(*_: object) -> NoReturn:
        raise EndedError

    # It would end the waits of later tests in this process as well.
    monkeypatch.setattr(quick, "stop_waits", lambda: None)
    for name in ("leave", "stop"):
        monkeypatch.setattr(quick, name, end)
    handlers = {number: signal.getsignal(number) for number in stop.STOPS}
    made = Pipes(SessionRegistry(store, own=process_session(store), lasting=lasting))
    others = threading.enumerate()  # Other tests in this process may have left some that never end.
    try:
        yield made
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for thread in threading.enumerate():
            if thread not in others and thread.name.startswith("mcp-claims"):
                thread.join(WITHIN)
        made.close()


@pytest.mark.rule("V2")
def test_an_output_that_cannot_be_written_ends_the_process_with_an_error_and_a_line_in_the_log(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []

    def leave(code: int) -> NoReturn:
        codes.append(code)
        raise EndedError

    def full(_: Output) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(quick, "leave", leave)
    monkeypatch.setattr(Output, "write", full)
    with pytest.raises(EndedError):
        pipes.stage.run(lambda: None)
    os.close(pipes.input)
    assert codes == [1]
    assert "serving failed" in caplog.text


@pytest.mark.rule("Q6")
def test_lines_that_waited_for_the_host_to_read_are_served_before_the_end_of_the_input(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_MAX_UNSENT", 1)
    os.write(pipes.input, b"\n".join(encoded([request(number, "tools/list", META) for number in range(3)])) + b"\n")
    os.close(pipes.input)
    with pytest.raises(EndedError):
        pipes.stage.run(lambda: None)
    assert [line.count(b'"id":') for line in os.read(pipes.output, 2**16).splitlines()] == [1, 1, 1]


@pytest.mark.rule("Q4")
def test_a_signal_during_the_last_message_of_the_stage_ends_the_process(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(_: bytes) -> NoReturn:
        os.kill(os.getpid(), signal.SIGTERM)
        raise NotPlainError

    monkeypatch.setattr(pipes.stage, "serve", serve)
    os.write(pipes.input, b"{}\n")
    with pytest.raises(EndedError):
        pipes.stage.run(lambda: None)
    os.close(pipes.input)


@pytest.mark.rule("V2", "Q4")
def test_a_signal_after_the_last_look_at_it_ends_the_process(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    run_posted, loading = pipes.stage._run_posted, Event()

    def then_a_signal() -> None:
        run_posted()
        if loading.is_set():
            for thread in threading.enumerate():
                if thread.name == "mcp-claims load":
                    thread.join(WITHIN)
            run_posted()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipes.stage, "_run_posted", then_a_signal)
    os.write(pipes.input, b"no message\n")
    with pytest.raises(EndedError):
        pipes.stage.run(loading.set)
    os.close(pipes.input)


@pytest.mark.rule("V2", "Q4")
def test_a_signal_before_the_sdks_server_has_handlers_of_its_own_ends_the_process(pipes: Pipes) -> None:
    os.write(pipes.input, b"no message\n")
    pipes.stage.run(lambda: None)
    with pytest.raises(EndedError):
        signal.raise_signal(signal.SIGTERM)
    os.close(pipes.input)


@pytest.mark.rule("Q5", "Q6")
@pytest.mark.parametrize(("store", "lasting"), [(Slow(), True)], ids=["lasting"])
def test_the_end_of_the_input_waits_until_the_grant_of_a_cancelled_call_is_released(
    pipes: Pipes, store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = request(1, "tools/call", {"name": "try_claim", "arguments": {"key": "red"}, **META})
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    os.write(pipes.input, b"\n".join(encoded([claim, cancelled])) + b"\n")
    os.close(pipes.input)

    def end_waits() -> None:
        assert store.stored.wait(WITHIN)
        store.let_go.set()

    monkeypatch.setattr(quick, "stop_waits", end_waits)
    with pytest.raises(EndedError):
        pipes.stage.run(lambda: None)
    assert store.read(ScopedKey("default", "red")) is None


_SIGNAL_AT_IMPORT = """
import os, signal, sys
from mcp_claims.cli.main import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mcp":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
sys.exit(main(["serve", "--dir", sys.argv[1]]))
"""


@pytest.mark.rule("V2", "Q4")
def test_a_signal_while_the_sdk_is_imported_ends_the_process_and_frees_what_it_holds(claims_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SIGNAL_AT_IMPORT, str(claims_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT,
    ) as process:
        try:
            server = RawServer(process)
            assert server.call("try_claim", key="red")["claimed"]
            send(server, NOT_PLAIN["modern"])
            assert process.wait(WITHIN) == 0
        finally:
            process.kill()
    assert FileStore(claims_dir).read(ScopedKey("default", "red")) is None
