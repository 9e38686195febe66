"""Two machines share an etcd cluster of three nodes until one is cut off.  Run: sudo python examples/two_machines.py

Each machine is a set of Linux namespaces (network, PID, time) with a network cable (veth) to the cluster.  All of them end
with this process.  The run takes a minute: the cluster frees the claims of a machine 30 s after it last heard from it.

Needs root, etcd, `pip install mcp-claims`, and unshare, nsenter and ip of util-linux and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mcp_claims import Claim, ClaimsError, open_session, open_store

EVENT = "vercel/next.js#4521:checks_failed@3f2a91c"
CLUSTER = "10.209.0.1"
PORTS = {"n0": (2379, 2380), "n1": (2479, 2480), "n2": (2579, 2580)}
STORE = f"etcd://{','.join(f'{CLUSTER}:{client}' for client, _ in PORTS.values())}/example"
NEW_MACHINE = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]


def main() -> None:
    if sys.argv[1:] == ["agent"]:
        agent()
    elif sys.argv[1:] == ["inside"]:
        between_two_machines()
    else:
        missing = [name for name in ("etcd", "unshare", "nsenter", "ip") if shutil.which(name) is None]
        missing += ["root"] * (os.geteuid() != 0)
        if missing:
            sys.exit(f"missing: {', '.join(missing)}")
        os.execvp(NEW_MACHINE[0], [*NEW_MACHINE, sys.executable, __file__, "inside"])


def agent() -> None:
    """Run each line of standard input, `try` or `check`, in a session on this machine; print one line for each."""
    with open_session(open_store(url=STORE)) as session:
        for line in sys.stdin:
            try:
                if line == "try\n":
                    result = session.try_claim(EVENT)
                    answer = f"{'CLAIMED' if result.claimed else 'HELD'}, the holder is {name_in(result.found)}"
                else:
                    answer = "still ours" if session.inspect(EVENT).held_by_you else "no longer ours"
            except ClaimsError as error:
                answer = f"ERROR: {error}"
            print(answer, flush=True)


def name_in(found: object) -> str:
    return found.holder.name if isinstance(found, Claim) else "unknown"


def between_two_machines() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{CLUSTER}/32", "dev", "lo")
    with ExitStack() as stack:
        stack.enter_context(cluster())
        ada, ben = (stack.enter_context(machine(name, number)) for number, name in enumerate(("ada", "ben"), 1))
        print("ada:", run_in(ada, "try"))
        print("ben:", run_in(ben, "try"))
        print("-- ada is cut off")
        run("ip", "link", "set", "ada", "down")
        print("ada:", run_in(ada, "check"))
        cut_off = time.monotonic()
        while "HELD" in (answer := run_in(ben, "try")):
            time.sleep(1)
        print(f"ben: {answer} ({time.monotonic() - cut_off:.0f} s later)")
        print("-- ada is connected again")
        run("ip", "link", "set", "ada", "up")
        run("ip", "address", "replace", "10.209.1.1/24", "dev", "ada")
        print("ada:", run_in(ada, "check"))


@contextmanager
def cluster() -> Iterator[None]:
    """Run a cluster of three nodes."""
    members = ",".join(f"{name}=http://{CLUSTER}:{peer}" for name, (_, peer) in PORTS.items())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        for name, (client, peer) in PORTS.items():
            options = {
                "--name": name,
                "--data-dir": f"{directory}/{name}",
                "--listen-client-urls": f"http://{CLUSTER}:{client}",
                "--advertise-client-urls": f"http://{CLUSTER}:{client}",
                "--listen-peer-urls": f"http://{CLUSTER}:{peer}",
                "--initial-advertise-peer-urls": f"http://{CLUSTER}:{peer}",
                "--initial-cluster": members,
                "--log-level": "error",
            }
            command = ["etcd", *(part for option in options.items() for part in option)]
            log = stack.enter_context(Path(directory, f"{name}.log").open("w"))
            node = stack.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            stack.callback(node.kill)
        for client, _ in PORTS.values():
            wait_until_healthy(f"http://{CLUSTER}:{client}/health")
        yield


@contextmanager
def machine(name: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """Start a machine with an agent, and a cable from it to here; the interface on this side is called *name*."""
    command = [*NEW_MACHINE, "--uts", "--time", sys.executable, __file__, "agent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        while not (inside := children.read_text().split()):
            time.sleep(0.01)
        within = ["nsenter", "--net", "--uts", "--target", inside[0]]
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inside[0])
        run("ip", "address", "add", f"10.209.{number}.1/24", "dev", name)
        run("ip", "link", "set", name, "up")
        run(*within, "hostname", name)
        run(*within, "ip", "address", "add", f"10.209.{number}.2/24", "dev", "eth0")
        run(*within, "ip", "link", "set", "eth0", "up")
        run(*within, "ip", "route", "add", "default", "via", f"10.209.{number}.1")
        try:
            yield started
        finally:
            started.kill()


def run_in(started: subprocess.Popen[str], command: str) -> str:
    """Send *command* to the agent of a machine; return the line that it prints."""
    assert started.stdin is not None and started.stdout is not None
    started.stdin.write(f"{command}\n")
    started.stdin.flush()
    return started.stdout.readline().strip()


def wait_until_healthy(url: str) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
