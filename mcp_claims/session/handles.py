"""Session handles: unguessable, signed, and remembered by no server.

A handle is the URL-safe base64 of 16 random bytes, the PID of the process that issued it, a MAC (HMAC-SHA-256, cut to
16 bytes) and the session's label.  The MAC is made with the secret of the store and covers the caller that the handle
was issued to.  So every server on the store can check a handle, a mistyped one is no new identity, and a stolen one is
useless without the caller's token.

A hook of a host makes one for each sub-agent of a session, `agent.` and the base64 of a MAC and of the two ids.  It is the
same each time, and has no PID: the server that receives it first binds it to its own process.
"""

import base64
import binascii
import os
from typing import NamedTuple

from mcp_claims.errors import InvalidSessionError
from mcp_claims.model.digest import equal_in_constant_time, hmac_sha256, sha256
from mcp_claims.model.validation import MAX_LABEL_BYTES, parse_label
from mcp_claims.session.host_session import MAX_ID

_NONCE_BYTES, _PID_BYTES, _MAC_BYTES = 16, 4, 16
_FIXED_BYTES = _NONCE_BYTES + _PID_BYTES + _MAC_BYTES
_LONGEST = (_FIXED_BYTES + MAX_LABEL_BYTES) * 4 // 3 + 4
_PURPOSE = b"mcp-claims session handle 1"
_NAMED_PURPOSE = b"mcp-claims named session 1"
_AGENT_PURPOSE = b"mcp-claims session of a sub-agent 1"
_AGENT = "agent."
_LONGEST_AGENT = len(_AGENT) + (_MAC_BYTES + 2 * 4 * MAX_ID + 1) * 4 // 3 + 4
_NO_PID = 0


class OpenedSession(NamedTuple):
    """The content of a handle: the secret nonce of the session, the PID of the issuing process, the label.

    That of a sub-agent has no PID, and the ids of the host's session and of the agent.
    """

    nonce: bytes
    pid: int
    label: str | None
    host_session: str | None = None
    agent: str | None = None

    def __repr__(self) -> str:
        return f"OpenedSession(pid={self.pid!r}, label={self.label!r})"  # Nobody logs the secret.


class Handles:
    """Issues and checks handles, and knows the sessions that callers name, with the *secret* of the store."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, pid: int, label: str | None, caller: str | None) -> tuple[str, OpenedSession]:
        """Return a new handle, for *caller* alone if there is one, and its content.

        The label is for people: at most 60 bytes of UTF-8.  Raises `InvalidInputError`.
        """
        text = (parse_label(label) or "").encode()
        body = os.urandom(_NONCE_BYTES) + pid.to_bytes(_PID_BYTES)
        handle = base64.urlsafe_b64encode(body + self._mac(body, text, caller) + text).rstrip(b"=").decode()
        return handle, OpenedSession(body[:_NONCE_BYTES], pid, text.decode() or None)

    def check(self, handle: str, caller: str | None) -> OpenedSession:
        """Return the content of *handle*; raise `InvalidSessionError`, always the same, if it is not *caller*'s."""
        data = decode_handle(handle)
        if handle.startswith(_AGENT):
            return self._of_agent(data)
        body, mac, text = (
            data[: _FIXED_BYTES - _MAC_BYTES],
            data[_FIXED_BYTES - _MAC_BYTES : _FIXED_BYTES],
            data[_FIXED_BYTES:],
        )
        if not equal_in_constant_time(mac, self._mac(body, text, caller)):
            raise InvalidSessionError
        return OpenedSession(body[:_NONCE_BYTES], int.from_bytes(body[_NONCE_BYTES:]), text.decode() or None)

    def issue_for_agent(self, host_session: str, agent: str) -> tuple[str, OpenedSession]:
        """Return the handle of the sub-agent *agent* in the host's session *host_session*, and its content."""
        text = f"{host_session}\0{agent}".encode(errors="replace")
        data = hmac_sha256(self._secret, _AGENT_PURPOSE + text)[:_MAC_BYTES] + text
        return _AGENT + base64.urlsafe_b64encode(data).rstrip(b"=").decode(), self._of_agent(data)

    def of_agent(self, host_session: str, agent: str | None) -> OpenedSession:
        """Return the session of *agent* in the host's session *host_session*; `None` is that session's own agent."""
        return self.issue_for_agent(host_session, agent or "")[1]

    def _of_agent(self, data: bytes) -> OpenedSession:
        # For every caller: the hook that made it does not know as whom its host authenticates itself.
        mac, text = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not equal_in_constant_time(mac, hmac_sha256(self._secret, _AGENT_PURPOSE + text)[:_MAC_BYTES]):
            raise InvalidSessionError
        host_session, _, agent = text.decode().partition("\0")
        return OpenedSession(mac, _NO_PID, None, host_session, agent or None)

    def named(self, name: str, caller: str) -> OpenedSession:
        """Return the session that *caller* calls *name*: the same on every server of the store, and no other caller's."""
        nonce = hmac_sha256(self._secret, _NAMED_PURPOSE + _digest(caller) + name.encode())
        return OpenedSession(nonce[:_NONCE_BYTES], _NO_PID, name)

    def _mac(self, body: bytes, label: bytes, caller: str | None) -> bytes:
        # Each part has a length of its own, so no two different inputs have the same bytes.
        return hmac_sha256(self._secret, _PURPOSE + _digest(caller) + body + label)[:_MAC_BYTES]


def _digest(caller: str | None) -> bytes:
    return sha256(b"" if caller is None else b"caller " + caller.encode())


def decode_handle(handle: str) -> bytes:
    """Decode *handle*; raise `InvalidSessionError` if its form is wrong, which can be checked without the secret."""
    is_agent = handle.startswith(_AGENT)
    if len(handle) > (_LONGEST_AGENT if is_agent else _LONGEST) or not handle.isascii():
        raise InvalidSessionError
    text = handle.removeprefix(_AGENT)
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise InvalidSessionError from error
    # The last character has bits to spare: another text for the same bytes is a typing error too.
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text or len(data) < (
        _MAC_BYTES if is_agent else _FIXED_BYTES
    ):
        raise InvalidSessionError
    return data
