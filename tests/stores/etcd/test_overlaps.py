"""Claims on files on etcd: each of them, granted or renewed, excludes those that are judged at the same time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim, Unreadable
from mcp_claims.session.results import Status
from mcp_claims.stores.etcd import gateway
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.overlaps import any_other, file, grant_file
from tests.stores.samples import claim, renewed
from tests.support.etcd import fresh_config, fresh_store
from tests.support.machines import World


@pytest.mark.rule("K11")
def test_a_claim_on_a_directory_that_expired_is_not_renewed_beside_that_on_a_file_of_it() -> None:
    world, config = World(), fresh_config()
    first, second = (world.session(EtcdStore(config, world.process())) for _ in range(2))
    old = first.try_claim("file:/x/src/", ttl_minutes=1).found
    assert isinstance(old, Claim)
    world.pass_time(61)
    new = second.try_claim("file:/x/src/a.py")
    assert new.claimed
    refused = first.try_claim("file:/x/src/")
    assert (refused.status, refused.found) == (Status.HELD, new.found)
    assert first.renew(old, timedelta(minutes=1)) is None
    assert second.release("file:/x/src/a.py").released
    assert first.try_claim("file:/x/src/").claimed


@pytest.mark.rule("K11")
def test_a_renewal_that_is_judged_beside_a_grant_makes_that_look_again() -> None:
    store = fresh_store()
    expired = grant_file(store, "/x/src/")
    judged: list[Claim | Unreadable] = []

    def is_expired_at_first(found: Claim | Unreadable) -> bool:
        judged.append(found)
        if len(judged) == 1:
            assert store.swap(expired.scoped, expired, renewed(expired), blocks=any_other).won
            return False
        return True

    wanted = file("/x/src/a.py")
    lost = store.swap(wanted, None, claim(wanted, session=2), blocks=is_expired_at_first)
    assert not lost.won and lost.overlap == renewed(expired) and len(judged) == 2
    assert store.read(wanted) is None


def test_a_call_that_others_have_kept_busy_until_its_end_does_not_say_that_etcd_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, wanted = fresh_store(), file("/x/src/a.py")
    assert store.read(wanted) is None

    def renewed_by_others_for_so_long(_: Claim | Unreadable) -> bool:
        monkeypatch.setattr(gateway, "_MIN_TIME_LEFT", gateway.CALL_TIMEOUT)
        return False

    grant_file(store, "/x/src/")
    with pytest.raises(StoreUnavailableError, match="though etcd answers: others keep changing the same keys"):
        store.swap(wanted, None, claim(wanted, session=2), blocks=renewed_by_others_for_so_long)
