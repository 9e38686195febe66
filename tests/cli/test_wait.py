"""`mcp-claims wait`: ends when it is your turn, takes exactly one key with --take, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.cli import wait as wait_module
from mcp_claims.cli.wait import _take_first, _wait_until_free
from mcp_claims.model.records import Claim, Found, Outcome, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, Swap
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore
from tests.cli.commands import TIMEOUT, Commands, eventually
from tests.session.bench import granted
from tests.support.etcd import fresh_store
from tests.support.machines import World

Wait = Callable[..., Any]


@pytest.fixture
def holder(claims_dir: Path) -> Session:
    """A session of this process."""
    return process_session(FileStore(claims_dir))


class Waiting:
    """A `wait` that runs in the background, as a host runs it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def reports(self, *words: str) -> None:
        """Wait until it says whom it waits for: for each of *words* a line that contains it."""
        missing = set(words)
        assert self.process.stderr is not None
        while missing:
            line = self.process.stderr.readline()
            assert line.startswith("mcp-claims: waiting"), line
            missing -= {word for word in missing if word in line}

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and output."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        assert "Traceback" not in errors
        return self.process.returncode, output

    def answer(self) -> dict[str, Any]:
        """Wait for its end, which has to be that it is your turn; return its JSON."""
        code, output = self.end()
        answer: dict[str, Any] = json.loads(output)
        assert (code, answer["your_turn"]) == (0, True), output
        return answer


@contextmanager
def waiting(commands: Commands, *arguments: object) -> Iterator[Waiting]:
    with commands.start("wait", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield Waiting(process)


def states(commands: Commands) -> dict[str, tuple[str, str]]:
    """Return the state and the holder of each key."""
    return {each["key"]: (each["state"], each["holder"]) for each in commands.json("list")["claims"]}


@pytest.mark.rule("L11")
def test_what_is_free_is_your_turn_at_once_and_nothing_is_claimed(commands: Commands) -> None:
    done = commands("wait", "red", "green")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        f'FREE: nobody holds "{key}" (namespace "default").' for key in ("red", "green")
    ]
    assert "claim it before you act" in done.stdout
    assert states(commands) == {}


@pytest.mark.rule("L11")
@pytest.mark.parametrize("layout", ["mcp-claims", "agent-awareness"])
def test_it_ends_with_the_release_and_claims_nothing(commands: Commands, layout: str) -> None:
    commands.environment["MCP_CLAIMS_LAYOUT"] = layout
    commands("try", "red", "--session", "ci")
    with waiting(commands, "red") as wait:
        wait.reports(":session:ci")
        commands("release", "red", "--session", "ci")
        code, output = wait.end()
    assert code == 0 and output.startswith('FREE: nobody holds "red"')
    assert states(commands) == {}


@pytest.mark.rule("L11")
@pytest.mark.parametrize("take", [[], ["--any", "--take", "--session", "ci"]], ids=["free", "take"])
def test_on_a_cluster_it_ends_with_the_release(commands: Commands, take: list[str]) -> None:
    store = fresh_store()
    holder = process_session(store)
    granted(holder, "red"), granted(holder, "green")
    with waiting(commands, "red", "green", "--any", *take, "--store", store.config, "--json") as wait:
        wait.reports('"red"', '"green"')
        holder.release("green")
        keys = wait.answer()["keys"]
    assert [each["key"] for each in keys if each.get("claimed", True)][-1] == "green"
    assert holder.inspect("green").claimed_by_other is bool(take)


@pytest.mark.rule("L11")
@pytest.mark.parametrize("keys", [["red"], ["red", "green"]], ids=len)
def test_it_ends_when_the_holder_is_killed(
    commands: Commands, somebody: subprocess.Popen[bytes], keys: list[str]
) -> None:
    for key in keys:
        commands("try", key, "--for-pid", somebody.pid)
    with waiting(commands, *keys) as wait:
        wait.reports(*keys)
        somebody.kill()
        somebody.wait()
        assert wait.end()[0] == 0


@pytest.mark.rule("L11")
def test_several_keys_have_to_be_free_at_once(commands: Commands, holder: Session) -> None:
    for key in ("red", "green"):
        granted(holder, key)
    with waiting(commands, "red", "green", "--json") as wait:
        wait.reports('"red"', '"green"')
        holder.release("red")
        granted(holder, "red", note="again")
        holder.release("green")
        assert commands("check", "green").returncode == 0 and wait.process.poll() is None
        holder.release("red")
        assert [each["claimed_by_other"] for each in wait.answer()["keys"]] == [False, False]


class FreeInTurn(MemoryStore):
    """A store on which *change* happens between the reads of two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.change: Callable[[], object] = lambda: None

    def read(self, scoped: ScopedKey) -> Found:
        if scoped.key == "green":
            change, self.change = self.change, lambda: None
            change()
        return super().read(scoped)


@pytest.mark.rule("L11")
def test_keys_that_are_free_one_after_the_other_are_not_free_at_once() -> None:
    store, world = FreeInTurn(), World()
    holder, session = world.session(store), world.session(store)
    granted(holder, "green")

    def change() -> None:
        granted(holder, "red")
        holder.release("green")

    store.change = change
    requests = [request._replace(wait_seconds=0.0) for request in REQUESTS]
    seen = _wait_until_free(session, requests, any_of_them=False)
    assert [each.claimed_by_other for each in seen] == [True, False]


@pytest.mark.rule("L11")
def test_with_any_one_of_them_suffices(commands: Commands, holder: Session) -> None:
    for key in ("red", "green"):
        granted(holder, key)
    with waiting(commands, "red", "green", "--any", "--json") as wait:
        wait.reports('"red"', '"green"')
        holder.release("green")
        assert [each["claimed_by_other"] for each in wait.answer()["keys"]] == [True, False]


@pytest.mark.rule("L11")
def test_with_take_the_key_is_the_sessions(commands: Commands, holder: Session) -> None:
    granted(holder, "red")
    with waiting(commands, "red", "--take", "--session", "ci", "--note", "deploying", "--ttl", "2h", "--json") as wait:
        wait.reports(holder.holder.name)
        holder.release("red")
        (taken,) = wait.answer()["keys"]
    assert (taken["status"], taken["note"], taken["claimed"]) == ("acquired", "deploying", True)
    assert taken["expires_in_seconds"] > 3_600
    shown = commands.json("show", "red", "--session", "ci")
    assert shown["yours"] and (shown["maker"], shown["generation"]) == ("command", taken["generation"])


@pytest.mark.rule("L11")
@pytest.mark.parametrize("first", ["red", "green"])
def test_with_take_and_any_the_first_that_is_released_is_taken_and_no_other(
    commands: Commands, holder: Session, first: str
) -> None:
    for key in ("red", "green"):
        granted(holder, key)
    with waiting(commands, "red", "green", "--any", "--take", "--session", "ci", "--json") as wait:
        wait.reports('"red"', '"green"')
        holder.release(first)
        (taken,) = wait.answer()["keys"]
    assert taken["key"] == first
    for key in ("red", "green"):
        holder.release(key)
    assert states(commands) == {first: ("held", taken["holder"])}
    # Nor does a place of the wait that is over keep others from the other key.
    assert commands("try", "green" if first == "red" else "red", "--session", "other").returncode == 0


class Together(MemoryStore):
    """A store on which two grants of one session happen at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.of: str | None = None
        self._both = threading.Barrier(2)

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        grant = new is not None and new.holder.name == self.of and old is None
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
        if grant and swap.won:
            self._both.wait(TIMEOUT)
        return swap


REQUESTS = [ClaimRequest(ScopedKey("default", key), wait_seconds=TIMEOUT) for key in ("red", "green")]


def release_once_waited_for(store: MemoryStore, holder: Session, *keys: str) -> threading.Thread:
    """Release *keys* as soon as somebody waits for each key of `REQUESTS`."""

    def release() -> None:
        eventually(lambda: len(store.tickets("default")) == len(REQUESTS))
        for key in keys:
            holder.release(key)

    thread = threading.Thread(target=release)
    thread.start()
    return thread


@pytest.mark.rule("L11")
def test_of_two_keys_that_are_granted_at_once_one_is_given_back() -> None:
    store, world = Together(), World()
    holder, session = world.session(store), world.session(store)
    for request in REQUESTS:
        granted(holder, request.scoped.key)
    store.of = session.holder.name
    releasing = release_once_waited_for(store, holder, "red", "green")
    ((request, result),) = _take_first(session, REQUESTS)
    releasing.join()
    assert result.claimed
    assert [store.read(each.scoped) for each in REQUESTS if each is not request] == [None]
    assert store.read(request.scoped) == result.found


@pytest.mark.rule("L11")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_grant_that_comes_just_before_a_signal_is_given_back(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    store, world = MemoryStore(), World()
    holder, session = world.session(store), world.session(store)
    for request in REQUESTS:
        granted(holder, request.scoped.key)
    first_grant = wait_module._first_grant

    def signalled(session: Session, pending: set[futures.Future[Any]]) -> futures.Future[Any] | None:
        granted_call = first_grant(session, pending)
        assert granted_call is not None and granted_call.result().claimed
        signal.raise_signal(number)
        return granted_call

    monkeypatch.setattr(wait_module, "_first_grant", signalled)
    releasing = release_once_waited_for(store, holder, "red")
    with pytest.raises(SystemExit, match=f"^{128 + number}$"):
        _take_first(session, REQUESTS)
    releasing.join()
    assert store.read(REQUESTS[0].scoped) is None and not session.holds_anything
    assert store.tickets("default") == ()


@pytest.mark.rule("L11")
def test_where_no_more_threads_can_be_started_those_that_wait_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store, world = MemoryStore(), World()
    holder, session = world.session(store), world.session(store)
    for request in REQUESTS:
        granted(holder, request.scoped.key)
    submit = futures.ThreadPoolExecutor.submit
    started: list[object] = []

    def limited(pool: futures.ThreadPoolExecutor, *call: Any, **options: Any) -> futures.Future[Any]:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(call)
        return submit(pool, *call, **options)

    monkeypatch.setattr(futures.ThreadPoolExecutor, "submit", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _take_first(session, REQUESTS)
    assert store.tickets("default") == ()


@pytest.mark.rule("L11")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("take", [[], ["--any", "--take", "--session", "ci"]], ids=["free", "take"])
def test_a_signal_ends_it_and_leaves_nothing(
    commands: Commands, holder: Session, number: signal.Signals, code: int, take: list[str]
) -> None:
    for key in ("red", "green"):
        granted(holder, key)
    with waiting(commands, "red", "green", *take) as wait:
        wait.reports('"red"', '"green"')
        wait.process.send_signal(number)
        ended, output = wait.end()
    assert ended in (code, -number) and output == ""
    assert FileStore(commands.directory).tickets("default") == ()
    for key in ("red", "green"):
        holder.release(key)
    assert states(commands) == {}


@pytest.mark.rule("L11")
def test_what_is_done_is_nothing_to_wait_for(commands: Commands, holder: Session) -> None:
    granted(holder, "red")
    holder.release("red", outcome=Outcome.DONE, note="built")
    granted(holder, "green")
    for words in (["red"], ["red", "green"], ["red", "--any"], ["red", "--take", "--session", "ci"]):
        done = commands("wait", *words)
        assert done.returncode == 1 and 'DONE: "red"' in done.stdout and "built" in done.stdout
        assert "new key" in done.stdout
    for take in ([], ["--take", "--session", "ci"]):
        with waiting(commands, "red", "green", "--any", *take) as wait:
            wait.reports('"green"')
            holder.release("green")
            assert wait.end()[0] == 0
        commands("release", "green", "--session", "ci")
        granted(holder, "green")


@pytest.mark.rule("L11")
def test_work_that_is_done_meanwhile_ends_it(commands: Commands, holder: Session) -> None:
    for take in ([], ["--take", "--session", "ci"]):
        granted(holder, f"red {take}")
        with waiting(commands, f"red {take}", *take) as wait:
            wait.reports(holder.holder.name)
            holder.release(f"red {take}", outcome=Outcome.DONE)
            code, output = wait.end()
        assert code == 1 and output.startswith("DONE:")


@pytest.mark.rule("L11")
@pytest.mark.parametrize("take", [[], ["--take", "--session", "ci"]], ids=["free", "take"])
@pytest.mark.parametrize("timeout", ["0", "0.1s"])
def test_when_the_time_is_up_it_says_who_holds_the_key(commands: Commands, take: list[str], timeout: str) -> None:
    commands("hold", "red", "--for", "2h")
    done = commands("wait", "red", "--timeout", timeout, *take)
    assert done.returncode == 1 and done.stdout.startswith('HELD: "red"') and "a person, " in done.stdout
    answer = commands("wait", "red", "--timeout", 0, "--json", *take)
    facts = json.loads(answer.stdout)
    assert answer.returncode == 1 and facts["your_turn"] is False
    assert (facts["keys"][0]["client"], "advice" in facts["keys"][0]) == ("a person", False)


@pytest.mark.rule("L11")
def test_your_own_claim_is_not_in_your_way(commands: Commands) -> None:
    commands("try", "red", "--session", "ci")
    assert commands("wait", "red", "--session", "ci").stdout.startswith("YOURS")
    assert commands("wait", "red", "--timeout", 0).returncode == 1
    assert commands.json("wait", "red", "--take", "--session", "ci")["keys"][0]["status"] == "renewed"


@pytest.mark.rule("L11")
def test_it_ends_with_the_process_for_which_it_waits(
    commands: Commands, holder: Session, somebody: subprocess.Popen[bytes]
) -> None:
    granted(holder, "red")
    with waiting(commands, "red", "--take", "--for-pid", somebody.pid) as wait:
        wait.reports(holder.holder.name)
        somebody.kill()
        somebody.wait()
        assert wait.end() == (2, "")
    assert FileStore(commands.directory).tickets("default") == ()


@pytest.mark.rule("L1", "L11")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["red", "green", "--take", "--session", "ci"], "With several, add --any"),
        (["red", "--take"], "Say who holds it"),
        (["red", "--timeout", "-1"], "--timeout must be from 0 to 366 days"),
        (["red", "--timeout", "nan"], "--timeout must be from 0 to 366 days"),
        (["red", "--timeout", "367d"], "--timeout must be from 0 to 366 days"),
        (["red", ""], "KEY must not be empty"),
        ([str(number) for number in range(65)], "KEY must be at most 64 keys"),
        ([], "the following arguments are required: KEY"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_wrong_usage_waits_for_nothing(commands: Commands, words: list[str], error: str) -> None:
    done = commands("wait", *words)
    assert (done.returncode, done.stdout) == (2, "") and error in done.stderr
    assert not commands.directory.exists()


@pytest.mark.rule("M5")
def test_a_key_that_is_shared_is_waited_for_until_nobody_shares_it(commands: Commands) -> None:
    assert commands("try", "red", "--shared", "--session", "ada").returncode == 0
    assert commands("check", "red").returncode == 0, "it may be shared"
    assert commands("wait", "red", "--timeout", "0.01").returncode == 1
    assert commands("release", "red", "--session", "ada").returncode == 0
    assert commands("wait", "red", "--timeout", "0.01").returncode == 0
