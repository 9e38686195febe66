"""Which key of etcd is whose.

    <prefix>/claims/<namespace>/<key>   a claim
    <prefix>/sessions/<lease>           a process that holds claims; changed to make what it asked before void
    <prefix>/secrets/handles            what session handles are signed with

In the namespace `%` and `/` are escaped, so the first `/` behind it ends it, and the key follows as it is.
"""

from __future__ import annotations

from mcp_claims.model.records import ScopedKey


class Names:
    """The keys below *prefix*."""

    def __init__(self, prefix: str) -> None:
        self.claims = f"{prefix}/claims/".encode()
        self.secret = f"{prefix}/secrets/handles".encode()
        self._sessions = f"{prefix}/sessions/"

    def namespace(self, namespace: str | None) -> bytes:
        """Return how the keys of the claims in *namespace*, or of all, begin."""
        if namespace is None:
            return self.claims
        return self.claims + namespace.replace("%", "%25").replace("/", "%2F").encode() + b"/"

    def claim(self, scoped: ScopedKey) -> bytes:
        """Return the key of the claim on *scoped*."""
        return self.namespace(scoped.namespace) + scoped.key.encode()

    def session(self, lease: int) -> bytes:
        """Return the key of the process that has *lease*."""
        return f"{self._sessions}{lease:016x}".encode()

    def position(self, key: bytes) -> str:
        """Return a text that sorts like *key*, the key of a claim, whatever bytes somebody else has put there."""
        # With the slash, as no position may be empty: that is where a list begins.
        return key[len(self.claims) - 1 :].decode("latin-1")

    def behind(self, position: str) -> bytes:
        """Return the least key that comes after *position*, which anybody may have made up."""
        return self.claims[:-1] + position.encode("latin-1", "replace") + b"\0"


def after_all(beginning: bytes) -> bytes:
    """Return the least key that is greater than all that begin with *beginning*, which ends with no 0xFF."""
    return beginning[:-1] + bytes([beginning[-1] + 1])


def spell(key: bytes) -> str:
    """Return *key* as text, whatever somebody else has put there."""
    return key.decode(errors="surrogateescape")


def unspell(text: str) -> bytes:
    """Return the key that `spell` gave *text* for."""
    return text.encode(errors="surrogateescape")
