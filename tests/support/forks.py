"""Forked processes that cannot be left behind."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def fork() -> int:
    """Fork as `os.fork` does; the child is killed when its parent ends, however that ends."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It ended before that was set.
            os._exit(1)
    return pid
