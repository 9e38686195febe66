"""Lists cost what they return, and many claims end in few requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_claims.model.records import Claim, Outcome
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd import store as etcd_store
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
