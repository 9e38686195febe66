"""What people with a Mac or Windows run, here."""

from __future__ import annotations

import subprocess
import sys


def test_it_passes_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.smoke"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0 and ", 0 failed" in done.stdout, done.stdout + done.stderr
