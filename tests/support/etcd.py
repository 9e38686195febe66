"""Real clusters of etcd on free loopback ports, for tests; never one that was there before."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from mcp_claims.liveness import local_machine
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.store import EtcdStore, Here

PROGRAM_VARIABLE = "MCP_CLAIMS_ETCD"
"""Names the program where it is not on PATH."""

_INSTALL = "there is no etcd: apt-get install -y --no-install-recommends etcd-server"
_READY_WITHIN = 30.0
_numbers = itertools.count()


def program() -> str:
    """Return the path of etcd; without one the test is skipped, or fails where CI is set."""
    found = os.environ.get(PROGRAM_VARIABLE) or shutil.which("etcd")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(_INSTALL)
        pytest.skip(_INSTALL)
    return found


class Certificates(NamedTuple):
    """Files: a CA, and a certificate of 127.0.0.1 for servers and clients, with its key."""

    ca: str
    certificate: str
    key: str


class Cluster:
    """So many *nodes* of etcd, each a process of its own; with *certificates*, clients need one of those, too."""

    def __init__(self, nodes: int = 1, certificates: Certificates | None = None) -> None:
        self._program = program()
        self._scheme, self._more = "http", []
        self._session = requests.Session()
        self._session.trust_env = False
        if certificates is not None:
            self._scheme = "https"
            self._more = ["--cert-file", certificates.certificate, "--key-file", certificates.key]
            self._more += ["--client-cert-auth", "--trusted-ca-file", certificates.ca]
            self._session.verify = certificates.ca
            self._session.cert = (certificates.certificate, certificates.key)
        self._directory = tempfile.TemporaryDirectory(prefix="mcp-claims-etcd-")
        ports = free_ports(2 * nodes)
        self.clients, self.peers = ports[:nodes], ports[nodes:]
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in range(nodes):
            self.processes.append(self._start(number))
        self.await_health(range(nodes))

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        return tuple(("127.0.0.1", port) for port in self.clients)

    def url(self, prefix: str) -> str:
        return f"etcd://{','.join(f'{host}:{port}' for host, port in self.endpoints)}{prefix}"

    def leader(self) -> int:
        """Return which node leads."""
        while True:
            for number, port in enumerate(self.clients):
                with suppress(requests.RequestException, KeyError):
                    url = f"{self._scheme}://127.0.0.1:{port}/v3/maintenance/status"
                    status = self._session.post(url, json={}, timeout=1).json()
                    if status["leader"] == status["header"]["member_id"]:
                        return number
            time.sleep(0.05)

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def restart(self, number: int) -> None:
        """Start a node again that was killed, with what it had on its disk."""
        self.processes[number] = self._start(number)

    def empty(self, number: int) -> None:
        """Wipe the disk of a node that was killed."""
        shutil.rmtree(f"{self._directory.name}/n{number}")

    def freeze(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._session.close()
        self._directory.cleanup()

    def await_health(self, numbers: Sequence[int]) -> None:
        """Return once the nodes serve."""
        deadline = time.monotonic() + _READY_WITHIN
        for number in numbers:
            while True:
                with suppress(requests.RequestException):
                    if self._session.get(f"{self._client_url(number)}/health", timeout=1).ok:
                        break
                assert time.monotonic() < deadline, self._log(number)
                time.sleep(0.05)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        client, peer = self._client_url(number), self.peer_url(number)
        members = ",".join(f"n{each}={self.advertised(each)}" for each in range(len(self.clients)))
        # What a package or a person has set for their own etcd is not for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        options = {
            "--name": f"n{number}",
            "--data-dir": f"{self._directory.name}/n{number}",
            "--listen-client-urls": client,
            "--advertise-client-urls": client,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": self.advertised(number),
            "--initial-cluster": members,
            "--initial-cluster-token": self._directory.name,
            "--auto-compaction-retention": "1h",
            "--log-level": "warn",
        }
        with open(Path(self._directory.name) / f"n{number}.log", "ab") as log:
            return subprocess.Popen(
                [self._program, *itertools.chain.from_iterable(options.items()), *self._more],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def peer_url(self, number: int) -> str:
        """Return where a node listens for the others."""
        return f"http://127.0.0.1:{self.peers[number]}"

    def advertised(self, number: int) -> str:
        """Return where the others reach a node."""
        return self.peer_url(number)

    def _client_url(self, number: int) -> str:
        return f"{self._scheme}://127.0.0.1:{self.clients[number]}"

    def _log(self, number: int) -> str:
        return (Path(self._directory.name) / f"n{number}.log").read_text()[-2_000:]


def free_ports(count: int) -> list[int]:
    """Return ports of loopback on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@cache
def one_node() -> Cluster:
    """Return a node for all tests of this process that do it no harm."""
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster


def fresh_address(cluster: Cluster | None = None) -> Address:
    """Return a place in *cluster*, else in the common one, where nothing is stored."""
    return Address((cluster or one_node()).endpoints, f"/test-{os.getpid()}-{next(_numbers)}")


def fresh_store(here: Here | None = None) -> EtcdStore:
    """Return an empty store."""
    return EtcdStore(fresh_address(), here or local_machine())
