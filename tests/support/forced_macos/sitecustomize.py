"""Makes `mcp_claims` see macOS, in each Python process that has this directory on its PYTHONPATH.

The modules of the product import other modules in the place of `sys`, `os` and a few more: they have the platform
`darwin`, lack what only Linux has, and hide `/proc`.  The standard library, psutil and the tests see Linux as it is, so
that they work.  `python -m tests.support.forced_macos` runs the tests so.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import importlib.machinery
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import Any

_PRODUCT = "mcp_claims"
_GUARDIAN = f"{_PRODUCT}.cli.guardian"
_PREFIX = "_on_macos_"
_HIDDEN = {
    sys: {"getandroidapilevel"},
    os: {
        "eventfd",
        "memfd_create",
        "pidfd_open",
        "sched_getaffinity",
        "sched_setaffinity",
        "setns",
        "splice",
        "unshare",
    },
    time: {"CLOCK_BOOTTIME", "CLOCK_MONOTONIC_COARSE", "CLOCK_TAI"},
    signal: {"SIGPWR", "SIGRTMAX", "SIGRTMIN", "SIGSTKFLT", "pidfd_send_signal", "sigtimedwait", "sigwaitinfo"},
    select: {"EPOLLIN", "epoll"},
    socket: {"AF_NETLINK", "SO_PEERCRED"},
    fcntl: {"F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW", "F_SETPIPE_SZ"},
    ctypes: {"windll"},
    os.path: set(),
}
# Modules that open paths on behalf of a caller; `_asked_by_product` skips their frames to find it.
_STANDARD = frozenset({"__main__", "codecs", "genericpath", "io", "os", "pathlib", "posixpath"})


class _Libc:
    """The C library of macOS, as far as the product calls it."""

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, length: int) -> int:
        if name != b"kern.bootsessionuuid":
            return -1
        # As bytes: a user who may not read the standard library finds no codec.
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            value.value = file.read().strip().upper()
        return 0


def _readlink(path: str) -> str:
    if os.fspath(path).startswith("/proc/"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return os.readlink(path)


def _isdir(path: str) -> bool:
    return not os.fspath(path).startswith("/proc") and os.path.isdir(path)


class _Socket(socket.socket):
    """A socket that tells who uses its other end as macOS does."""

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        if (level, option) == (0, 2):  # SOL_LOCAL, LOCAL_PEERPID
            credentials = super().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int.from_bytes(credentials[:4], sys.byteorder)
        return super().getsockopt(level, option, *size)


class _Kqueue:
    """A kqueue that can do one thing: watch a process until it ends, here by a pidfd."""

    def __init__(self) -> None:
        self._fd = -1

    def control(self, changes: Sequence[tuple[Any, ...]], _limit: int) -> list[Any]:
        ((pid, kind, flags, notes),) = changes
        assert (kind, flags, notes) == (-5, 0x11, 0x80000000), "EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT"
        self._fd = os.pidfd_open(pid)
        return []

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


_KQUEUE = {
    "kqueue": _Kqueue,
    "kevent": lambda *fields: fields,
    # As `sys/event.h` of macOS has them.
    "KQ_FILTER_PROC": -5,
    "KQ_EV_ADD": 0x1,
    "KQ_EV_ONESHOT": 0x10,
    "KQ_NOTE_EXIT": 0x80000000,
}
_CHANGED: dict[ModuleType, dict[str, Any]] = {
    sys: {"platform": "darwin"},
    os: {"readlink": _readlink},
    os.path: {"isdir": _isdir},
    socket: {"socket": _Socket},
    select: _KQUEUE,
    ctypes: {"CDLL": lambda *_, **__: _Libc()},
}


class _OnMacos(ModuleType):
    """The module *real* as it is on macOS."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__(_PREFIX + real.__name__)
        self.__dict__.update(_CHANGED.get(real, {}), _real=real)

    def __getattr__(self, name: str) -> Any:
        if name in _HIDDEN[self._real]:
            raise AttributeError(f"macOS has no {self._real.__name__}.{name}", name=name, obj=self)
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CHANGED.get(self._real, {}):
            self.__dict__[name] = value
        else:
            setattr(self._real, name, value)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module of the product; what it compiles is cached below PYTHONPYCACHEPREFIX, apart from other runs."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if self.name == _GUARDIAN:
            # The program that `run` starts.
            module.__file__ = os.path.join(os.path.dirname(__file__), "guardian.py")

    # An ordinary method in CPython, a static one in typeshed.
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        import ast  # Only what is not cached is compiled.

        tree = ast.parse(data, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if _PREFIX + alias.name in sys.modules:
                        alias.name, alias.asname = _PREFIX + alias.name, alias.asname or alias.name
            elif isinstance(node, ast.ImportFrom) and not node.level and _PREFIX + str(node.module) in sys.modules:
                node.module = f"{_PREFIX}{node.module}"
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


class _Finder:
    """Finds the modules of the product before anybody else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != _PRODUCT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


def _asked_by_product(frame: FrameType | None) -> bool:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name not in _STANDARD:
            return name == _PRODUCT or name.startswith(f"{_PRODUCT}.")
        frame = frame.f_back
    return False


def _hide_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        path = arguments[0]
        if isinstance(path, str) and path.startswith("/proc") and _asked_by_product(sys._getframe(1)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


for _module in _HIDDEN:
    sys.modules[_PREFIX + _module.__name__] = _OnMacos(_module)
sys.modules[f"{_PREFIX}os"].__dict__["path"] = sys.modules[_PREFIX + os.path.__name__]
sys.meta_path.insert(0, _Finder())
sys.addaudithook(_hide_proc)
