"""Real etcd clusters on free loopback ports, each in processes of its own; never one that ran before the tests."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener
from weakref import WeakSet

from mcp_claims.liveness import Machine, local_machine
from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.history.history import History
from tests.support.programs import installed

PROGRAM_VARIABLE = "MCP_CLAIMS_ETCD"
"""Names the program where it is not on PATH."""

_READY_TIMEOUT = 60.0  # s; a node starts in less than one, unless the machine is busy
_PORTS = range(10_000, 32_000)
_numbers = itertools.count()


def program() -> str:
    """Return the path of etcd; without one, skip the test, or fail it where CI is set."""
    return os.environ.get(PROGRAM_VARIABLE) or installed("etcd", "etcd-server")


class Certificates(NamedTuple):
    """Files: a CA, and a certificate of 127.0.0.1 for servers and clients, with its key."""

    ca: str
    certificate: str
    key: str


class Cluster:
    """*nodes* members of etcd, each a process of its own; with *certificates* they require one of their clients."""

    def __init__(self, nodes: int = 1, certificates: Certificates | None = None) -> None:
        self._program = program()
        self._scheme, self._tls_options = "http", list[str]()
        tls = ssl.create_default_context(cafile=certificates.ca if certificates else None)
        if certificates is not None:
            self._scheme = "https"
            self._tls_options += ["--cert-file", certificates.certificate, "--key-file", certificates.key]
            self._tls_options += ["--client-cert-auth", "--trusted-ca-file", certificates.ca]
            tls.load_cert_chain(certificates.certificate, certificates.key)
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=tls))
        self._directory = tempfile.TemporaryDirectory(prefix="mcp-claims-etcd-")
        ports = free_ports(2 * nodes)
        self.clients, self.peers = ports[:nodes], ports[nodes:]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._reaper = _start_reaper()
        try:
            for number in range(nodes):
                self.processes.append(self._start(number))
            self.await_health(range(nodes))
        except BaseException:
            self.close()
            raise

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(("127.0.0.1", port) for port in self.clients)

    def url(self, prefix: str) -> str:
        return str(EtcdConfig(self.endpoints, prefix))

    def leader(self) -> int:
        """Return the number of the node that leads."""
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            for number in range(len(self.clients)):
                with suppress(OSError, ValueError, KeyError):
                    status = self.ask(number, "/v3/maintenance/status", {}, timeout=1)
                    if status["leader"] == status["header"]["member_id"]:
                        return number
            time.sleep(0.05)
        raise AssertionError(f"no node leads: {self._log(0)}")

    def ask(self, number: int, path: str, body: dict[str, Any] | None = None, timeout: float = 5) -> dict[str, Any]:
        """Return the answer of a node to the request for *path*, with the client of the standard library."""
        data = None if body is None else json.dumps(body).encode()
        with self._opener.open(Request(self._client_url(number) + path, data), timeout=timeout) as response:
            return dict(json.load(response))

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def restart(self, number: int) -> None:
        """Start a killed node again, with what it had on its disk."""
        self.processes[number] = self._start(number)

    def empty(self, number: int) -> None:
        """Wipe the disk of a killed node."""
        shutil.rmtree(f"{self._directory.name}/n{number}")

    def freeze(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (*self.processes, self._reaper):
            process.kill()
            process.wait()
        assert self._reaper.stdin
        self._reaper.stdin.close()
        self._directory.cleanup()

    def await_health(self, numbers: Iterable[int]) -> None:
        """Return once these nodes serve."""
        deadline = time.monotonic() + _READY_TIMEOUT
        for number in numbers:
            while True:
                with suppress(OSError, ValueError):
                    if self.ask(number, "/health")["health"] == "true":
                        break
                assert self.processes[number].poll() is None, f"etcd has ended: {self._log(number)}"
                assert time.monotonic() < deadline, f"etcd does not serve: {self._log(number)}"
                time.sleep(0.05)

    def peer_url(self, number: int) -> str:
        """Return where a node listens for the others."""
        return f"http://127.0.0.1:{self.peers[number]}"

    def advertised_peer_url(self, number: int) -> str:
        """Return where the others reach a node."""
        return self.peer_url(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        client, peer = self._client_url(number), self.advertised_peer_url(number)
        members = ",".join(f"n{each}={self.advertised_peer_url(each)}" for each in range(len(self.clients)))
        # Without the settings that a package or a person made for an etcd of their own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        options = {
            "--name": f"n{number}",
            "--data-dir": f"{self._directory.name}/n{number}",
            "--listen-client-urls": client,
            "--advertise-client-urls": client,
            "--listen-peer-urls": self.peer_url(number),
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": members,
            "--initial-cluster-token": self._directory.name,
            "--auto-compaction-retention": "1h",
            "--log-level": "warn",
        }
        with open(self._log_path(number), "ab") as log:
            return subprocess.Popen(
                [self._program, *itertools.chain.from_iterable(options.items()), *self._tls_options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._reaper.pid,
            )

    def _client_url(self, number: int) -> str:
        return f"{self._scheme}://127.0.0.1:{self.clients[number]}"

    def _log_path(self, number: int) -> Path:
        return Path(self._directory.name) / f"n{number}.log"

    def _log(self, number: int) -> str:
        return self._log_path(number).read_text()[-2_000:]


def _start_reaper() -> subprocess.Popen[bytes]:
    """Start the leader of a process group that kills the whole group once its stdin closes.

    The system closes it when this process ends, by SIGKILL too, so that no etcd outlives the tests.
    """
    script = "trap '' HUP INT TERM; read _; kill -KILL 0"
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, process_group=0)


def free_ports(count: int) -> list[int]:
    """Return loopback ports on which nobody listens.

    They lie below the range from which the system takes ports for outgoing connections: one of those could otherwise
    occupy the port before etcd binds it, or while its node is down.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")


@cache
def one_node() -> Cluster:
    """Return the node that all tests of this process share which do it no harm."""
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster


def fresh_config(cluster: Cluster | None = None) -> EtcdConfig:
    """Return a prefix under which nothing is stored, on *cluster* or else on the shared node."""
    return EtcdConfig((cluster or one_node()).endpoints, f"/test-{os.getpid()}-{next(_numbers)}")


def config_at(port: int, prefix: str) -> EtcdConfig:
    """Return how to reach *prefix* over this loopback *port* alone, a proxy's say."""
    return EtcdConfig((("127.0.0.1", port),), prefix)


def fresh_store(machine: Machine | None = None) -> EtcdStore:
    """Return an empty store."""
    return EtcdStore(fresh_config(), machine or local_machine())


_opened: WeakSet[EtcdStore] = WeakSet()
_open = EtcdStore.__init__


def _open_and_remember(store: EtcdStore, config: EtcdConfig, machine: Machine, history: History | None = None) -> None:
    _open(store, config, machine, history)
    _opened.add(store)


EtcdStore.__init__ = _open_and_remember  # type: ignore[method-assign,assignment]


def stop_keep_alives() -> None:
    """Let no store that a test of this process has opened keep its lease alive.

    Hundreds of threads that renew leases, many of them through a proxy that is gone, would slow all later tests, and ask the
    cluster what a test that counts requests did not ask.
    """
    for store in list(_opened):
        if (connection := store._connections.pop(os.getpid(), None)) is not None:
            connection.keepalive.stop()
