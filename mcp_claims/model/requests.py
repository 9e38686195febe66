"""The arguments of a call, checked once at the edge (tool, command line, library) and handed down whole."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.model.records import Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE, DEFAULT_RETENTION, DEFAULT_TTL

DEFAULT_TTL_MINUTES = DEFAULT_TTL / timedelta(minutes=1)
DEFAULT_RETENTION_HOURS = DEFAULT_RETENTION / timedelta(hours=1)


class ClaimRequest(NamedTuple):
    """A claim or a renewal; `wait_seconds` is how long to wait for another holder, `keep_alive` asks for renewals."""

    scoped: ScopedKey
    ttl: timedelta = DEFAULT_TTL
    note: str | None = None
    redo: bool = False
    wait_seconds: float = 0.0
    keep_alive: bool = False

    @classmethod
    def parse(
        cls,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        wait_seconds: float = 0,
        keep_alive: bool = False,
    ) -> ClaimRequest:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        return cls(
            validation.scoped_key(key, namespace),
            validation.ttl(ttl_minutes),
            validation.note(note),
            validation.flag("redo", redo),
            validation.wait_seconds(wait_seconds),
            validation.flag("keep_alive", keep_alive),
        )


class InspectRequest(NamedTuple):
    """A read of a key; with `generation` also whether that grant is in force."""

    scoped: ScopedKey
    generation: int | None = None

    @classmethod
    def parse(cls, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None) -> InspectRequest:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        return cls(validation.scoped_key(key, namespace), validation.generation(generation))


class ReleaseRequest(NamedTuple):
    """The release of a claim; with an `outcome` a marker stays for `retention`."""

    scoped: ScopedKey
    outcome: Outcome | None = None
    note: str | None = None
    retention: timedelta = DEFAULT_RETENTION

    @classmethod
    def parse(
        cls,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | str | None = None,
        note: str | None = None,
        retention_hours: float = DEFAULT_RETENTION_HOURS,
    ) -> ReleaseRequest:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        request = cls(
            validation.scoped_key(key, namespace),
            validation.outcome(outcome),
            validation.note(note),
            validation.retention(retention_hours),
        )
        if request.note is not None and request.outcome is None:
            raise InvalidInputError("note", "goes with an outcome")
        return request
