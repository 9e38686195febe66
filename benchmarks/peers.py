"""Other servers that keep agents apart, beside ours, in the same trials: `python -m benchmarks.peers`.

Each is installed from the index into an environment of its own.  The same race, kill, overlap and wait are tried on each, and
its start, memory and definitions are measured.  A server of leases that does not do a thing is not faulty: it says what it is
for, and a "no" only says that it is for something else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.servers import OURS, StdioClient, client_of
from mcp_claims import __version__

PAGE = Path(__file__).parents[1] / "docs" / "peers.md"
_BEGIN, _END = "<!-- Made by python -m benchmarks.peers --write. -->\n", "<!-- end of figures -->"
_RACERS, _KEYS, _STARTS, _SESSIONS = 8, 25, 5, 4
_PATIENCE = 20.0  # s, for a takeover; what takes longer waits for a TTL
_NOT_OFFERED = "not offered"
_MIB = 2**20

Claim = Callable[[StdioClient, str], bool]


@dataclass(frozen=True)
class Peer:
    """A server, how to start it for a session, and how to claim with it."""

    name: str
    package: str | None
    start: Callable[[str, Path, str], AbstractContextManager[StdioClient]]
    """Starts it: its program's directory, a directory for its claims, the name of the session."""
    claim: Claim
    prepare: Callable[[StdioClient, Sequence[str]], object] = lambda client, keys: None
    """What has to be there before *keys* can be claimed."""
    claims_by_name: bool = True
    """Whether a session asks for a key, or gets any of those that are there."""
    path: Callable[[str], str] | None = None
    """The key of a path, for peers that know paths."""
    waits: Callable[[StdioClient, str], int] | None = None
    """Begins a call that waits for a key."""


def _structured(result: Mapping[str, Any]) -> dict[str, Any]:
    found = result.get("structuredContent") or json.loads(result["content"][0]["text"])
    assert isinstance(found, dict)
    return found


def _wait(client: StdioClient, key: str) -> int:
    return client.send("try_claim", key=key, wait_seconds=300)


def _define(client: StdioClient, keys: Sequence[str]) -> None:
    client.call("define_kind", kind="event", instructions="Act.")
    client.call("add_jobs", kind="event", names=list(keys))


PEERS = (
    Peer(
        "mcp-claims",
        None,
        lambda programs, here, session: client_of(*OURS, here / "claims"),
        lambda client, key: bool(_structured(client.call("try_claim", key=key))["claimed"]),
        path=lambda path: f"file:{path}",
        waits=_wait,
    ),
    Peer(
        "fleetwright",
        "fleetwright==0.25.0",
        lambda programs, here, session: client_of(
            "serve", "--create", "--db", here / "peer.db", program=f"{programs}/fleetwright"
        ),
        lambda client, key: bool(_structured(client.call("claim_job", kind="event")).get("units")),
        prepare=_define,
        claims_by_name=False,
    ),
    Peer(
        "agent-lease-mcp",
        "agent-lease-mcp==0.2.0",
        lambda programs, here, session: client_of(
            f"AGENT_LEASE_DB={here}/leases.db",
            f"AGENT_NAME={session}",
            f"{programs}/agent-lease-mcp",
            program="/usr/bin/env",
        ),
        lambda client, key: bool(_structured(client.call("claim", paths=[key]))["ok"]),
        path=lambda path: path,
    ),
)


def sessions(peer: Peer, programs: str, here: Path, count: int, stack: ExitStack) -> list[StdioClient]:
    """Start *count* sessions of *peer* on one store, shaken hands with."""
    clients = [stack.enter_context(peer.start(programs, here, f"agent{n}")) for n in range(count)]
    for client in clients:
        client.initialize()
    return clients


def race(peer: Peer, programs: str, here: Path) -> str:
    """Have eight sessions ask for each of many keys at once; count the keys that had one winner."""
    with ExitStack() as stack:
        clients = sessions(peer, programs, here, _RACERS, stack)
        keys, won = [f"event{n}" for n in range(_KEYS)], list[int]()
        for key in keys:
            peer.prepare(clients[0], [key])
            won.append(sum(_together(peer, clients, key)))
    return f"{won.count(1)} of {_KEYS}"


def _together(peer: Peer, clients: Sequence[StdioClient], key: str) -> list[bool]:
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(lambda client: peer.claim(client, key), clients))


def kill(peer: Peer, programs: str, here: Path) -> str:
    """Kill the process of a holder; return how long it takes until another session gets the key."""
    with ExitStack() as stack:
        holder, other = sessions(peer, programs, here, 2, stack)
        peer.prepare(holder, ["killed"])
        assert peer.claim(holder, "killed") and not peer.claim(other, "killed")
        psutil.Process(holder.pid).kill()
        began = time.perf_counter()
        while time.perf_counter() - began < _PATIENCE:
            if peer.claim(other, "killed"):
                return f"{(time.perf_counter() - began) * 1000:.0f} ms"
            time.sleep(0.01)
    return "when its lease ends"


def overlap(peer: Peer, programs: str, here: Path) -> str:
    """Return whether who holds a directory keeps others from a file in it."""
    if peer.path is None:
        return _NOT_OFFERED
    with ExitStack() as stack:
        holder, other = sessions(peer, programs, here, 2, stack)
        assert peer.claim(holder, peer.path("src/"))
        return "no" if peer.claim(other, peer.path("src/a.py")) else "yes"


def abandoned_wait(peer: Peer, programs: str, here: Path) -> str:
    """Give up a call that waits without a word, release, and see whether another session gets the key within seconds."""
    if peer.waits is None:
        return _NOT_OFFERED
    with ExitStack() as stack:
        holder, gone, other = sessions(peer, programs, here, 3, stack)
        assert peer.claim(holder, "waited for")
        peer.waits(gone, "waited for")
        time.sleep(2)
        holder.call("release", key="waited for")
        began = time.perf_counter()
        while time.perf_counter() - began < 90:
            if peer.claim(other, "waited for"):
                return f"after {time.perf_counter() - began:.0f} s"
            time.sleep(0.5)
    return "not within 90 s"


def start(peer: Peer, programs: str, here: Path) -> str:
    """Return the median time from the start of a process to the first answer of a tool."""
    took = list[float]()
    for _ in range(_STARTS):
        began = time.perf_counter()
        with peer.start(programs, here, "agent") as client:
            client.initialize()
            peer.prepare(client, [f"start {began}"])
            peer.claim(client, f"start {began}")
        took.append(time.perf_counter() - began)
    return f"{median(took) * 1000:.0f} ms"


def memory(peer: Peer, programs: str, here: Path) -> str:
    """Return the share of one of several sessions in the memory that they have together."""
    with ExitStack() as stack:
        clients = sessions(peer, programs, here, _SESSIONS, stack)
        for n, client in enumerate(clients):
            peer.prepare(client, [f"memory{n}"])
            peer.claim(client, f"memory{n}")
        used = sum(psutil.Process(client.pid).memory_full_info().pss for client in clients)
    return f"{used / _SESSIONS / _MIB:.1f} MiB"


def definitions(peer: Peer, programs: str, here: Path) -> str:
    """Return how many tools it has, and how large what a model reads about them is."""
    with ExitStack() as stack:
        (client,) = sessions(peer, programs, here, 1, stack)
        tools = client.request("tools/list", {})["tools"]
    read = [{name: tool[name] for name in ("name", "description", "inputSchema") if name in tool} for tool in tools]
    return f"{len(tools)} tools, {len(json.dumps(read, separators=(',', ':'))) / 1000:.1f} kB"


TRIALS: Mapping[str, Callable[[Peer, str, Path], str]] = {
    f"race of {_RACERS}: keys with one winner": race,
    "holder killed: the next one has the key after": kill,
    "a directory excludes the files in it": overlap,
    "a waiting call is given up, the key released: the next one has it": abandoned_wait,
    "start to the first answer": start,
    f"memory of one of {_SESSIONS} sessions (PSS)": memory,
    "definitions that a model reads (4 kB are some 1,000 tokens)": definitions,
}


def install(peer: Peer, into: Path) -> str:
    """Install *peer* into an environment of its own; return the directory of its programs."""
    if peer.package is None:
        return str(Path(sys.executable).parent)
    programs = into / peer.name / "bin"
    if not programs.exists():
        subprocess.run([sys.executable, "-m", "venv", str(programs.parent)], check=True)
        subprocess.run([str(programs / "pip"), "install", "--quiet", peer.package], check=True)
    return str(programs)


def rows(chosen: Sequence[str], into: Path) -> Iterator[list[str]]:
    """Yield the head and a row for each trial."""
    programs = {peer.name: install(peer, into) for peer in PEERS}
    yield ["", *((peer.package or f"{peer.name}=={__version__}").replace("==", " ") for peer in PEERS)]
    for what, trial in TRIALS.items():
        if chosen and trial.__name__ not in chosen:
            continue
        row = [what]
        for peer in PEERS:
            print(f"{what}: {peer.name} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=into) as here:
                row.append(trial(peer, programs[peer.name], Path(here)))
        yield row


def main() -> int:
    """Try all, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=(__doc__ or "").partition("\n\n")[0]
    )
    names = [trial.__name__ for trial in TRIALS.values()]
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"{', '.join(names)}; all without any")
    parser.add_argument("--write", action="store_true", help="put the table into docs/peers.md")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="install there, and use what is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcp-claims-peers-") as scratch:
        head, *body = rows(options.trials, (options.environments or Path(scratch)).absolute())
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    when = (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    table = "\n".join([f"Measured {when}, load {load}.", "", *lines])
    print(table)
    if options.write:
        before, _, rest = PAGE.read_text().partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}\n{table}\n\n{_END}{rest.partition(_END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
