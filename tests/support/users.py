"""Letting another user than the one who runs the tests reach what a test has made."""

from __future__ import annotations

from pathlib import Path


def open_to_all(tmp_path: Path) -> None:
    """Let every user come to *tmp_path* and write there, but not rename what others have made, as in /tmp."""
    tmp_path.chmod(0o1777)
    for parent in tmp_path.parents:
        # Those that pytest has made, one more where several of it run side by side.
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o711)
