"""A finding: the result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How serious a finding is.  The values are what `mcp-claims doctor` prints."""

    OK = "ok"
    WARNING = "warn"
    FAILURE = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of *check*.  *remedy* is what to do about it; only an `OK` has none."""

    check: str
    level: Level
    what: str
    remedy: str | None = None


def ok(check: str, what: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something is not as it should be, though claims are safe."""
    return Finding(check, Level.WARNING, what, remedy)


def failure(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that claims cannot be made or must not be relied on."""
    return Finding(check, Level.FAILURE, what, remedy)
