"""Handles: unguessable, signed, for one caller, and the same error for whatever is wrong with one."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_claims.errors import InvalidInputError, InvalidSessionError
from mcp_claims.model.validation import MAX_LABEL_BYTES
from mcp_claims.session.handles import Handles

SECRET = bytes(range(32))
ALPHABET = string.ascii_letters + string.digits + "-_"
callers = st.none() | st.text(max_size=20)


@given(st.integers(1, 2**22), st.none() | st.text(max_size=15), callers)
def test_a_handle_stands_for_what_it_was_issued_for_on_every_server_with_the_secret(
    pid: int, label: str | None, caller: str | None
) -> None:
    handle, opened = Handles(SECRET).issue(pid, label, caller)
    assert Handles(SECRET).check(handle, caller) == opened
    assert opened.pid == pid
    assert set(handle) <= set(ALPHABET)


def test_a_handle_has_128_random_bits_and_no_two_are_alike() -> None:
    issued = [Handles(SECRET).issue(7, None, None) for _ in range(1_000)]
    assert len({handle for handle, _ in issued}) == len({opened.nonce for _, opened in issued}) == 1_000
    assert {len(opened.nonce) for _, opened in issued} == {16}


@pytest.mark.rule("I3")
def test_every_single_wrong_character_is_refused() -> None:
    handle, _ = Handles(SECRET).issue(4_711, "tests", "ada")
    for place in range(len(handle)):
        for character in ALPHABET:
            typed = handle[:place] + character + handle[place + 1 :]
            if typed != handle:
                with pytest.raises(InvalidSessionError):
                    Handles(SECRET).check(typed, "ada")


@given(st.text(max_size=200))
def test_no_other_text_is_a_handle_and_the_error_is_always_the_same(text: str) -> None:
    with pytest.raises(InvalidSessionError) as refusal:
        Handles(SECRET).check(text, None)
    assert str(refusal.value) == str(InvalidSessionError())


@pytest.mark.rule("I3")
def test_a_handle_works_neither_for_another_caller_nor_without_one_nor_with_another_secret() -> None:
    handle, _ = Handles(SECRET).issue(7, None, "ada")
    anonymous, _ = Handles(SECRET).issue(7, None, None)
    for secret, given_, caller in (
        (SECRET, handle, "ben"),
        (SECRET, handle, None),
        (SECRET, anonymous, "ada"),
        (SECRET, anonymous, ""),
        (bytes(32), handle, "ada"),
    ):
        with pytest.raises(InvalidSessionError):
            Handles(secret).check(given_, caller)


def test_a_handle_cut_or_padded_or_spelt_in_the_other_alphabet_is_refused() -> None:
    handle, _ = Handles(SECRET).issue(7, "label", None)
    raw = base64.urlsafe_b64decode(handle + "=" * (-len(handle) % 4))
    for typed in (handle[:-1], handle + "A", handle + "=", f" {handle}", f"{handle}\n", "", "A" * 10_000):
        with pytest.raises(InvalidSessionError):
            Handles(SECRET).check(typed, None)
    for bits in (raw[:-1], raw + b"x", raw[:36]):
        with pytest.raises(InvalidSessionError):
            Handles(SECRET).check(base64.urlsafe_b64encode(bits).rstrip(b"=").decode(), None)


def test_what_a_handle_stands_for_does_not_show_its_secret() -> None:
    _, opened = Handles(SECRET).issue(7, None, None)
    assert opened.nonce.hex() not in repr(opened) and repr(opened.nonce) not in repr(opened)


@pytest.mark.parametrize("label", ["x" * (MAX_LABEL_BYTES + 1), "é" * (MAX_LABEL_BYTES // 2 + 1)])
def test_a_label_that_is_too_long_is_refused(label: str) -> None:
    with pytest.raises(InvalidInputError, match="at most 60 bytes"):
        Handles(SECRET).issue(7, label, None)


@pytest.mark.rule("U3")
@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100), callers)
def test_the_handle_of_a_sub_agent_is_the_same_each_time_and_says_whose_it_is(
    host_session: str, agent: str, caller: str | None
) -> None:
    host_session, agent = (text.replace("\0", "-").encode(errors="replace").decode() for text in (host_session, agent))
    handle, opened = Handles(SECRET).issue_for_agent(host_session, agent)
    assert Handles(SECRET).issue_for_agent(host_session, agent) == (handle, opened)
    assert Handles(SECRET).check(handle, caller) == opened
    assert (opened.host_session, opened.agent) == (host_session, agent)


@pytest.mark.rule("U3")
def test_no_text_but_what_a_hook_with_the_secret_made_is_the_handle_of_a_sub_agent() -> None:
    handle, opened = Handles(SECRET).issue_for_agent("session", "agent")
    other, of_other = Handles(SECRET).issue_for_agent("session", "agent 2")
    assert other != handle and of_other.nonce != opened.nonce
    for place in range(len("agent."), len(handle)):
        for character in ALPHABET:
            typed = handle[:place] + character + handle[place + 1 :]
            if typed != handle:
                with pytest.raises(InvalidSessionError):
                    Handles(SECRET).check(typed, None)
    for wrong in ("agent.", "agent.AAAA", handle.removeprefix("agent."), handle + "A", "agent." + "A" * 4_000):
        with pytest.raises(InvalidSessionError):
            Handles(SECRET).check(wrong, None)
    with pytest.raises(InvalidSessionError):
        Handles(bytes(32)).check(handle, None)
