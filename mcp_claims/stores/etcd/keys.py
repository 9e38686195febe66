"""The etcd keys below the prefix.

    <prefix>/claims/<namespace>/<key>              a claim
    ...the same, and `\\0trace`                       what stays of it if its lease ends it (see `traces`)
    ...the same, and `\\1<member>`                    the claim of one of several who hold it
    <prefix>/tickets/<namespace>/<key>/<session>   a ticket of a session that waits for the key (see `tickets`)
    <prefix>/overlaps                              what each claim on a file changes (see `overlaps`)
    <prefix>/sessions/<lease>                      the fence of a process (see `lease`)
    <prefix>/secrets/handles                       the secret that signs session handles

`%` and `/` are escaped in the namespace, so that the first `/` after it ends it; the key of a claim follows unescaped.  In
a ticket's name that key is escaped too: else the tickets of `a/b` would be among those of `a`.  The session is a hash.
"""

from __future__ import annotations

from mcp_claims.model.digest import sha256
from mcp_claims.model.keys import is_file_key, is_pattern
from mcp_claims.model.records import ScopedKey

# No key of a claim has a NUL, which sorts before everything: nothing comes between a claim and its trace.
_TRACE = b"\0trace"

# No key of a claim in the namespace of files and branches begins with it.
_PATTERN = b"*"

# The places of the members of a key begin with a character that sorts between this and the trace of the key.
_AFTER_MEMBERS = b"\2"

_SESSION_BYTES = 16


class Keyspace:
    """The keys below *prefix*."""

    def __init__(self, prefix: str) -> None:
        self.claims_prefix = f"{prefix}/claims/".encode()
        self.handle_secret = f"{prefix}/secrets/handles".encode()
        self._tickets_prefix = f"{prefix}/tickets/".encode()
        self.overlaps = f"{prefix}/overlaps".encode()
        self._fences = f"{prefix}/sessions/"

    def namespace_prefix(self, namespace: str | None) -> bytes:
        """Return the prefix of all claims in *namespace*, or of all claims (`None`)."""
        if namespace is None:
            return self.claims_prefix
        return self.claims_prefix + _escaped(namespace) + b"/"

    def claim_key(self, scoped: ScopedKey) -> bytes:
        """Return the key of the claim on *scoped*; those of files with wildcards stand together."""
        mark = _PATTERN if is_file_key(scoped) and is_pattern(scoped.key) else b""
        return self.namespace_prefix(scoped.namespace) + mark + scoped.key.encode()

    def range_of(self, scoped: ScopedKey) -> tuple[bytes, bytes]:
        """Return the first key, and that after the last, of what is stored for a key; with the place of a member, for all."""
        key = self.claim_key(scoped.base)
        return key, key + (b"\0" if scoped.member is None else _AFTER_MEMBERS)

    def patterns_prefix(self, namespace: str) -> bytes:
        """Return the prefix of the claims on files with wildcards."""
        return self.namespace_prefix(namespace) + _PATTERN

    def tickets_prefix(self, target: ScopedKey | str | None) -> bytes:
        """Return the prefix of the tickets for a key, of those in a namespace, or of all (`None`).

        Those who wait for a file have to know of all who wait for one that overlaps: theirs is that of the namespace.
        """
        if target is None:
            return self._tickets_prefix
        if isinstance(target, ScopedKey) and is_file_key(target):
            target = target.namespace
        names = target if isinstance(target, ScopedKey) else (target,)
        return self._tickets_prefix + b"".join(_escaped(name) + b"/" for name in names)

    def ticket_key(self, scoped: ScopedKey, holder: str) -> bytes:
        """Return the key of the ticket for *scoped* of the session with the name *holder*."""
        return self.ticket_key_of(scoped, sha256(holder.encode())[:_SESSION_BYTES].hex().encode())

    def ticket_key_of(self, scoped: ScopedKey, session: bytes) -> bytes:
        """Return the key of the ticket for *scoped* of the session with the hash *session*."""
        return self.tickets_prefix(scoped.namespace) + _escaped(scoped.key) + b"/" + session

    def fence_key(self, lease_id: int) -> bytes:
        """Return the key of the fence of the process with this lease."""
        return f"{self._fences}{lease_id:016x}".encode()

    def position(self, key: bytes) -> str:
        """Return a text that sorts like *key*, the key of a claim; works for any bytes that somebody else put there."""
        # Keeps the slash before the namespace: "" means the beginning of a list, so no key may have that position.
        return key[len(self.claims_prefix) - 1 :].decode("latin-1")

    def first_key_after(self, position: str) -> bytes:
        """Return the least key after *position*, which may be any text that a caller made up."""
        return self.claims_prefix[:-1] + position.encode("latin-1", "replace") + b"\0"


def trace_key(key: bytes) -> bytes:
    """Return the key of the trace of the claim at *key*."""
    return key + _TRACE


def is_trace_key(key: bytes) -> bool:
    """Return whether *key* is that of a trace."""
    return key.endswith(_TRACE)


def claim_key_of(key: bytes) -> bytes:
    """Return the key of the claim whose trace is at *key*."""
    return key.removesuffix(_TRACE)


def _escaped(name: str) -> bytes:
    return name.replace("%", "%25").replace("/", "%2F").encode()


def prefix_range_end(prefix: bytes) -> bytes:
    """Return the least key greater than all keys that begin with *prefix*, whose last byte is not 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def decode_key(key: bytes) -> str:
    """Return *key* as text, without loss even where it is not UTF-8."""
    return key.decode(errors="surrogateescape")


def encode_key(text: str) -> bytes:
    """Return the key for which `decode_key` returned *text*."""
    return text.encode(errors="surrogateescape")
