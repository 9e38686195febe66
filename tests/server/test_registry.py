"""Which session a call belongs to, what is kept alive for it, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_claims.errors import InvalidInputError, InvalidSessionError, SessionEndedError, SessionNeededError
from mcp_claims.model import validation
from mcp_claims.model.records import Claim, Maker
from mcp_claims.server import registry
from mcp_claims.server.registry import Caller, SessionEntry, SessionRegistry
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.session.turns import CLOSE_TIMEOUT
from mcp_claims.stores.base import Store
from mcp_claims.stores.memory import MemoryStore
from tests.session.faulty import Busy
from tests.support.machines import FakeMachine, World

IDLE = 30 * 60
ADA, BEN = Caller(connection="a" * 32, client=lambda: "codex 1"), Caller(connection="b" * 32)
NOBODY = Caller()


class Rig:
    """A world, a store in it, and servers on that."""

    def __init__(self) -> None:
        self.world = World()
        self.store: Store = MemoryStore()
        self.machines: dict[int, FakeMachine] = {}

    def http(self) -> SessionRegistry:
        return SessionRegistry(self.store, own=None, machine=self.world.process(), idle=IDLE)

    def stdio(
        self, own: Callable[[Store, FakeMachine], Session] = process_session, *, lasting: bool = False
    ) -> SessionRegistry:
        machine = self.world.process()
        return SessionRegistry(self.store, own=own(self.store, machine), lasting=lasting, machine=machine)

    def holder(self, key: str = "red") -> str | None:
        found = self.world.session(self.store).inspect(key).found
        return found.holder.name if isinstance(found, Claim) else None


@pytest.fixture
def rig() -> Rig:
    return Rig()


def claim(session: SessionEntry, key: str = "red", *, ttl_minutes: float = 30) -> Claim:
    attempt = session.session.try_claim(key, ttl_minutes=ttl_minutes)
    assert attempt.claimed and isinstance(attempt.found, Claim)
    return attempt.found


def test_over_stdio_every_call_without_a_handle_is_the_servers_own_session(rig: Rig) -> None:
    sessions = rig.stdio()
    assert sessions.session_for(NOBODY, None) is sessions.session_for(ADA, None)


def test_what_a_tool_claims_says_so_in_any_session_and_whether_its_process_serves_others_too(rig: Rig) -> None:
    stdio, http = rig.stdio(), rig.http()
    sessions = [
        stdio.session_for(NOBODY, None),
        stdio.open(None, NOBODY)[1],
        http.session_for(ADA, None),
    ]
    makers = [claim(session, str(number)).maker for number, session in enumerate(sessions)]
    assert makers == [Maker.TOOL, Maker.TOOL, Maker.HTTP]


def test_over_http_each_connection_is_a_session_and_repeats_as_the_same(rig: Rig) -> None:
    sessions = rig.http()
    ada, ben = sessions.session_for(ADA, None), sessions.session_for(BEN, None)
    assert claim(ada).holder.client == "codex 1"
    assert ben.session.try_claim("red").status is Status.HELD
    assert sessions.session_for(ADA, None).session.try_claim("red").status is Status.RENEWED


def test_a_caller_without_connection_and_handle_may_read_and_prune_but_not_claim(rig: Rig) -> None:
    sessions = rig.http()
    with pytest.raises(SessionNeededError):
        sessions.session_for(NOBODY, None)
    claim(sessions.session_for(ADA, None))
    assert sessions.reader_for(NOBODY, None).inspect("red").claimed_by_other
    assert sessions.reader_for(NOBODY, None).prune().live == 1


@pytest.mark.parametrize("server", ["http", "stdio"])
def test_each_handle_is_a_session_and_differs_from_its_connection(rig: Rig, server: str) -> None:
    sessions: SessionRegistry = getattr(rig, server)()
    first, mine = sessions.open("tests", ADA)
    second, _ = sessions.open("docs", ADA)
    claim(mine)
    assert sessions.session_for(ADA, first) is mine
    for other in (sessions.session_for(ADA, second), sessions.session_for(ADA, None)):
        assert other.session.try_claim("red").status is Status.HELD
    assert (mine.session.holder.client, mine.session.holder.label) == ("codex 1", "tests")


@pytest.mark.rule("I4")
def test_no_handle_and_no_connection_id_is_part_of_a_name_or_of_a_record(rig: Rig) -> None:
    sessions = rig.http()
    handle, session = sessions.open(None, ADA)
    records = repr([claim(session), claim(sessions.session_for(ADA, None), "other")])
    assert handle[:20] not in records and ADA.connection is not None and ADA.connection not in records


def test_a_handle_is_the_same_session_for_every_worker_and_after_a_restart(rig: Rig) -> None:
    one, two = rig.http(), rig.http()
    handle, session = one.open(None, NOBODY)
    generation = claim(session).generation
    attempt = two.session_for(NOBODY, handle).session.try_claim("red")
    assert attempt.status is Status.RENEWED
    one.close()
    restarted = rig.http()
    assert restarted.session_for(NOBODY, handle).session.release("red").released
    assert generation == 1


def test_a_handle_over_stdio_is_the_same_session_after_the_host_restarted_the_server(rig: Rig) -> None:
    killed = rig.stdio()
    handle, session = killed.open(None, NOBODY)
    claim(session)
    rig.world.kill(session.session)
    assert rig.holder() is None
    assert claim(rig.stdio().session_for(NOBODY, handle)).holder.name == session.session.holder.name


@pytest.mark.parametrize("handle", ["", "x", "é" * 60, "A" * 500, "A" * 47, "AB=="])
def test_what_cannot_be_a_handle_is_refused_before_a_secret_is_made(
    rig: Rig, handle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.store, "secret", pytest.fail)
    for sessions in (rig.http(), rig.stdio()):
        with pytest.raises(InvalidSessionError):
            sessions.session_for(ADA, handle)


def test_a_stolen_handle_is_refused_with_another_token_as_a_forged_one_is(rig: Rig) -> None:
    sessions = rig.http()
    handle, _ = sessions.open(None, Caller(principal="token a"))
    messages = set()
    for caller, stolen in (
        (Caller(principal="token b"), handle),
        (NOBODY, handle),
        (Caller(principal="token a"), "A" * 48),
    ):
        for use in (sessions.session_for, sessions.reader_for):
            with pytest.raises(InvalidSessionError) as refusal:
                use(caller, stolen)
            messages.add(str(refusal.value))
    assert len(messages) == 1


def test_a_connection_that_its_client_ends_has_released_its_claims(rig: Rig) -> None:
    sessions = rig.http()
    claim(ada := sessions.session_for(ADA, None))
    claim(sessions.session_for(BEN, None), "other")
    sessions.end_connection(ADA.connection or "")
    assert (rig.holder(), rig.holder("other") is None) == (None, False)
    with pytest.raises(SessionEndedError):
        ada.session.try_claim("red")


@pytest.mark.rule("I8")
def test_a_call_that_comes_through_only_after_its_connection_was_ended_claims_nothing(rig: Rig) -> None:
    sessions = rig.http()
    claim(sessions.session_for(ADA, None))
    sessions.end_connection(ADA.connection or "")
    sessions.end_connection(BEN.connection or "")
    for ended in (ADA, BEN):
        for find in (sessions.session_for, sessions.reader_for):
            with pytest.raises(SessionEndedError):
                find(ended, None)
    assert claim(sessions.session_for(Caller(connection="c"), None)).generation == 2, "others go on"


def test_a_connection_whose_namespace_somebody_keeps_locked_ends_without_waiting_and_is_released_later(
    rig: Rig,
) -> None:
    busy = Busy(rig.store)
    rig.store = busy
    busy.idle = True
    sessions = rig.http()
    claim(sessions.session_for(ADA, None))
    busy.idle = False
    answer: list[bool] = []
    sessions.on_due = lambda: answer.append(True)
    sessions.end_connection(ADA.connection or "")
    assert sessions.begin_maintenance()() <= 1, "to be tried again soon"
    assert (set(busy.waits), answer) == ({0}, [True])
    busy.idle = True
    assert rig.holder() is not None
    sessions.begin_maintenance()()
    assert rig.holder() is None


def test_the_end_of_many_sessions_waits_no_longer_for_a_lock_than_that_of_one(rig: Rig) -> None:
    busy = Busy(rig.store)
    rig.store = busy
    busy.idle = True
    sessions = rig.http()
    for number in range(20):
        claim(sessions.session_for(Caller(connection=str(number)), None), str(number))
    busy.idle = False
    sessions.close()
    assert len(busy.waits) == 20 and sum(busy.waits) <= CLOSE_TIMEOUT


@pytest.mark.rule("I8")
def test_a_connection_ends_when_it_is_idle_but_not_while_a_request_of_it_is_open(rig: Rig) -> None:
    sessions = rig.http()
    connection = ADA.connection or ""
    sessions.begin_request(connection)
    claim(sessions.session_for(ADA, None), ttl_minutes=24 * 60)
    rig.world.pass_time(2 * IDLE)
    sessions.begin_maintenance()()
    assert rig.holder() is not None
    sessions.end_request(connection)
    rig.world.pass_time(IDLE)
    sessions.begin_maintenance()()
    assert rig.holder() is not None
    rig.world.pass_time(1)
    sessions.begin_maintenance()()
    assert rig.holder() is None


def test_an_orderly_stop_releases_what_belongs_to_connections_and_leaves_what_belongs_to_handles(rig: Rig) -> None:
    sessions = rig.http()
    claim(sessions.session_for(ADA, None), "connection")
    _, opened = sessions.open(None, ADA)
    claim(opened, "handle")
    sessions.close()
    assert (rig.holder("connection"), rig.holder("handle")) == (None, opened.session.holder.name)


def test_the_end_of_a_stdio_server_releases_what_belongs_to_its_handles_too(rig: Rig) -> None:
    sessions = rig.stdio()
    claim(sessions.session_for(NOBODY, None), "own")
    claim(sessions.open(None, NOBODY)[1], "handle")
    sessions.close(dying=True)
    assert (rig.holder("own"), rig.holder("handle")) == (None, None)


@pytest.mark.rule("I6")
def test_what_a_killed_http_server_held_for_connections_is_free_at_once_and_for_handles_when_its_time_is_up(
    rig: Rig,
) -> None:
    sessions = rig.http()
    ada = sessions.session_for(ADA, None)
    claim(ada, "connection")
    _, opened = sessions.open(None, ADA)
    claim(opened, "handle", ttl_minutes=30)
    rig.world.kill(ada.session)
    assert rig.holder("connection") is None
    rig.world.pass_time(30 * 60 - 1)
    assert rig.holder("handle") is not None
    rig.world.pass_time(1)
    assert rig.holder("handle") is None


def test_a_fixed_session_goes_on_in_the_next_process_and_keeps_others_out(rig: Rig) -> None:
    def fixed(store: Store, machine: FakeMachine) -> Session:
        return named_session(store, "night shift", machine)

    first = rig.stdio(fixed, lasting=True)
    claim(first.session_for(NOBODY, None))
    first.close()
    rig.world.kill(first.session_for(NOBODY, None).session)
    assert rig.stdio().session_for(NOBODY, None).session.try_claim("red").status is Status.HELD
    second = rig.stdio(fixed, lasting=True)
    assert second.session_for(NOBODY, None).session.try_claim("red").status is Status.RENEWED
    assert second.session_for(NOBODY, None).session.release("red").released


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", " padded ", "a\u200bb"])
def test_a_fixed_session_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="1 to 64 printable"):
        named_session(MemoryStore(), name)


def keep(sessions: SessionRegistry, session: SessionEntry, *, ttl_minutes: float = 30) -> Claim:
    attempt = session.session.try_claim("red", ttl_minutes=ttl_minutes)
    assert isinstance(attempt.found, Claim)
    assert sessions.keep_alive(session, attempt, validation.parse_ttl(ttl_minutes))
    return attempt.found


def live(rig: Rig, sessions: SessionRegistry, minutes: float, *, busy: Caller | None = None) -> None:
    """Let time pass and run maintenance when it is due, while *busy* goes on calling."""
    for _ in range(round(minutes)):
        rig.world.pass_time(60)
        if busy is not None:
            sessions.session_for(busy, None)
        sessions.begin_maintenance()()


@pytest.mark.rule("I7")
def test_what_is_kept_alive_outlives_its_ttl_with_its_generation_for_as_long_as_allowed(rig: Rig) -> None:
    sessions = rig.stdio()
    granted = keep(sessions, sessions.session_for(NOBODY, None))
    live(rig, sessions, 7 * 60)
    inspection = sessions.reader_for(NOBODY, None).inspect("red")
    assert inspection.held_by_you and isinstance(inspection.found, Claim)
    assert inspection.found.generation == granted.generation
    # The last renewal may come just before the eight hours are over.
    live(rig, sessions, 60 + 31)
    assert rig.holder() is None


def test_maintenance_returns_when_it_is_due_next(rig: Rig) -> None:
    sessions = rig.stdio()
    assert sessions.begin_maintenance()() == 15 * 60
    keep(sessions, sessions.session_for(NOBODY, None), ttl_minutes=3)
    assert sessions.begin_maintenance()() == 60
    rig.world.pass_time(60)
    assert sessions.begin_maintenance()() == 60


@pytest.mark.rule("I7")
def test_what_was_released_or_taken_over_is_not_renewed(rig: Rig) -> None:
    sessions = rig.stdio()
    session = sessions.session_for(NOBODY, None)
    keep(sessions, session)
    assert session.session.release("red").released
    other = rig.world.session(rig.store)
    assert other.try_claim("red").claimed
    live(rig, sessions, 20)
    assert rig.holder() == other.holder.name
    assert sessions.begin_maintenance()() == 15 * 60, "nothing is kept any more"


@pytest.mark.rule("I7")
def test_over_http_it_is_renewed_only_while_the_session_shows_activity(rig: Rig) -> None:
    sessions = rig.http()
    handle, opened = sessions.open(None, NOBODY)
    keep(sessions, opened)
    for _ in range(6):
        live(rig, sessions, 20)
        sessions.session_for(NOBODY, handle)
    assert rig.holder() == opened.session.holder.name
    live(rig, sessions, 30 + 30)
    assert rig.holder() is None


@pytest.mark.rule("I7")
def test_over_stdio_what_a_handle_keeps_alive_is_renewed_as_long_as_the_process_is_there(rig: Rig) -> None:
    sessions = rig.stdio()
    _, opened = sessions.open("sub-agent", NOBODY)
    keep(sessions, opened)
    live(rig, sessions, 3 * 60)
    assert rig.holder() == opened.session.holder.name


@pytest.mark.rule("I7")
def test_what_a_handle_got_after_waiting_longer_than_the_idle_time_is_kept_alive(rig: Rig) -> None:
    sessions = SessionRegistry(rig.store, own=None, machine=rig.world.process(), idle=120)
    handle, _ = sessions.open(None, NOBODY)
    waiting = sessions.session_for(NOBODY, handle)
    live(rig, sessions, 5)
    keep(sessions, waiting, ttl_minutes=1)
    rig.world.pass_time(30)
    sessions.begin_maintenance()()
    rig.world.pass_time(40)
    assert rig.holder() == waiting.session.holder.name


@pytest.mark.rule("I7")
def test_handles_that_hold_nothing_are_forgotten_before_what_another_one_keeps_alive(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_MAX_HANDLES", 3)
    sessions = rig.http()
    _, opened = sessions.open(None, NOBODY)
    keep(sessions, opened)
    for _ in range(10):
        sessions.open(None, NOBODY)
    live(rig, sessions, 20)
    rig.world.pass_time(15 * 60)
    assert rig.holder() == opened.session.holder.name


def test_a_renewal_that_fails_is_tried_again_in_time(rig: Rig) -> None:
    busy = Busy(rig.store)
    rig.store = busy
    busy.idle = True
    sessions = rig.stdio()
    keep(sessions, sessions.session_for(NOBODY, None))
    busy.idle = False
    live(rig, sessions, 25)
    assert len(busy.waits) > 5 and set(busy.waits) == {0}
    busy.idle = True
    live(rig, sessions, 20)
    assert rig.holder() is not None
