"""The example with two machines, which needs root, etcd and Linux namespaces; tests/docs runs the other examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.etcd import program
from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="makes network namespaces, which takes root")
def test_a_machine_that_is_cut_off_loses_its_claim_and_knows_it() -> None:
    program()
    installed("nsenter", "util-linux")
    installed("ip", "iproute2")
    done = subprocess.run(
        [sys.executable, "examples/two_machines.py"],
        cwd=ROOT,
        env=PYTHON_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    before, ben_before, cut_off, during, ben_after, connected, after = done.stdout.splitlines()
    assert before.startswith("ada: CLAIMED") and ben_before.startswith("ben: HELD")
    assert cut_off == "-- ada is cut off" and during.startswith("ada: ERROR")
    assert ben_after.startswith("ben: CLAIMED")
    assert connected == "-- ada is connected again" and after == "ada: no longer ours"
