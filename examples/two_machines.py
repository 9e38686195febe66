"""Two machines share a cluster of three nodes, until the cable of one is pulled.  Run: sudo python examples/two_machines.py

A machine here is a set of network, PID and time namespaces of Linux, with a cable (veth) to the cluster.  All of them end
with this process.  The run takes a minute: the cluster frees the claims of a machine 30 s after it last heard from it.
Needs the extra mcp-claims[etcd], etcd, `unshare` of util-linux and `ip` of iproute2.
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
from importlib.util import find_spec
from pathlib import Path

from mcp_claims import ClaimsError, ScopedKey, open_store, process_session
from mcp_claims.render import text

EVENT = "vercel/next.js#4521:checks_failed"
CLUSTER = "10.209.0.1"
PORTS = {"n0": (2379, 2380), "n1": (2479, 2480), "n2": (2579, 2580)}
STORE = f"etcd://{','.join(f'{CLUSTER}:{client}' for client, _ in PORTS.values())}/example"
APART = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
SCOPED = ScopedKey("default", EVENT)


def main() -> None:
    if sys.argv[1:] == ["agent"]:
        agent()
    elif sys.argv[1:] == ["inside"]:
        between_two_machines()
    else:
        missing = [name for name in ("etcd", "unshare", "ip") if shutil.which(name) is None]
        missing += ["pip install 'mcp-claims[etcd]'"] * (find_spec("etcd3gw") is None or find_spec("requests") is None)
        missing += ["root"] * (os.geteuid() != 0)
        if missing:
            sys.exit(f"needs root, etcd, unshare, ip and the extra mcp-claims[etcd]; missing: {', '.join(missing)}")
        os.execvp(APART[0], [*APART, sys.executable, __file__, "inside"])


def agent() -> None:
    """Run the command in each line of standard input, as a session on this machine."""
    with process_session(open_store(url=STORE)) as session:
        for line in sys.stdin:
            try:
                if line == "try\n":
                    attempt = session.try_claim(EVENT)
                    said = text.attempt_lead(SCOPED, attempt)
                else:
                    look = session.inspect(EVENT)
                    said = f"{text.look_lead(SCOPED, look)} {text.look_advice(SCOPED, look)}"
            except ClaimsError as error:
                said = f"ERROR: {error}"
            print(said, flush=True)


def between_two_machines() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{CLUSTER}/32", "dev", "lo")
    with ExitStack() as stack:
        stack.enter_context(cluster())
        ada, ben = (stack.enter_context(machine(name, number)) for number, name in enumerate(("ada", "ben"), 1))
        print("ada:", ask(ada, "try"))
        print("ben:", ask(ben, "try"))
        print("-- ada's cable is pulled")
        run("ip", "link", "set", "ada", "down")
        print("ada:", ask(ada, "check"))
        pulled = time.monotonic()
        while "NOT CLAIMED" in (said := ask(ben, "try")):
            time.sleep(1)
        print(f"ben: {said} ({time.monotonic() - pulled:.0f} s later)")
        print("-- ada's cable is back")
        run("ip", "link", "set", "ada", "up")
        run("ip", "address", "replace", "10.209.1.1/24", "dev", "ada")
        print("ada:", ask(ada, "check"))


@contextmanager
def cluster() -> Iterator[None]:
    """Run three nodes."""
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
            await_health(f"http://{CLUSTER}:{client}/health")
        yield


@contextmanager
def machine(name: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """Start a machine with an agent on it, and connect it by a cable that has its name."""
    command = [*APART, "--uts", "--time", sys.executable, __file__, "agent"]
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


def ask(started: subprocess.Popen[str], what: str) -> str:
    """Send *what* to the agent of a machine; return its answer."""
    assert started.stdin is not None and started.stdout is not None
    started.stdin.write(f"{what}\n")
    started.stdin.flush()
    return started.stdout.readline().strip()


def await_health(url: str) -> None:
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
