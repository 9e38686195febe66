"""What an agent's session costs: its start, CPU and memory, many that start at once, eight that race for one key.

Beside the server of the SDK's README, and beside fleetwright, another server of leases for agents that needs no SDK.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measure import Bar, Effort, Figure, interleaved, medians
from benchmarks.servers import OURS, SDK, SDK_IS, StdioClient, client_of

PEER = Path(sys.executable).with_name("fleetwright")
_PEER_IS = "fleetwright"
SESSIONS, _AT_ONCE, _RACERS, _TURNS = 8, 20, 8, 4
_MIB = 2**20


class Side:
    """A server, and a call that it answers at once."""

    def __init__(
        self,
        command: Sequence[str | Path],
        tool: str,
        program: str | Path = sys.executable,
        variables: Mapping[str, str] | None = None,
        **given: object,
    ) -> None:
        self.command, self.program, self.tool, self.given = command, program, tool, given
        self.variables = variables

    @contextmanager
    def client(self) -> Iterator[StdioClient]:
        """Start a server and make the handshake."""
        with client_of(*self.command, program=self.program, variables=self.variables) as client:
            client.initialize()
            yield client

    def handshake(self) -> None:
        """Start a server until it has answered the handshake."""
        with self.client():
            pass

    def call(self, client: StdioClient) -> None:
        """Make the call."""
        client.call(self.tool, **self.given)

    def first_call(self) -> None:
        """Start a server until it has answered a call."""
        with self.client() as client:
            self.call(client)


def measure(effort: Effort) -> Iterator[Figure]:
    """Start servers one by one, in eights and in twenties, and let eight race."""
    with tempfile.TemporaryDirectory() as directory:
        ours = Side([*OURS, Path(directory, "ours")], "try_claim", key="red")
        without_quick = Side([*OURS, Path(directory, "ours"), "--no-quick"], "try_claim", key="red")
        sdk = Side(SDK, "add", a=1, b=2)
        peer = Side(["serve", "--create", "--db", Path(directory, "peer.db")], "list_runs", PEER)

        def hand_over() -> None:
            with ours.client() as client:
                client.request("prompts/get", {"name": "coordinate"})

        interleaved(
            1, ours.first_call, without_quick.first_call, sdk.first_call, peer.first_call
        )  # Compiles the byte code.
        sides = (ours.first_call, sdk.first_call, peer.first_call, hand_over, without_quick.first_call)
        start, sdk_start, peer_start, handed_over, replaced = interleaved(effort.of(20), *sides)
        yield medians("sessions", "start to the first answered call", "ms", start, sdk_start, SDK_IS, Bar(0.1))
        yield medians("sessions", "start to the first answered call", "ms", start, peer_start, _PEER_IS, Bar(0.95))
        yield medians(
            "sessions", "start to an answer of the SDK's server", "ms", handed_over, replaced, "--no-quick", Bar(1.1)
        )
        our_memory, sdk_memory = (memory_of_one(side, effort.of(3, 1)) for side in (ours, sdk))
        bar = Bar(0.2)
        yield Figure("sessions", f"PSS of one of {SESSIONS}", "MiB", our_memory, sdk_memory, SDK_IS, bar)
        (last, cpu), (sdk_last, sdk_cpu) = (_at_once(side, effort.of(3, 1)) for side in (ours, sdk))
        yield medians("sessions", f"{_AT_ONCE} started at once, last answer", "ms", last, sdk_last, SDK_IS, Bar(0.1))
        yield medians("sessions", f"{_AT_ONCE} started at once, CPU", "ms", cpu, sdk_cpu, SDK_IS, Bar(0.08))
        yield from _race(effort, ours, peer)


def memory_of_one(side: Side, rounds: int) -> float:
    """Return the share of one of several sessions in the memory that they have together, in MiB."""

    def once() -> float:
        with ExitStack() as stack:
            clients = [stack.enter_context(side.client()) for _ in range(SESSIONS)]
            for client in clients:
                side.call(client)
            return sum(psutil.Process(client.pid).memory_full_info().pss for client in clients) / SESSIONS / _MIB

    return median(once() for _ in range(rounds))


def _at_once(side: Side, rounds: int) -> tuple[list[float], list[float]]:
    """Start many sessions at once; return the seconds until the last was answered, and those of CPU for all."""
    last, cpu = [], []
    for _ in range(rounds):
        with ExitStack() as stack:
            began = time.perf_counter()
            clients = [stack.enter_context(client_of(*side.command, program=side.program)) for _ in range(_AT_ONCE)]
            for client in clients:
                client.begin(side.tool, **side.given)
            for client in clients:
                client.receive()
                client.receive()
            last.append(time.perf_counter() - began)
            cpu.append(sum(sum(psutil.Process(client.pid).cpu_times()[:2]) for client in clients))
    return last, cpu


def _race(effort: Effort, ours: Side, peer: Side) -> Iterator[Figure]:
    """Let eight ask for each key at once, in turns of many rounds with servers of their own.

    Sixteen that live side by side would share the caches of the processor, which no user's sessions do.
    """
    numbers = count()
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(_TURNS):
        with _racers(ours) as clients:
            keys = (f"race {next(numbers)}" for _ in range(effort.of(50)))
            mine += [_together(clients, "try_claim", {"key": key}) for key in keys]
        with _racers(peer) as clients:
            clients[0].call("define_kind", kind="race", instructions="Race.")
            for _ in range(effort.of(50)):
                clients[0].call("add_jobs", kind="race", names=[f"race {next(numbers)}"])
                theirs.append(_together(clients, "claim_job", {"kind": "race"}))
    yield medians("sessions", f"a race of {_RACERS} for one key", "ms", mine, theirs, _PEER_IS, Bar(0.8))


@contextmanager
def _racers(side: Side) -> Iterator[list[StdioClient]]:
    with ExitStack() as stack:
        yield [stack.enter_context(side.client()) for _ in range(_RACERS)]


def _together(clients: Sequence[StdioClient], tool: str, arguments: dict[str, object]) -> float:
    """Have all call *tool* at once; return the seconds until the last has its answer."""
    began = time.perf_counter()
    for client in clients:
        client.send(tool, **arguments)
    for client in clients:
        client.receive()
    return time.perf_counter() - began
