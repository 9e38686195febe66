"""A claims with a note and is killed; B looks, on whichever surface, and then claims: it is told A's note."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import Commands
from tests.support.etcd import fresh_config
from tests.support.http_servers import http_client, http_server
from tests.support.servers import BOTH_STAGES, RawServer, raw_server, structured_of, text_of

pytestmark = pytest.mark.anyio

KEY, NOTE = "red", "half of it is pushed to ci/fix"


@pytest.fixture
def killed(claims_dir: Path) -> str:
    """Let a server claim the key with a note, kill it, and return the name of its session."""
    return kill_a_holder(raw_server(claims_dir))


def kill_a_holder(starting: AbstractContextManager[RawServer]) -> str:
    with starting as server:
        claimed = server.call("try_claim", key=KEY, note=NOTE)
        assert claimed["claimed"]
        server.process.kill()
        server.process.wait()
        return str(claimed["holder"])


def looks_in_the_library(directory: Path) -> None:
    session = process_session(FileStore(directory))
    marker = session.inspect(KEY).marker
    assert marker is not None and marker.note == NOTE


def looks_at_the_shell(directory: Path) -> None:
    commands = Commands(directory)
    checked = commands("check", KEY)
    assert (checked.returncode, checked.stdout.startswith("FREE: nobody holds")) == (0, True)
    assert NOTE in checked.stdout and "whose process is dead" in checked.stdout
    (listed,) = commands.json("list")["claims"]
    assert (listed["state"], listed["note"]) == ("orphaned", NOTE)
    shown = commands.json("show", KEY)
    assert (shown["state"], shown["note"]) == ("orphaned", NOTE)


def prunes_at_the_shell(directory: Path) -> None:
    commands = Commands(directory)
    pruned = commands.json("prune")
    assert (pruned["orphaned"], pruned["expired"]) == (1, 0)
    again = commands.json("prune")
    assert (again["orphaned"], again["expired"], again["outcomes"]) == (0, 0, 1)


def looks_over_stdio(directory: Path) -> None:
    with raw_server(directory) as server:
        checked = server.call("is_claimed_by_other", key=KEY)
        assert (checked["claimed_by_other"], checked["outcome"], checked["note"]) == (False, "orphaned", NOTE)
        (listed,) = server.call("list_claims")["claims"]
        assert (listed["state"], listed["note"]) == ("orphaned", NOTE)
        assert server.call("prune")["orphaned"] == 0


LOOKS = pytest.mark.parametrize(
    "look", [None, looks_in_the_library, looks_at_the_shell, prunes_at_the_shell, looks_over_stdio]
)


def check_told(previous: dict[str, object], holder: str) -> None:
    assert previous.pop("ended_at") and str(previous.pop("client")).startswith("raw 1")
    assert previous == {"state": "orphaned", "holder": holder, "generation": 1, "note": NOTE}


@pytest.mark.rule("C14")
@LOOKS
def test_over_stdio_and_at_the_shell(killed: str, claims_dir: Path, look: Callable[[Path], None] | None) -> None:
    if look is not None:
        look(claims_dir)
    if look is looks_over_stdio:
        taken = Commands(claims_dir)("try", KEY, "--session", "ci")
        assert taken.returncode == 0 and NOTE in taken.stdout and killed in taken.stdout
        return
    with raw_server(claims_dir) as server:
        check_told(server.call("try_claim", key=KEY)["previous"], killed)


@BOTH_STAGES
def test_each_stage_of_a_server_on_stdio_tells_it(killed: str, claims_dir: Path, options: list[str]) -> None:
    with raw_server(claims_dir, *options) as server:
        assert server.call("is_claimed_by_other", key=KEY)["note"] == NOTE
        check_told(server.call("try_claim", key=KEY)["previous"], killed)


async def test_over_http_the_text_alone_tells_it(killed: str, claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        async with http_client(server.url, "legacy") as client:
            looked = await client.call_tool("is_claimed_by_other", {"key": KEY})
            assert text_of(looked).startswith("FREE: nobody holds") and NOTE in text_of(looked)
            taken = await client.call_tool("try_claim", {"key": KEY})
            for part in ("CLAIMED", killed, "whose process is dead", NOTE):
                assert part in text_of(taken)
            check_told(structured_of(taken)["previous"], killed)


@pytest.mark.parametrize("looks", [False, True], ids=["at once", "after a look"])
def test_on_etcd(looks: bool) -> None:
    config = fresh_config()
    holder = kill_a_holder(raw_server(None, "--store", str(config)))
    session = process_session(EtcdStore(config, local_machine()))
    if looks:
        # On this machine its death is proved, so the first look writes the marker.
        assert session.prune().orphaned == 1
        marker = session.inspect(KEY).marker
        assert marker is not None and marker.note == NOTE
        assert (session.prune().orphaned, session.prune().markers) == (0, 1)
    taken_over = session.try_claim(KEY).taken_over
    assert taken_over is not None and isinstance(taken_over.found, Claim)
    assert (taken_over.state.value, taken_over.found.holder.name, taken_over.found.note) == ("orphaned", holder, NOTE)
