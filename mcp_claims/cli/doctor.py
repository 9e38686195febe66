"""`mcp-claims doctor`: check that claims work here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mcp_claims.cli.errors import NO, YES
from mcp_claims.cli.options import add_epilog, add_json, add_store_options, chosen_store, store_choice
from mcp_claims.cli.output import print_result
from mcp_claims.doctor import Finding, Level, run_checks, run_cluster_checks
from mcp_claims.hosts import UserEnvironment
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore

if TYPE_CHECKING:
    # The client of etcd is optional.
    from mcp_claims.stores.etcd.store import EtcdStore

_BY_SEVERITY = (Level.OK, Level.WARNING, Level.FAILURE)


def configure_doctor(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `doctor`."""
    add_epilog(parser, "  mcp-claims doctor --hosts", "0 no check fails, 1 a check fails")
    add_store_options(parser)
    parser.add_argument("--hosts", action="store_true", help="also check the hosts, and start their servers to do so")
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    findings = list(_findings(options))
    worst = max((finding.level for finding in findings), key=_BY_SEVERITY.index)
    print_result(_table(findings), _facts(findings, worst), as_json=options.json)
    return NO if worst is Level.FAILURE else YES


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    store, choice = chosen_store(options), store_choice(options)
    if isinstance(store, AgentAwarenessStore):
        yield from run_checks(Path(store.directory), "the layout agent-awareness", store)
    elif store.remote:
        yield from run_cluster_checks(cast("EtcdStore", store), choice.chosen_by)
    else:
        yield from run_checks(Path(choice.directory), choice.chosen_by)
    if options.hosts:
        # The SDK, whose import takes three times as long as all other checks, is for --hosts alone.
        from mcp_claims.doctor.hosts import check_hosts

        yield from check_hosts(UserEnvironment.current(), own=choice.url or os.path.realpath(choice.directory))


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
