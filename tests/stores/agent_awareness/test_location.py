"""Which of the directories of agent-awareness is used, and which choice is refused."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.doctor.claims import check_claims_directory
from mcp_claims.doctor.finding import Level
from mcp_claims.errors import InvalidInputError, MovedDirectoryError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.config import open_store
from tests.stores.agent_awareness.samples import store_in
from tests.stores.samples import KEY, claim, grant, renewed

LAYOUT = "agent-awareness"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The directory in which agent-awareness keeps its state, of a home that has none yet."""
    return tmp_path / ".cache" / "agent-awareness"


def chosen(state: Path, provider: str | None = None, directory: Path | None = None, **variables: str) -> Path:
    """Return the directory that is chosen, relative to *state*."""
    environment = {"HOME": str(state.parents[1]), **variables}
    directory_given = None if directory is None else str(directory)
    store = open_store(directory_given, layout=LAYOUT, provider=provider, environment=environment)
    assert isinstance(store, AgentAwarenessStore)
    return Path(store.directory).relative_to(state)


def start_version(state: Path, provider: str | None) -> None:
    """Leave the files of a session of *provider*, or of one before version 0.5, which has none."""
    directory = state if provider is None else state / provider
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state.json").write_text("{}\n")
    if provider is None:
        (directory / "claims" / "plugin").mkdir(parents=True)


@pytest.mark.rule("A1")
@pytest.mark.parametrize("provider", ["claude-code", "codex", "somebody-elses"])
def test_the_only_provider_is_the_default(state: Path, provider: str) -> None:
    start_version(state, provider)
    # The program has other directories there, and in a claims directory a plugin may have any name.
    (state / "codex-live" / "run-1").mkdir(parents=True)
    (state / provider / "claims" / "plugin").mkdir(parents=True)
    assert chosen(state) == Path(provider, "claims")


@pytest.mark.rule("A1")
def test_where_the_choice_is_open_it_is_refused_with_the_names(state: Path) -> None:
    with pytest.raises(InvalidInputError, match="provider must be claude-code or codex, since there are no claims in"):
        chosen(state)
    start_version(state, "claude-code")
    start_version(state, "codex")
    with pytest.raises(InvalidInputError, match="provider must name one of claude-code, codex"):
        chosen(state)
    assert chosen(state, "codex") == Path("codex", "claims")
    assert chosen(state, MCP_CLAIMS_PROVIDER="claude-code") == Path("claude-code", "claims")


@pytest.mark.rule("A1")
@pytest.mark.parametrize("mistyped", ["claude", "Claude-Code", "codex ", "codex-cli", "claims", "..", "a/b", ""])
def test_a_mistyped_provider_is_refused_and_makes_nothing(state: Path, mistyped: str) -> None:
    start_version(state, "claude-code")
    # An earlier version has made a directory for one that was mistyped.
    (state / "claude" / "claims" / "ci").mkdir(parents=True)
    with pytest.raises(
        InvalidInputError, match=r"provider must be (one that has run here \(claude-code, codex\)|the name of)"
    ):
        chosen(state, mistyped)
    assert sorted(path.name for path in state.iterdir()) == ["claude", "claude-code"]


@pytest.mark.rule("A1")
def test_a_provider_that_has_not_run_yet_can_be_named(state: Path) -> None:
    assert chosen(state, "codex") == Path("codex", "claims")


@pytest.mark.rule("A1")
def test_the_flat_directory_is_used_only_where_no_newer_version_has_run(state: Path) -> None:
    start_version(state, None)
    assert chosen(state) == Path("claims")
    start_version(state, "codex")
    assert chosen(state) == Path("codex", "claims")
    for given in ({"directory": state / "claims"}, {"MCP_CLAIMS_DIR": str(state / "claims")}):
        with pytest.raises(InvalidInputError, match=r"where agent-awareness looked before version 0\.5.*codex"):
            chosen(state, **given)


@pytest.mark.rule("A1")
def test_a_directory_and_a_provider_are_two_places_unless_one_is_an_option(state: Path, tmp_path: Path) -> None:
    both = {"MCP_CLAIMS_DIR": str(state / "claims"), "MCP_CLAIMS_PROVIDER": "codex"}
    for arguments in ({"directory": state / "claims", "provider": "codex"}, both):
        with pytest.raises(InvalidInputError, match="provider and a directory ask for two stores"):
            chosen(state, **arguments)
    assert chosen(state, "codex", MCP_CLAIMS_DIR=str(state / "claims")) == Path("codex", "claims")
    assert chosen(state, directory=state / "mine", MCP_CLAIMS_PROVIDER="codex") == Path("mine")


@pytest.mark.rule("A14")
def test_a_session_in_the_flat_directory_claims_and_renews_no_more_once_a_newer_version_has_run(state: Path) -> None:
    start_version(state, None)
    store = store_in(state / "claims")
    granted, other = grant(store, claim()), grant(store, claim(ScopedKey("ci", "other")))
    start_version(state, "claude-code")
    for new in (claim(ScopedKey("ci", "new")), renewed(granted)):
        with pytest.raises(MovedDirectoryError, match=r"since version 0\.5 each provider has a directory of its own"):
            store.swap(new.scoped, granted if new.scoped == KEY else None, new)
    # What is held can be released, and nothing is made again where it was moved away.
    assert store.swap(other.scoped, other, None).won
    shutil.rmtree(state / "claims")
    with pytest.raises(MovedDirectoryError):
        store_in(state / "claims").swap(KEY, None, claim())
    assert not (state / "claims").exists()


@pytest.mark.rule("A14")
def test_a_claim_that_was_removed_with_its_directory_is_lost_and_not_renewed_into_a_new_one(state: Path) -> None:
    store = store_in(state / "codex" / "claims")
    session = process_session(store)
    found = session.try_claim("red", "ci").found
    for removed in (state / "codex" / "claims" / "ci", state / "codex" / "claims"):
        shutil.rmtree(removed)
        fresh = process_session(store_in(state / "codex" / "claims"))
        assert isinstance(found, Claim)
        assert session.renew(found, timedelta(minutes=1)) is None
        assert not store_in(state / "codex" / "claims").swap(found.scoped, found, found).won
        assert not removed.exists()
        lost = session.try_claim("red", "ci")
        assert lost.lost, "the next call reports it"
        assert fresh.try_claim("red", "ci").found == lost.found
        found = lost.found


def doctor_on(store: AgentAwarenessStore) -> list[tuple[Level, str]]:
    findings = check_claims_directory(Path(store.directory), store, local_machine())
    return [(finding.level, finding.what) for finding in findings if finding.check == "provider"]


@pytest.mark.rule("A1")
def test_doctor_says_with_whose_sessions_the_claims_are_shared(state: Path) -> None:
    start_version(state, None)
    ((level, what),) = doctor_on(store_in(state / "claims"))
    assert level is Level.WARNING and "before version 0.5" in what
    start_version(state, "codex")
    ((level, what),) = doctor_on(store_in(state / "claims"))
    assert level is Level.FAILURE and "not where sessions of codex look" in what
    assert doctor_on(store_in(state / "codex" / "claims")) == [
        (Level.OK, "claims are shared with the sessions of codex")
    ]
    start_version(state, "claude-code")
    ((level, what),) = doctor_on(store_in(state / "codex" / "claims"))
    assert level is Level.WARNING and "sessions of claude-code have claims of their own" in what


@pytest.mark.rule("A1")
def test_a_session_by_name_finds_its_claim_where_the_first_start_of_a_newer_version_has_moved_it(state: Path) -> None:
    start_version(state, None)
    named_session(store_in(state / chosen(state)), "ci").try_claim("red", "ci")
    # The migration copies the directory, and removes the old one.
    start_version(state, "codex")
    shutil.copytree(state / "claims", state / "codex" / "claims")
    shutil.rmtree(state / "claims")
    assert named_session(store_in(state / chosen(state)), "ci").inspect("red", "ci").held_by_you
