"""`mcp-claims doctor`: check that claims work here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from mcp_claims.cli.options import add_json, add_store_options, chosen_store, store_choice
from mcp_claims.cli.output import print_result
from mcp_claims.doctor import Finding, Level, run_checks, run_cluster_checks
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore

_BY_SEVERITY = (Level.OK, Level.WARNING, Level.FAILURE)


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="check that claims work here",
        description="Check that claims work here: directory, file system or cluster, stored claims, clocks, process "
        "identity. Changes no claim. Exit code 1 if a check fails.",
        epilog="example: mcp-claims doctor --hosts",
    )
    add_store_options(doctor)
    doctor.add_argument("--hosts", action="store_true", help="also check the hosts, and start their servers to do so")
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    findings = list(_findings(options))
    worst = max((finding.level for finding in findings), key=_BY_SEVERITY.index)
    print_result(_table(findings), _facts(findings, worst), as_json=options.json)
    return 1 if worst is Level.FAILURE else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    store, choice = chosen_store(options), store_choice(options)
    if isinstance(store, AgentAwarenessStore):
        yield from run_checks(Path(store.directory), "the layout agent-awareness", store)
    elif store.remote:
        # Imported here: the client of etcd is optional.
        from mcp_claims.stores.etcd.store import EtcdStore

        yield from run_cluster_checks(cast(EtcdStore, store), choice.chosen_by)
    else:
        yield from run_checks(Path(choice.directory), choice.chosen_by)
    if options.hosts:
        # Imported here: the SDK and the parsers of the hosts' files take a second to import, and nothing else needs them.
        from mcp_claims.doctor.hosts import check_hosts
        from mcp_claims.hosts import UserEnvironment

        yield from check_hosts(UserEnvironment.current())


def _facts(findings: list[Finding], worst: Level) -> dict[str, object]:
    listed = [
        {"check": each.check, "level": each.level.name.lower(), "what": each.what, "remedy": each.remedy}
        for each in findings
    ]
    return {"worst": worst.name.lower(), "findings": listed}


def _table(findings: list[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.level.value:4}  {each.check:{width}}  {each.what}")
        if each.remedy:
            lines.append(f"{'':{width + 8}}-> {each.remedy}")
    return "\n".join(lines)
