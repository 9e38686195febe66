"""Whose the directories are, and errors of the system as errors of the store: what stores in files have in common."""

from __future__ import annotations

from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.stores.kernel import Kernel, unsafe
from mcp_claims.stores.unreadable import THE_FILES_OWN_FAULT

_TRUST_LASTS = 1.0  # s


class Trust:
    """Which directories in the claims directory *whole* are known to be ours alone; looked at again once a second."""

    def __init__(self, kernel: Kernel, whole: str) -> None:
        self._kernel, self._whole = kernel, whole
        self._since: dict[str, float] = {}

    def has(self, directory: str) -> bool:
        """Tell whether *directory* exists; raise `UnsafeDirectoryError` if others could change it."""
        now = self._kernel.monotonic()
        if now - self._since.get(directory, -_TRUST_LASTS) >= _TRUST_LASTS:
            try:
                # The claims directory may be a link of the user's own making; what it leads to is what counts.
                whole, part = self._kernel.status_behind(self._whole), self._kernel.status_of(directory)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise unavailable(directory, error) from error
            for path, status in ((self._whole, whole), (directory, part)):
                if problem := unsafe(status):
                    raise UnsafeDirectoryError(path, problem)
            self._since[directory] = now
        return True


def unavailable(where: str, error: OSError) -> StoreUnavailableError:
    """Return *error*, of the system, as one of the store, about *where* unless it names a place itself."""
    # Not a context manager: each operation would go through several, and pay for them where nothing fails.
    return StoreUnavailableError(error.filename or where, error)


def names_in(kernel: Kernel, directory: str) -> list[str]:
    """Return the names in *directory*, in order; none where it is not there."""
    try:
        return sorted(kernel.names(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unavailable(directory, error) from error


def of_one_namespace(error: UnsafeDirectoryError | StoreUnavailableError, directory: str) -> str | None:
    """Return what is wrong with one namespace, `None` if it is the claims directory or the system."""
    if isinstance(error, UnsafeDirectoryError):
        return None if error.where == directory else error.problem
    denied = error.cause.errno in THE_FILES_OWN_FAULT and error.where != directory
    return error.cause.strerror or "cannot be listed" if denied else None
