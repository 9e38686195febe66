"""Which system the product sees while it is tested: this one, or macOS where the run forces that."""

from __future__ import annotations

import os
import sys

FORCED = "MCP_CLAIMS_FORCED_MACOS"
"""Set in a run by `python -m tests.support.forced_macos`."""

PLATFORM = "darwin" if FORCED in os.environ else sys.platform

_NO_LOCKS = "only Linux lists the locks of files"
NOT_FORCED = {
    "tests/liveness/test_linux.py": "tests the Linux machine",
    "tests/liveness/test_portable.py::test_on_windows": "its modules are those of Windows",
    "tests/stores/files/test_windows.py": "its modules are those of Windows",
    "tests/docs/test_pages.py": "the pages are for Linux, and what they run has another sitecustomize",
    "tests/cli/test_claim_commands.py::test_without_proc_claims_of_a_process_are_granted_and_released": "psutil needs /proc",
    "tests/cli/test_run.py::test_where_proc_is_of_another_namespace_the_process_group_ends": (
        "macOS has neither PID namespaces nor /proc; what it does instead is what all other tests of `run` see"
    ),
    "tests/loops/test_run.py::test_never_two_commands_at_once_in_two_containers_with_one_name": (
        "macOS has no PID namespaces, so a process of another one counts as dead"
    ),
    "tests/doctor/test_doctor.py::test_where_all_is_well_each_check_says_so_and_nothing_changes": (
        "only Linux tells the type of a file system"
    ),
    "tests/doctor/test_doctor.py::test_a_lock_that_a_stopped_process_keeps_is_reported_with_the_process": _NO_LOCKS,
    "tests/docs/test_readme.py::test_the_first_command_shows_the_demo_on_a_fresh_machine": (
        "pip installs the dependencies of Linux, without psutil"
    ),
    "tests/docs/test_rules.py": "counts the rules that only skipped tests hold",
    "tests/session/test_interrupts.py::test_an_interrupt_at_any_line_leaves_no_key_with_an_ended_session_and_no_lock[wait]": (
        "how many lines a wait runs depends on how often it polls"
    ),
    "tests/server/test_host_death.py::test_when_the_host_is_killed_the_server_ends_and_its_claims_are_released[wrapper-pipes]": (
        "macOS does not show who has the other end of a pipe, and the wrapper is no known launcher"
    ),
    "tests/server/test_host_death.py::test_when_only_a_wrapper_is_killed_the_server_goes_on[pipes]": (
        "macOS does not show who has the other end of a pipe, and the wrapper is no known launcher"
    ),
    "tests/cli/test_demo.py::test_it_fails_when_two_win": "its servers have another sitecustomize, and so see Linux",
    "tests/cli/test_cold_start.py::test_a_cold_check_imports_nothing_that_only_others_need": (
        "its process has no sitecustomize, and so sees Linux"
    ),
    "tests/hosts/test_real_hosts.py": "the real hosts are those of Linux, and look for their files there",
    "tests/hosts/test_real_turns.py": "the real hosts are those of Linux, and look for their files there",
}
"""Why a test, or all that begin so, cannot pass where macOS is forced."""
