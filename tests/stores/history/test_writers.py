"""Several processes write one history at once, and lose no line of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcp_claims.model.history import Kind
from mcp_claims.model.promises import check
from mcp_claims.stores.history.files import parse_name
from mcp_claims.stores.history.reader import HistoryReader
from tests.cli.commands import Commands
from tests.support.servers import RawServer, raw_server

ROUNDS = 150
NOTE = "x" * 400


@pytest.mark.rule("J1", "J4")
def test_two_servers_and_a_command_that_write_at_once_lose_no_line_although_the_file_becomes_full(
    claims_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of eight parts, which are all that it keeps, they fill three.
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_MEGABYTES", "1")
    limits = {"MCP_CLAIMS_HISTORY_MEGABYTES": "1"}
    commands = Commands(claims_dir)
    commands.environment |= limits

    def claim(name: str, rounds: int, take: Callable[[str], object], give_back: Callable[[str], object]) -> None:
        for number in range(rounds):
            take(f"{name} {number}")
            give_back(f"{name} {number}")

    def of_a_command(*arguments: str) -> None:
        assert commands(*arguments, "--session", "cron").returncode == 0

    def of(server: RawServer) -> tuple[Callable[[str], object], Callable[[str], object]]:
        return lambda key: server.call("try_claim", key=key, note=NOTE), lambda key: server.call("release", key=key)

    with ExitStack() as stack:
        servers = [stack.enter_context(raw_server(claims_dir, env=limits)) for _ in range(2)]
        pool = stack.enter_context(ThreadPoolExecutor())
        running = [pool.submit(claim, f"server {n}", ROUNDS, *of(server)) for n, server in enumerate(servers)]
        claim("command", 6, lambda key: of_a_command("try", key), lambda key: of_a_command("release", key))
        for each in running:
            each.result()
    keys = [f"server {number} {each}" for number in range(2) for each in range(ROUNDS)]
    expected = Counter(
        (key, kind) for key in [*keys, *(f"command {each}" for each in range(6))] for kind in ("granted", "released")
    )
    reader = HistoryReader(str(claims_dir / ".history"))
    events = list(reader.events())
    assert Counter((event.key, event.kind.value) for event in events) == expected and reader.damaged == 0
    generations = [event.generation for event in events if event.kind is Kind.GRANTED]
    assert generations == sorted(generations), "the lines stand in the order of the changes"
    findings = check(events)
    assert (findings.violations, findings.grants, findings.unknown) == ([], 2 * ROUNDS + 6, 0)
    parts = {file.part for name in os.listdir(claims_dir / ".history") if (file := parse_name(name))}
    assert len(parts) >= 3 and 0 in parts
