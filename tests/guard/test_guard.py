"""The guard: what it claims before an edit, for how long, what it denies, and what it says."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.guard.edits import AtFile, Edits
from mcp_claims.guard.guard import Mode
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Maker, ScopedKey
from mcp_claims.session.handles import Handles
from mcp_claims.session.identity import named_session, person_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.guard.agents import Agent


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "claims")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    (directory / "src").mkdir(parents=True)
    for name in ("f1", "f2", "f3"):
        (directory / name).write_text(name)
    return directory


@pytest.fixture
def ada(store: FileStore, project: Path) -> Agent:
    return Agent(store, project, "ada")


@pytest.fixture
def ben(store: FileStore, project: Path) -> Agent:
    return Agent(store, project, "ben")


def left(claim: Claim | None, session: Session) -> float:
    """Return the seconds that *claim* has to live."""
    assert claim is not None
    return expiry.remaining(claim.expires, session.now()).total_seconds()


def soon_over(agent: Agent, path: str) -> Claim:
    """Let the claim on *path* have ten seconds left."""
    claim = agent.claim(path)
    assert claim is not None
    shorter = claim._replace(expires=expiry.later(agent.session.now(), timedelta(seconds=10)))
    swap = agent.store.swap(claim.scoped, claim, shorter)
    assert swap.won and isinstance(swap.found, Claim)
    return swap.found


# What it claims


@pytest.mark.rule("U1")
def test_a_lock_that_is_held_undoes_no_denial(ada: Agent, ben: Agent, claims_lock: Callable[[], object]) -> None:
    """Whoever holds claims by tools or by edits renews or notes something at each event: that must not decide."""
    ada.edits("f1")
    session = ben.server()
    session.try_claim(f"file:{ben.directory}/f2", ttl_minutes=1)
    ben.edits("f3")
    soon_over(ben, "f2")
    claims_lock()
    reason = ben.edits("f1")
    assert reason is not None and "Another session has claimed this" in reason


@pytest.fixture
def claims_lock(store: FileStore) -> Iterator[Callable[[], object]]:
    """Lock the namespace of files, as a process does that is stopped in the middle of a change."""
    with ExitStack() as stack:

        def lock() -> None:
            file = stack.enter_context((Path(store.directory) / "places" / ".lock").open("rb+"))
            fcntl.flock(file, fcntl.LOCK_EX)

        yield lock


@pytest.mark.rule("U1")
def test_an_edit_claims_the_file_for_the_session_for_two_minutes_marked_as_the_guards(ada: Agent) -> None:
    assert ada.edits("f1", "call 1") is None
    claim = ada.claim("f1")
    assert claim is not None and claim.maker == Maker.GUARD
    assert (claim.holder.host_session, claim.holder.agent, claim.editing) == ("ada", None, "call 1")
    assert 115 < left(claim, ada.session) <= 120


@pytest.mark.rule("U1")
def test_another_session_is_denied_and_told_who_holds_it_since_when_and_what_to_do(ada: Agent, ben: Agent) -> None:
    ada.edits("f1")
    reason = ben.edits("f1")
    assert reason is not None
    claim = ada.claim("f1")
    assert claim is not None
    for part in (
        claim.holder.name,
        str(ada.directory / "f1"),
        "since",
        "until",
        "go on with something else",
        "try_claim",
    ):
        assert part in reason
    assert "hook" not in reason and "uninstall" not in reason, "it does not say how to get round it"
    assert ben.edits("f2") is None


@pytest.mark.rule("U1")
def test_a_directory_and_a_pattern_that_another_session_holds_cover_the_file(ada: Agent, ben: Agent) -> None:
    session = ada.server()
    for key in (f"file:{ada.directory}/src/", f"file:{ada.directory}/**/*.py"):
        assert session.try_claim(key).claimed
        assert ben.edits("src/a.py") is not None
        assert ben.edits("f1") is None
        session.release(key)
    assert ben.edits("src/a.py") is None


@pytest.mark.rule("U1")
def test_of_several_files_of_one_command_none_is_claimed_if_one_is_denied(ada: Agent, ben: Agent) -> None:
    ada.edits("f2")
    assert ben.runs("sed -i s/a/b/ f1 f2 f3") is not None
    assert ben.claim("f1") is None and ben.claim("f3") is None
    assert ben.runs("cd src && sed -i s/a/b/ ../f1 && echo f2") is None
    assert ben.claim("f1") is not None


@pytest.mark.rule("U1")
def test_what_is_in_the_way_for_a_moment_only_leaves_no_edit_without_a_claim(
    ada: Agent, ben: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a claim that is given back when another file of the same edit is denied."""
    read = Edits.read
    looks: list[ScopedKey] = []

    def gone(self: Edits, scoped: ScopedKey) -> AtFile:
        looks.append(scoped)
        if len(looks) == 1:
            at_file = read(self, scoped)
            assert ada.edits("f1") is None  # After the first look, before the claim.
            return at_file
        ada.event("Stop")
        return read(self, scoped)

    monkeypatch.setattr(Edits, "read", gone)
    assert ben.edits("f1") is None
    claim = ben.claim("f1")
    assert claim is not None and claim.holder.host_session == "ben"


@pytest.mark.rule("U1")
def test_a_claim_that_comes_between_the_look_and_the_claims_undoes_those_that_were_made(
    store: FileStore, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, ben = Agent(store, project, "ada"), Agent(store, project, "ben")
    swap = FileStore.swap
    seen: list[Claim] = []

    def racing(self: FileStore, scoped: object, old: object, new: Claim | None, **options: object) -> object:
        if new is not None and new.holder.host_session == "ben" and not seen and "f1" in new.scoped.key:
            seen.append(new)
            assert ada.edits("f2") is None
        return swap(self, scoped, old, new, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileStore, "swap", racing)
    reason = ben.runs("touch f1 f2")
    assert seen and reason is not None and "f2" in reason
    assert ben.claim("f1") is None


@pytest.mark.rule("U2")
def test_the_end_of_an_edit_starts_the_two_minutes_anew_and_the_end_of_the_turn_frees_it(
    ada: Agent, ben: Agent
) -> None:
    ada.edits("f1", "call 1")
    soon_over(ada, "f1")
    ada.has_edited("f1", "another call")
    assert left(ada.claim("f1"), ada.session) <= 10
    ada.has_edited("f1", "call 1")
    claim = ada.claim("f1")
    assert claim is not None and claim.editing is None and left(claim, ada.session) > 115
    assert ben.edits("f1") is not None
    ada.event("Stop")
    assert ben.edits("f1") is None


@pytest.mark.rule("U2")
def test_other_events_renew_what_tools_hold_to_their_own_ttl_and_nothing_of_the_guard(ada: Agent) -> None:
    session = ada.server()
    session.try_claim("an event", ttl_minutes=2)
    claim = store_claim(session, "an event")
    short = claim._replace(expires=expiry.later(session.now(), timedelta(seconds=10)))
    assert ada.store.swap(claim.scoped, claim, short).won
    ada.edits("f1")
    soon_over(ada, "f1")
    ada.event("UserPromptSubmit", prompt="go on")
    assert 115 < left(store_claim(session, "an event"), session) <= 120
    assert left(ada.claim("f1"), session) <= 10
    assert session.inspect("an event").held_by_you, "its session has lost nothing"


def store_claim(session: Session, key: str) -> Claim:
    (listed,) = session.read(key).claims
    assert isinstance(listed.found, Claim)
    return listed.found


@pytest.mark.rule("U2")
def test_what_a_tool_has_claimed_or_taken_over_outlives_the_turn(ada: Agent, ben: Agent) -> None:
    session = ada.server()
    assert session.try_claim(f"file:{ada.directory}/f1").claimed
    ada.edits("f2")
    before = ada.claim("f2")
    taken = session.try_claim(f"file:{ada.directory}/f2", note="the parser", ttl_minutes=10)
    assert taken.claimed and isinstance(taken.found, Claim) and before is not None
    assert (taken.found.generation, taken.found.note, taken.found.maker) == (
        before.generation,
        "the parser",
        Maker.LIBRARY,
    )
    assert left(taken.found, session) > 590
    for path in ("f1", "f2"):
        assert ada.edits(path) is None
        ada.has_edited(path)
    ada.event("Stop")
    assert ben.edits("f1") is not None and ben.edits("f2") is not None
    assert session.release(f"file:{ada.directory}/f2").released


@pytest.mark.rule("U2")
def test_a_directory_is_taken_over_with_what_the_guard_has_claimed_in_it(ada: Agent, ben: Agent) -> None:
    ada.edits("src/a.py")
    session = ada.server()
    assert session.try_claim(f"file:{ada.directory}/src/").claimed
    assert ben.edits("src/b.py") is not None
    ada.event("Stop")
    assert ben.edits("src/a.py") is not None, "the tool's claim is there"
    assert session.release(f"file:{ada.directory}/src/").released
    assert ben.edits("src/a.py") is None


# Whose it is


@pytest.mark.rule("U3")
def test_sub_agents_are_kept_from_each_others_files_and_one_that_ends_frees_all_it_held(
    store: FileStore, project: Path
) -> None:
    main = Agent(store, project, "ada")
    one, other = Agent(store, project, "ada", "one"), Agent(store, project, "ada", "other")
    assert one.edits("f1") is None
    reason = other.edits("f1")
    assert reason is not None and "Another agent of this session" in reason
    assert main.edits("f1") is not None
    assert one.server().try_claim("an event").claimed
    assert not other.server().try_claim("an event").claimed
    one.event("SubagentStop")
    assert other.edits("f1") is None
    assert other.server().try_claim("an event").claimed


@pytest.mark.rule("U3")
def test_what_the_session_has_claimed_is_its_sub_agents_too(store: FileStore, project: Path) -> None:
    main, one, other = (Agent(store, project, "ada", agent) for agent in (None, "one", "other"))
    session = main.server()
    session.try_claim(f"file:{project}/f1")
    assert one.edits("f1") is None and other.edits("f1") is None
    # What the guard has claimed for the session goes to the first that edits it.
    main.edits("f2")
    assert one.edits("f2") is None
    assert other.edits("f2") is not None and main.edits("f2") is not None


@pytest.mark.rule("U3")
def test_a_sub_agents_calls_of_our_tools_get_its_handle_and_a_session_of_the_models_own_stays(
    store: FileStore, project: Path
) -> None:
    main, one = Agent(store, project, "ada"), Agent(store, project, "ada", "one")
    asked = {"tool_name": "mcp__claims__try_claim", "tool_input": {"key": "k", "note": None}}
    answer = one.event("PreToolUse", **asked)
    assert answer.arguments is not None and set(answer.arguments) == {"key", "note", "session"}
    opened = Handles(store.secret()).check(answer.arguments["session"], None)
    assert (opened.host_session, opened.agent) == ("ada", "one")
    assert one.event("PreToolUse", **asked).arguments == answer.arguments, "the same each time"
    assert main.event("PreToolUse", **asked).arguments is None
    own = {"tool_name": "mcp__claims__release", "tool_input": {"key": "k", "session": "the model's"}}
    assert one.event("PreToolUse", **own).arguments is None
    for other in (
        "mcp__claims__prune",
        "mcp__claims__open_session",
        "mcp__others__release",
        "mcp__plugin_evil_my_claims__release",
    ):
        assert one.event("PreToolUse", tool_name=other, tool_input={}).arguments is None
    plugin = one.event("PreToolUse", tool_name="mcp__plugin_claims_claims__release", tool_input={"key": "k"})
    assert plugin.arguments is not None and "session" in plugin.arguments


@pytest.mark.rule("U3")
def test_the_end_of_the_session_frees_what_it_and_its_sub_agents_hold_and_nothing_else(
    store: FileStore, project: Path, ben: Agent
) -> None:
    main, one = Agent(store, project, "ada"), Agent(store, project, "ada", "one")
    main.edits("f1")
    one.edits("f2")
    main.server().try_claim("main's")
    one.server().try_claim("sub-agent's")
    named = named_session(store, "nightly")
    named.act_in(main.us)
    named.try_claim("of a lasting session")
    ben.edits("f3")
    main.event("SessionEnd", reason="clear")
    other = process_session(store)
    for key in ("main's", "sub-agent's", f"file:{project}/f1", f"file:{project}/f2"):
        assert other.try_claim(key).claimed, key
    assert not other.try_claim("of a lasting session").claimed
    assert not other.try_claim(f"file:{project}/f3").claimed


@pytest.mark.rule("U4")
def test_in_doubt_it_warns_and_a_strict_guard_denies(store: FileStore, project: Path, ada: Agent) -> None:
    named_session(store, "somebody").try_claim(f"file:{project}/f1")
    asked = {"tool_name": "Edit", "tool_input": {"file_path": str(project / "f1")}}
    answer = ada.event("PreToolUse", **asked)
    assert answer.denial is None and answer.warning is not None and "somebody" in answer.warning
    strict = Agent(store, project, "ada", strict=True)
    denial = strict.event("PreToolUse", **asked).denial
    assert denial is not None and "cannot be known" in denial


@pytest.mark.rule("U4")
def test_what_a_person_holds_is_denied(store: FileStore, project: Path, ada: Agent) -> None:
    person_session(store).try_claim(f"file:{project}/src/")
    assert ada.edits("src/a.py") is not None


# Modes


@pytest.mark.rule("U1")
def test_deny_claims_nothing_and_require_wants_a_claim_by_a_tool(store: FileStore, project: Path, ben: Agent) -> None:
    denying = Agent(store, project, "ada", mode=Mode.DENY)
    assert denying.edits("f1") is None and denying.claim("f1") is None
    ben.edits("f2")
    assert denying.edits("f2") is not None
    requiring = Agent(store, project, "ada", mode=Mode.REQUIRE)
    reason = requiring.edits("f1")
    assert reason is not None and f"try_claim with the key file:{project}/f1" in reason
    session = requiring.server()
    session.try_claim(f"file:{project}/f1")
    assert requiring.edits("f1") is None
    off = Agent(store, project, "cyd", mode=Mode.OFF)
    assert off.edits("f1") is None and off.edits("f2") is None


# Circles


@pytest.mark.rule("U5")
@pytest.mark.parametrize("young", ["ada", "ben"])
def test_a_denial_that_closes_a_cycle_says_so_and_the_younger_sessions_claims_go(
    ada: Agent, ben: Agent, young: str
) -> None:
    """Without a process, the session is the younger one whose claim is."""
    first, second = (ben, ada) if young == "ada" else (ada, ben)
    files = {"ada": "f1", "ben": "f2"}
    for agent in (first, second):
        own = files[agent.us.id or ""]
        agent.edits(own)
        agent.has_edited(own)
    assert ada.edits("f2") is not None
    reason = ben.edits("f1")
    if young == "ben":
        assert reason is not None and f"wants file:{ben.directory}/f2" in reason and "is free now" in reason
        assert ada.edits("f2") is None
    else:
        assert reason is None, "ada has given way"
        assert ada.edits("f1") is not None


@pytest.mark.rule("U5")
def test_what_is_being_edited_does_not_go(ada: Agent, ben: Agent) -> None:
    ben.edits("f2")
    ben.has_edited("f2")
    ada.edits("f1")
    assert ada.edits("f2", "call 2") is not None
    reason = ben.edits("f1")
    assert reason is not None and "each would wait for the other" in reason and "is free now" not in reason
    assert ada.claim("f1") is not None


@pytest.mark.rule("U5")
def test_a_session_that_goes_on_with_something_else_wants_nothing_any_more(ada: Agent, ben: Agent) -> None:
    ada.edits("f1")
    ada.has_edited("f1")
    ben.edits("f2")
    ben.has_edited("f2")
    assert ada.edits("f2") is not None
    assert ada.edits("f3") is None
    reason = ben.edits("f1")
    assert reason is not None and "each would wait" not in reason
