"""What somebody else has put below the prefix, or what was damaged there."""

from __future__ import annotations

import pytest

from mcp_claims.model.records import ScopedKey, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.keys import Keyspace
from tests.support.etcd import fresh_store
from tests.support.etcd_keys import lease_of, read_raw, write_raw

KEY = ScopedKey("default", "red")


@pytest.mark.rule("E10")
def test_a_list_in_pages_contains_everything_even_where_others_put_junk() -> None:
    store = fresh_store()
    gateway, prefix = Gateway(store.config), Keyspace(store.config.prefix).claims_prefix
    session = process_session(store)
    for key in ("a", "\N{SNOWMAN}", "\N{GRINNING FACE}"):
        assert session.try_claim(key).claimed
    for junk in (b"", b"default/\xff\xfe", b"default/\n", b"\x80"):
        gateway.call("/kv/put", messages.put_request(prefix + junk, b"\xff"), deadline_in(5))
    seen, after = [], ""
    while True:
        listing = session.list_claims(after=after, limit=1)
        seen += [each.found for each in listing.claims]
        if listing.after is None:
            break
        after = listing.after
    assert seen == list(store.scan()) and len(seen) == 7


@pytest.mark.rule("E10")
def test_a_claim_under_no_lease_is_held_until_a_person_frees_it() -> None:
    store = fresh_store()
    session = process_session(store)
    assert session.try_claim(KEY.key).claimed
    write_raw(store, KEY, read_raw(store, KEY))
    attempt = process_session(store).try_claim(KEY.key)
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Unreadable)
    assert "under no lease" in attempt.found.problem
    assert session.revoke(attempt.found)
    assert store.read(KEY) is None


def test_a_record_about_another_key_does_not_count_as_a_claim_on_either() -> None:
    store = fresh_store()
    session = process_session(store)
    assert session.try_claim("other").claimed
    other = ScopedKey("default", "other")
    write_raw(store, KEY, read_raw(store, other), lease_of(store, other))
    found = store.read(KEY)
    assert isinstance(found, Unreadable) and "another key" in found.problem
    assert list(store.scan()) == [store.read(other), found]
