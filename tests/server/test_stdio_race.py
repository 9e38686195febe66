"""Eight real servers, one event at a time: exactly one wins, and the others can name it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.servers import raw_server

SERVERS, ROUNDS = 8, 100


@pytest.mark.rule("S1")
def test_of_eight_servers_exactly_one_wins_each_of_100_rounds_and_every_loser_names_it(claims_dir: Path) -> None:
    wins: dict[str, int] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(raw_server(claims_dir)) for _ in range(SERVERS)]
        for number in range(ROUNDS):
            # All calls are on their way before the first answer is read, so the servers do run against each other.
            for server in servers:
                server.send("try_claim", {"key": f"event {number}"})
            answers = [server.receive()["result"]["structuredContent"] for server in servers]
            winners = [answer["holder"] for answer in answers if answer["claimed"]]
            assert len(winners) == 1
            assert {answer["holder"] for answer in answers} == set(winners)
            wins[winners[0]] = wins.get(winners[0], 0) + 1
    # If one server always won, they would hardly have been racing.
    assert len(wins) > 1
