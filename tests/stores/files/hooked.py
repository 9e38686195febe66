"""The real file system, with a hook at each system call."""

from __future__ import annotations

import os

from mcp_claims.stores.files.filesystem import FileSystem


class HookedFileSystem(FileSystem):
    """Calls `before` with the name and the path or descriptor of each call, which is made unless that raises.

    Syncs are not made: thousands of them would take minutes on some machines.
    """

    def before(self, call: str, where: str | int) -> None:
        """Do nothing; tests override it."""

    def open(self, path: str, flags: int) -> int:
        self.before("open", path)
        return super().open(path, flags)

    def close(self, fd: int) -> None:
        # Closed first: Linux frees the descriptor even if close(2) reports an error.
        super().close(fd)
        self.before("close", fd)

    def read(self, fd: int, size: int) -> bytes:
        self.before("read", fd)
        return super().read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        self.before("write", fd)
        return super().write(fd, data)

    def seek(self, fd: int, position: int, whence: int) -> int:
        self.before("seek", fd)
        return super().seek(fd, position, whence)

    def truncate(self, fd: int, size: int) -> None:
        self.before("truncate", fd)
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self.before("sync", fd)

    def sync_directory(self, path: str) -> None:
        self.before("sync_directory", path)

    def status(self, fd: int) -> os.stat_result:
        self.before("status", fd)
        return super().status(fd)

    def status_of(self, path: str) -> os.stat_result:
        self.before("status_of", path)
        return super().status_of(path)

    def status_behind(self, path: str) -> os.stat_result:
        self.before("status_behind", path)
        return super().status_behind(path)

    def find_replaceable(self, path: str) -> tuple[str, str, bool] | None:
        self.before("find_replaceable", path)
        return super().find_replaceable(path)

    def replace(self, source: str, target: str) -> None:
        self.before("replace", target)
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self.before("remove", path)
        super().remove(path)

    def make_directory(self, path: str) -> None:
        self.before("make_directory", path)
        super().make_directory(path)

    def names(self, path: str, limit: int | None = None) -> list[str]:
        self.before("names", path)
        return super().names(path, limit)

    def try_lock(self, fd: int) -> bool:
        self.before("try_lock", fd)
        return super().try_lock(fd)

    def unlock(self, fd: int) -> None:
        self.before("unlock", fd)
        super().unlock(fd)
