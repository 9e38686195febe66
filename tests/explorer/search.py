"""Running a scenario under every schedule up to a bound, and under random ones beyond it.

A schedule is the list of decisions at each step: which process makes its next system call, which one dies there,
whether its time runs out, the clocks are stepped or a dead process's PID comes back.  The search is stateless: it runs
a prefix of decisions, lets the current process go on from there, and later comes back to each decision that it could
have made otherwise.  Leaving a process that could go on, a death, and any change of the world cost one of the bound.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.explorer.process import ViolationError
from tests.explorer.schedules import Action, Run, Scenario


@dataclass
class Exploration:
    """What an exploration saw: how many different schedules, and the first violation, shrunk."""

    schedules: int
    violation: ViolationError | None = None


def play(scenario: Scenario, decisions: list[Action], chance: random.Random | None = None) -> list[list[Action]]:
    """Run one schedule: *decisions*, then the current process until it ends, or with *chance* anything.

    Returns the alternatives at each step, what was chosen first.  Raises `ViolationError`.
    """
    run = Run(scenario)
    alternatives: list[list[Action]] = []
    current = -1
    try:
        while actions := run.actions():
            position = len(alternatives)
            if position < len(decisions):
                action = decisions[position]
                if action not in actions:
                    # A shrunk schedule that does not fit; it leaves locks held, for which the last checks would wait.
                    return alternatives
            elif chance is not None:
                action = chance.choice(actions if chance.random() < 0.2 else actions[: len(run.processes)])
            elif actions[0][0] not in ("run", "poll"):
                break  # All are waiting for a lock that nobody will free: only a time-out could go on.
            else:
                action = next((a for a in actions if a == ("run", current)), actions[0])
            alternatives.append([action, *(a for a in actions if a != action)])
            current = action[1] if action[0] == "run" else current
            run.do(action)
        run.finish()
    finally:
        for process in run.processes:
            process.kill()
    return alternatives


def explore(scenario: Scenario, *, bound: int, at_most: int, random_runs: int = 0, seed: int = 0) -> Exploration:
    """Run every schedule of *scenario* within *bound*, *at_most* that many, then *random_runs* random ones."""
    count = 0
    seen: set[tuple[Action, ...]] = set()
    for violation in _systematic(scenario, bound, at_most, seed):
        count += 1
        if violation is not None:
            return Exploration(count, violation)
    chance = random.Random(seed)
    for _ in range(random_runs):
        try:
            seen.add(tuple(step[0] for step in play(scenario, [], chance)))
        except ViolationError as found:
            return Exploration(count + len(seen), found)
    return Exploration(count + len(seen))


def _systematic(scenario: Scenario, bound: int, at_most: int, seed: int) -> Iterator[ViolationError | None]:
    """Run the schedules by cost: all of one level before any of the next, which is taken in random order.

    Each schedule comes up once: it is the continuation of a prefix that differs from all others in its last decision.
    """
    level: list[tuple[list[Action], int, Action | None]] = [([], 0, None)]
    played = 0
    for cost in range(bound + 1):
        further: list[tuple[list[Action], int, Action | None]] = []
        for chosen, length, other in level:
            if played == at_most:
                return
            played += 1
            decisions = chosen[:length] if other is None else [*chosen[:length], other]
            try:
                alternatives = play(scenario, decisions)
            except ViolationError as violation:
                yield _shrunk(scenario, decisions, violation)
                return
            yield None
            if cost < bound and len(further) < 10 * at_most:
                chosen_here = [step[0] for step in alternatives]
                further += [
                    (chosen_here, position, other)
                    for position in range(len(decisions), len(alternatives))
                    for other in alternatives[position][1:]
                ]
        if cost:
            random.Random(seed).shuffle(further)
        level = further


def _shrunk(scenario: Scenario, decisions: list[Action], violation: ViolationError) -> ViolationError:
    """Drop decisions as long as a violation remains; the trace of what is left is what a person has to read."""
    position = 0
    while position < len(decisions):
        shorter = decisions[:position] + decisions[position + 1 :]
        try:
            play(scenario, shorter)
            position += 1
        except ViolationError as smaller:
            decisions, violation = shorter, smaller
    return violation
