"""Modules of the product as they are on Windows, on Linux: with its platform, and stand-ins for what only Windows has."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

MACHINE_GUID, BOOT = "0f8fad5b-d9cb-469f-a165-70867728950e", 417


class _Sys(ModuleType):
    """The module `sys` of a Windows."""

    platform = "win32"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class Msvcrt(ModuleType):
    """`msvcrt`, as far as the product uses it: locks of bytes, which belong to one opening of a file."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def locking(self, fd: int, mode: int, count: int) -> None:
        kind = fcntl.F_UNLCK if mode == self.LK_UNLCK else fcntl.F_WRLCK
        start = os.lseek(fd, 0, os.SEEK_CUR)
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, count, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        except BlockingIOError:
            # Windows says "permission denied", at once with LK_NBLCK.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


class Winreg(ModuleType):
    """`winreg`, with the two values that name a boot."""

    HKEY_LOCAL_MACHINE = 0x80000002
    values = SimpleNamespace(MachineGuid=MACHINE_GUID, BootId=BOOT)

    @contextmanager
    def OpenKey(self, _root: int, path: str) -> Iterator[str]:  # noqa: N802
        yield path

    def QueryValueEx(self, _key: object, name: str) -> tuple[object, int]:  # noqa: N802
        try:
            return getattr(self.values, name), 1
        except AttributeError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None


def on_windows(name: str) -> ModuleType:
    """Return a copy of the module *name* that was imported on Windows."""
    spec = importlib.util.find_spec(name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    stand_ins = {"sys": _Sys("sys"), "msvcrt": Msvcrt("msvcrt"), "winreg": Winreg("winreg")}
    with patch.dict(sys.modules, stand_ins):
        spec.loader.exec_module(module)
    return module
