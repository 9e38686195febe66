"""Lists cost what they return, and many claims end in few requests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import held
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import handle_session, named_session, process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.store import EtcdStore

MANY = 150


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Collect the requests of this process in the block, those of its keep-alive too."""
    sent, call = list[tuple[str, Any]](), Gateway.call

    def noting(gateway: Gateway, path: str, body: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        if not path.startswith("/lease"):
            sent.append((path, body))
        return call(gateway, path, body, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Gateway, "call", noting)
        yield sent


def keys_of(session: Session, **options: Any) -> list[str]:
    """Return the keys of the whole list, by pages of 40."""
    keys, after = list[str](), ""
    while True:
        page = session.list_claims(after=after, limit=40, **options)
        keys += [each.found.scoped.key for each in page.claims if isinstance(each.found, Claim)]
        if page.after is None:
            return keys
        after = page.after


@pytest.mark.rule("E17")
def test_the_list_of_ones_own_claims_reads_those_alone(direct: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    others, session = named_session(direct, "others"), process_session(direct)
    for number in range(MANY):
        others.try_claim(f"theirs {number:03}")
    for number in range(50):
        session.try_claim(f"ours {number:03}")
    session.release("ours 001")
    session.release("ours 002", outcome=Outcome.DONE)
    session.try_claim("elsewhere", "other")
    with counted(monkeypatch) as sent:
        listed = keys_of(session, mine=True)
    assert listed == [*(f"ours {number:03}" for number in range(50) if number != 1), "elsewhere"]
    assert all(path != "/kv/range" for path, _ in sent) and len(sent) <= 4, "it read the claims of others"
    assert keys_of(session, mine=True, namespace="other") == ["elsewhere"]
    # Others of its name may have claimed through other processes.
    assert len(keys_of(named_session(direct, "others"), mine=True)) == MANY


@pytest.mark.rule("E17")
@pytest.mark.parametrize("shared", [False, True])
def test_the_list_of_ones_own_claims_has_what_is_kept_for_the_session(direct: EtcdStore, shared: bool) -> None:
    holder, waiter, refused = process_session(direct), process_session(direct), Event()
    assert holder.try_claim("red").claimed

    def wait() -> None:
        request = ClaimRequest.parse(key="red", wait_seconds=120, shared=shared)
        assert acquire(waiter, request, reserve=True, refused=lambda _: refused.set()).status is Status.YOUR_TURN

    (waiting := Thread(target=wait)).start()
    assert refused.wait(60)
    while not direct.tickets(None):
        sleep(0.01)
    holder.release("red")
    waiting.join()
    (listed,) = waiter.list_claims(mine=True).claims
    assert listed.state is ClaimState.RESERVED


@pytest.mark.rule("E17")
def test_the_list_of_ones_own_claims_has_what_the_session_has_revoked(direct: EtcdStore) -> None:
    session, granted = process_session(direct), process_session(direct).try_claim("red").found
    assert isinstance(granted, Claim) and session.revoke(granted, "it hangs")
    assert [each.state for each in session.list_claims(mine=True).claims] == [ClaimState.REVOKED]


@pytest.mark.rule("E17")
def test_where_a_session_knows_of_too_many_keys_the_whole_list_is_read(
    direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "_MAX_KNOWN", 3)
    session = process_session(direct)
    for number in range(5):
        session.try_claim(f"ours {number}")
        session.release(f"ours {number}", outcome=Outcome.DONE)
    assert keys_of(session, mine=True) == [f"ours {number}" for number in range(5)]


@pytest.mark.rule("E17")
def test_the_list_of_a_handles_claims_has_what_another_process_claims_for_it(
    direct: EtcdStore, config: EtcdConfig
) -> None:
    machine = local_machine()
    for of_agent in (True, False):
        nonce = secrets.token_bytes(16)
        ours, others = (
            handle_session(store, machine, machine.pid(), nonce, bound=True, of_agent=of_agent)
            for store in (direct, EtcdStore(config, machine))
        )
        assert others.try_claim(f"red {of_agent}").claimed
        assert keys_of(ours, mine=True) == [f"red {of_agent}"]


@pytest.mark.rule("E17")
def test_a_long_list_is_read_in_growing_pages_and_a_slow_one_in_small_ones(
    direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = process_session(direct)
    for number in range(300):
        session.try_claim(f"{number:03}")
    for slow, sizes in ((60.0, ["64", "128", "256"]), (0.0, ["64"] * 5)):
        monkeypatch.setattr(etcd_store, "_SLOW_PAGE", slow)
        with counted(monkeypatch) as sent:
            assert [each.scoped.key for each in direct.scan() if isinstance(each, Claim)] == [
                f"{number:03}" for number in range(300)
            ]
        assert [body["limit"] for _, body in sent] == sizes


@pytest.mark.rule("E17")
def test_a_session_with_many_claims_ends_in_few_requests(direct: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = process_session(direct)
    for number in range(MANY):
        assert session.try_claim(f"{number}").claimed
    session.try_claim("two", also=["together"])
    session.try_claim("shared", shared=True)
    direct.discard(next(each for each in direct.scan() if isinstance(each, Claim) and each.scoped.key == "77"))
    with counted(monkeypatch) as sent:
        assert session.close() >= MANY - 1
    assert len(sent) < MANY, "one by one"
    assert list(direct.scan()) == []
