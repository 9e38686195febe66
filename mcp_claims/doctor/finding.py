"""A finding: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a thing is; the values are what is printed."""

    OK = "ok"
    WARNING = "warn"
    FAILURE = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is the case; *remedy* says what to do where it is not well."""

    check: str
    level: Level
    what: str
    remedy: str | None = None


def ok(check: str, what: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that claims are safe but something is not as it should be."""
    return Finding(check, Level.WARNING, what, remedy)


def failure(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that claims cannot be made or must not be relied on."""
    return Finding(check, Level.FAILURE, what, remedy)
