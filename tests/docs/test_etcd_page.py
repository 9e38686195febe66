"""The page about etcd is true: its commands run, in order, on a cluster that its script starts; so do the compose file's settings."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.etcd import Certificates, Cluster, free_ports, program
from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "etcd.md").read_text()
SCRIPT = ROOT / "packaging" / "etcd" / "three-nodes.sh"
COMPOSE = ROOT / "packaging" / "etcd" / "compose.yaml"
PORTS = ("2379", "2381", "2383")


def snippets() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def first_of_six_free_ports() -> int:
    """Return a port of loopback on which nobody listens, nor on the five after it."""
    while True:
        (first,) = free_ports(1)
        with suppress(OSError):
            for port in range(first + 1, first + 6):
                socket.create_server(("127.0.0.1", port)).close()
            return first


class Shell:
    """Runs commands of the page in *directory*, with the ports of a cluster whose *first* one is free."""

    def __init__(self, directory: Path, first: int) -> None:
        self._directory, self._first = directory, first
        path = [Path(sys.executable).parent, Path(program()).parent, os.environ["PATH"]]
        self._environment = PYTHON_ENVIRONMENT | {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(directory),
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": f"127.0.0.1:{first}",
            "MCP_CLAIMS_STORE": self.url,
        }

    @property
    def url(self) -> str:
        return self._translated("etcd://127.0.0.1:2379,127.0.0.1:2381,127.0.0.1:2383/claims")

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", self._translated(commands)],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, (commands, done.stdout, done.stderr)
        return done.stdout

    def _translated(self, commands: str) -> str:
        for number, port in enumerate(PORTS):
            commands = commands.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self._first + 2 * number}")
        return commands.replace("packaging/etcd/three-nodes.sh", shlex.quote(str(SCRIPT)))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory, first = tmp_path_factory.mktemp("page"), first_of_six_free_ports()
    shell = Shell(directory, first)
    _, start = snippets()[0].splitlines()
    try:
        assert shell.url in shell.run(f"{start} {first}")
        yield shell
    finally:
        shell.run("packaging/etcd/three-nodes.sh stop ~/etcd-claims")


def test_the_commands_of_the_page_run_one_after_the_other(shell: Shell) -> None:
    installed("etcdctl", "etcd-client")
    for commands in snippets()[1:]:
        shell.run(commands)


def test_a_node_that_was_killed_is_started_again(shell: Shell, tmp_path: Path) -> None:
    shell.run('kill -KILL "$(<~/etcd-claims/n1.pid)"; sleep 0.5')
    shell.run(f"packaging/etcd/three-nodes.sh start ~/etcd-claims {shell._first}")
    assert "n1" in shell.run("ps -o args= -p $(<~/etcd-claims/n1.pid)")
    assert "FAIL" not in shell.run("mcp-claims doctor")


def test_no_node_is_started_where_another_etcd_would_answer_in_its_place(shell: Shell, tmp_path: Path) -> None:
    """The daemon of Debian's package has the default port; with it in the URL agents would claim in two clusters."""
    command = [str(SCRIPT), "start", str(tmp_path / "other"), str(shell._first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"port {shell._first} is in use" in done.stderr
    assert not list((tmp_path / "other").iterdir())


def test_a_cluster_that_was_stopped_is_started_at_once(shell: Shell) -> None:
    shell.run("packaging/etcd/three-nodes.sh stop ~/etcd-claims")
    shell.run(f"packaging/etcd/three-nodes.sh start ~/etcd-claims {shell._first}")
    assert "FAIL" not in shell.run("mcp-claims doctor")


def test_agents_claim_with_the_certificates_of_the_page(shell: Shell, tmp_path: Path) -> None:
    (commands,) = (each for each in snippets() if "openssl" in each)
    made = Shell(tmp_path, 2379)
    made.run(commands)
    files = Certificates(*(str(tmp_path / name) for name in ("ca.pem", "node.pem", "node.key")))
    with closing(Cluster(certificates=files)) as cluster:
        url = cluster.url("/claims").replace("etcd://", "etcds://")
        given = (
            f"MCP_CLAIMS_ETCD_CA={files.ca} MCP_CLAIMS_ETCD_CERT={files.certificate} MCP_CLAIMS_ETCD_KEY={files.key}"
        )
        made.run(f"{given} mcp-claims try red --session ci --store {url}")


def test_the_settings_of_the_compose_file_make_a_cluster(tmp_path: Path) -> None:
    """In containers each node has an address of its own; here each has ports of its own."""
    services = YAML(typ="safe").load(COMPOSE)["services"]
    ports = dict(zip(services, zip(*[iter(free_ports(2 * len(services)))] * 2, strict=True), strict=True))
    processes = []
    try:
        for name, service in services.items():
            assert service["image"].startswith("quay.io/coreos/etcd:v3.")
            settings = {}
            for variable, value in service["environment"].items():
                for host in (name, "0.0.0.0") if variable.startswith("ETCD_LISTEN") else services:
                    client, peer = ports[name if host == "0.0.0.0" else host]
                    value = value.replace(f"{host}:2379", f"127.0.0.1:{client}").replace(
                        f"{host}:2380", f"127.0.0.1:{peer}"
                    )
                settings[variable] = value.replace("/data", str(tmp_path / name))
            environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCD")} | settings
            processes.append(subprocess.Popen([program()], env=environment, stderr=subprocess.DEVNULL))
        url = f"etcd://{','.join(f'127.0.0.1:{client}' for client, _ in ports.values())}/claims"
        shell = Shell(tmp_path, 2379)
        shell.run(f"until mcp-claims try red --session ci --store {url}; do sleep 0.5; done")
        assert shell.run(f"mcp-claims doctor --store {url}").count("serves: etcd") == 3
    finally:
        for process in processes:
            process.kill()
            process.wait()
