"""Counting forks: what a child inherits of its parent's sessions is not its own."""

from __future__ import annotations

import os

# The PID alone does not tell: a child in a new PID namespace may have its parent's.
_forks = 0


def forks() -> int:
    """Return how many forks led to this process, as far as they were seen."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
