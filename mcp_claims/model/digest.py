"""Hashes, imported at their first use: `hashlib` loads OpenSSL (3 ms, 1 MiB), and few sessions hash anything."""

from __future__ import annotations


def sha256(data: bytes) -> bytes:
    """Return the SHA-256 of *data*."""
    import hashlib

    return hashlib.sha256(data).digest()


def hmac_sha256(secret: bytes, data: bytes) -> bytes:
    """Return the HMAC-SHA-256 of *data* with *secret*."""
    import hmac

    return hmac.digest(secret, data, "sha256")


def equal_in_constant_time(one: bytes, other: bytes) -> bool:
    """Return whether both are equal, in a time that does not show where they differ."""
    import hmac

    return hmac.compare_digest(one, other)
