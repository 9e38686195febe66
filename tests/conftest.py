"""What all tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.platforms import FORCED, NOT_FORCED
from tests.support.strays import exit_with_failure_if_left_behind, mark_children

# These hold assertions but are no test modules; this has to come before anything imports them.
pytest.register_assert_rewrite(
    "tests.stores.contract", "tests.stores.overlaps", "tests.stores.samples", "tests.stores.agent_awareness.samples"
)

# Tests start thousands of processes.  Where this is set, each would compile all modules anew: more than twice the CPU.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A run that was started with `&` or `nohup` ignores SIGINT and SIGHUP, and its children would inherit that: the tests
# that end a child by a signal would wait until they time out. A handler is not inherited, and this run still ignores them.
if sys.platform != "win32":
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_keep_alive_of_a_test_outlives_it() -> Iterator[None]:
    yield
    # Only where the test has used etcd.
    if (support := sys.modules.get("tests.support.etcd")) is not None:
        support.stop_keep_alives()


@pytest.fixture
def claims_dir(tmp_path: Path) -> Path:
    """A claims directory that does not exist yet."""
    return tmp_path / "claims"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many tests run at a time: one more than there are cores; for tests asked for by name, all in this process."""
    if any("::" in argument for argument in config.args):
        return 0
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0)) + 1
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where macOS is forced, skip what only Linux can pass."""
    if FORCED in os.environ:
        for item in items:
            for prefix, reason in NOT_FORCED.items():
                if item.nodeid.startswith(prefix):
                    item.add_marker(pytest.mark.skip(reason=f"forced macOS: {reason}"))


def pytest_configure(config: pytest.Config) -> None:
    # The workers of pytest-xdist are children, too, and inherit the mark.
    if not hasattr(config, "workerinput"):
        mark_children()
        # The histories of clusters are in the user's state directory, which is nobody's to fill with those of tests.
        state = tempfile.mkdtemp(prefix="mcp-claims-state-")
        os.environ.setdefault("XDG_STATE_HOME", state)
        atexit.register(shutil.rmtree, state, ignore_errors=True)
        # Registered first, so it runs last, when what all tests share has ended.
        atexit.register(exit_with_failure_if_left_behind)
