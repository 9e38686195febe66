"""Lists cost what they return, and many claims end in few requests."""

from __future__ import annotations

import secrets
from base64 import b64decode
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
from mcp_claims.stores.etcd import pages
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.machines import World

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
@pytest.mark.parametrize("ahead", [1_024, 128])
def test_a_long_list_is_read_in_growing_pages_and_a_slow_one_in_small_ones(
    direct: EtcdStore, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(pages, "_AHEAD", ahead)
    session = process_session(direct)
    for number in range(300):
        session.try_claim(f"{number:03}")
    for slow, sizes in ((0.0, ["64"] * 5), (60.0, ["64", "128", "256"])):
        monkeypatch.setattr(pages, "_SLOW", slow)
        with counted(monkeypatch) as sent:
            assert [each.scoped.key for each in direct.scan() if isinstance(each, Claim)] == [
                f"{number:03}" for number in range(300)
            ]
        assert [body["limit"] for _, body in sent] == sizes


@pytest.mark.rule("E17")
def test_a_page_is_asked_for_no_further_than_it_went_the_last_time_and_nothing_is_left_out(
    direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = process_session(direct)
    numbers = list(range(100, 300))
    for number in numbers:
        session.try_claim(f"{number}")

    def listed() -> list[str]:
        with counted(monkeypatch) as sent:
            first = session.list_claims()
        assert first.after is not None
        ends.append(b64decode(sent[0][1]["range_end"]).rpartition(b"/")[2])
        rest = session.list_claims(after=first.after, limit=1_000)
        return [each.found.scoped.key for each in (*first.claims, *rest.claims) if isinstance(each.found, Claim)]

    ends = list[bytes]()
    assert listed() == [f"{number}" for number in numbers]
    # One comes before that end, many go, and some come behind it.
    for number in (*range(100, 160), *range(180, 200)):
        session.release(f"{number}")
    for number in (90, 300, 301):
        session.try_claim(f"{number:03}")
    expected = ["090", *(f"{number}" for number in (*range(160, 180), *range(200, 302)))]
    assert [listed(), listed(), listed()] == [expected] * 3
    assert ends[1] == b"163\0", "it did not ask for a part"
    assert ends[2] != ends[1] and ends[3].endswith(b"\0"), "it kept an end before which there is too little"


@pytest.mark.rule("E17")
def test_many_dead_claims_go_in_few_requests_and_one_that_was_renewed_meanwhile_stays(
    config: EtcdConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    store = EtcdStore(config, world.process())
    gone, renewing = (named_session(store, name, machine=world.process()) for name in ("gone", "renewing"))
    for number in range(MANY):
        (renewing if number == 70 else gone).try_claim(
            f"{number:03}", ttl_minutes=1, note="for" if number < 64 else None
        )
    world.pass_time(61)
    swap_all, renewed = EtcdStore.swap_all, list[str]()

    def late(self: EtcdStore, changes: Any, **options: Any) -> Any:
        if len(changes) > 1 and any(each.scoped.key == "070" for each in changes) and not renewed:
            renewed.append("070")
            assert renewing.try_claim("070", ttl_minutes=5).claimed
        return swap_all(self, changes, **options)

    monkeypatch.setattr(EtcdStore, "swap_all", late)
    with counted(monkeypatch) as sent:
        result = process_session(store, world.process()).prune()
    assert renewed
    assert (result.expired, result.failed) == (MANY - 1, ())
    assert len(sent) < MANY, "one by one"
    assert {each.scoped.key for each in store.scan() if isinstance(each, Claim)} == {
        "070",
        *(f"{number:03}" for number in range(64)),
    }, "a full transaction of markers failed"


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
