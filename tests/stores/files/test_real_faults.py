"""Real faults of real file systems, full or read-only ones: never half a claim, and the store recovers.

Mounting needs a new mount namespace; users other than root need a user namespace for that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import unshare
from tests.support.servers import PYTHON_ENVIRONMENT
from tests.support.users import open_to_all

ROOT = Path(__file__).parents[3]

# Run in that namespace after a shell has mounted a file system: it uses a store, directly and through a server over
# stdio, and runs the shell commands that cause the fault and mend it.
PROGRAM = """
import json, os, subprocess, sys
from mcp_claims.errors import StoreUnavailableError
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore

directory, harm, mend = sys.argv[1:]
# A file system cannot be mounted read-only while a file is open for writing, as that of the history is.
os.environ["MCP_CLAIMS_HISTORY_DAYS"] = "0"
store = FileStore(directory)
session = process_session(store)
server = subprocess.Popen(
    [sys.executable, "-m", "mcp_claims", "serve", "--dir", directory],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

def call(tool, **arguments):
    params = {"name": tool, "arguments": arguments, "_meta": META}
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}) + "\\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())["result"]

def outcome(action):
    try:
        return ["done", bool(action())]
    except StoreUnavailableError as error:
        return ["refused", str(error)]

def records():
    found = {}
    for name in ("mine", "theirs", "new"):
        path = os.path.join(directory, "default", name + ".json")
        found[name] = open(path).read() if os.path.exists(path) else None
    return found

session.try_claim("mine")
assert call("try_claim", key="theirs")["structuredContent"]["claimed"]
before = records()
subprocess.check_call(harm, shell=True)
report = {
    "claim": outcome(lambda: session.try_claim("new").claimed),
    "renew": outcome(lambda: session.try_claim("mine").claimed),
    "read": outcome(lambda: session.inspect("theirs").claimed_by_other),
    "tool claim": call("try_claim", key="new"),
    "tool read": call("is_claimed_by_other", key="mine"),
    "unchanged": records() == before,
}
subprocess.check_call(mend, shell=True)
report |= {
    "after": [session.try_claim("new").claimed, session.release("mine").released],
    "tool after": call("try_claim", key="mine"),
    "tool release": call("release", key="theirs"),
}
server.stdin.close()
report["ended"] = server.wait()
print(json.dumps(report))
"""

FAULTS = {
    # Fill all that is free but a page, without which some systems could not even read.
    "a full file system": (
        "mount -t tmpfs -o size=256k,mode=700 none {mount}",
        "dd if=/dev/zero of={mount}/filler bs=4k 2>/dev/null; :",
        "rm {mount}/filler",
        "No space left on device",
        "Free some space",
    ),
    "no free inodes": (
        "mount -t tmpfs -o nr_inodes=24,mode=700 none {mount}",
        "i=0; while touch {mount}/filler$i 2>/dev/null; do i=$((i+1)); done; :",
        "rm {mount}/filler*",
        "No space left on device",
        "Free some space",
    ),
    "a read-only file system": (
        "mount -t tmpfs -o mode=700 none {mount}",
        "mount -o remount,ro {mount}",
        "mount -o remount,rw {mount}",
        "Read-only file system",
        "Make the directory writable",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_loses_nothing_is_a_clear_error_and_is_recovered_from(tmp_path: Path, fault: str) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    prepare, harm, mend, reason, remedy = (text.format(mount=mount) for text in FAULTS[fault])
    script = f'{prepare} && exec "$0" -c "$1" {mount}/claims "$2" "$3"'
    done = subprocess.run(
        [*unshare("--mount"), "sh", "-c", script, sys.executable, PROGRAM, harm, mend],
        env=PYTHON_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    kind, output = report["claim"]
    assert kind == "refused" and reason in output and remedy in output
    assert "You hold nothing new" in output
    # Reading always works.
    assert report["renew"][0] == "refused"
    assert report["read"] == ["done", True]
    assert report["unchanged"]
    assert report["tool claim"]["isError"] and reason in report["tool claim"]["content"][0]["text"]
    assert report["tool read"]["structuredContent"]["claimed_by_other"]

    assert report["after"] == [True, True]
    assert report["tool after"]["structuredContent"]["claimed"]
    assert report["tool release"]["structuredContent"]["released"]
    assert report["ended"] == 0


# Run in that namespace too: it changes three keys of two namespaces together.
GROUP_PROGRAM = """
import json, subprocess, sys
from mcp_claims.errors import StoreUnavailableError
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.stores.groups import grant_all, state, wanted
from tests.stores.samples import renewed

directory, harm, mend = sys.argv[1:]
store = FileStore(directory, history=Limits(days=0))
held = grant_all(store, wanted())
subprocess.check_call(harm, shell=True)
try:
    refusal = str(store.swap_all([Change(each.scoped, each, renewed(each)) for each in held]).won)
except StoreUnavailableError as error:
    refusal = str(error)
report = {"refusal": refusal, "unchanged": state(store) == held}
subprocess.check_call(mend, shell=True)
report["after"] = store.swap_all([Change(each.scoped, each, None) for each in held]).won
print(json.dumps(report))
"""


@pytest.mark.rule("S11")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_refuses_a_change_of_several_keys_as_a_whole(tmp_path: Path, fault: str) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    prepare, harm, mend, reason, remedy = (text.format(mount=mount) for text in FAULTS[fault])
    script = f'{prepare} && exec "$0" -c "$1" {mount}/claims "$2" "$3"'
    done = subprocess.run(
        [*unshare("--mount"), "sh", "-c", script, sys.executable, GROUP_PROGRAM, harm, mend],
        env=PYTHON_ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert reason in report["refusal"] and remedy in report["refusal"]
    assert report["unchanged"] and report["after"]


def test_a_directory_that_this_user_may_not_write_is_refused_with_the_remedy(tmp_path: Path) -> None:
    claims = tmp_path / "claims"
    program = (
        "import os, sys\n"
        "from mcp_claims.errors import StoreUnavailableError\n"
        "from mcp_claims.session.identity import process_session\n"
        "from mcp_claims.stores.files.store import FileStore\n"
        # Import all first: another user may not read the interpreter's files, and root could write anywhere.
        "process_session(FileStore(sys.argv[1]))\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "os.makedirs(sys.argv[1], 0o700)\n"
        "session = process_session(FileStore(sys.argv[1]))\n"
        "os.chmod(sys.argv[1], 0o500)\n"
        "try:\n"
        "    session.try_claim('red')\n"
        "except StoreUnavailableError as error:\n"
        "    print(error)\n"
        "os.chmod(sys.argv[1], 0o700)\n"
        "print(session.try_claim('red').claimed)\n"
    )
    open_to_all(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program, str(claims)],
        env=PYTHON_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output, after = done.stdout.splitlines()
    assert "Permission denied" in output and "Make the directory writable for this user" in output
    assert after == "True"
