"""The version is that of the package in everything that is published beside it, and the lock is up to date."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

import mcp_claims
from tests.packaging.places import MCPB, PLUGIN, ROOT


@pytest.mark.parametrize(
    ("file", "places"),
    [
        (ROOT / "packaging" / "server.json", [["version"], ["packages", 0, "version"]]),
        (ROOT / ".claude-plugin" / "marketplace.json", [["metadata", "version"], ["plugins", 0, "version"]]),
        (PLUGIN / ".claude-plugin" / "plugin.json", [["version"]]),
        (MCPB / "manifest.json", [["version"]]),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_a_file_has_the_version_of_the_package(file: object, places: list[list[str | int]]) -> None:
    for place in places:
        value = json.loads(file.read_text())  # type: ignore[attr-defined]
        for step in place:
            value = value[step]
        assert value == mcp_claims.__version__, place


def test_the_lock_is_of_the_public_index_and_of_what_the_project_depends_on() -> None:
    """`uv lock` writes it; elsewhere uv would ask the index of the machine where that was run."""
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"pypi.org", "files.pythonhosted.org"}
    (ours,) = (each for each in tomllib.loads(text)["package"] if each["name"] == "mcp-claims")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["etcd"],
    ]
    expected = {_normal(re.split(r"[<>=;\[ ]", each)[0], each.partition(";")[0]) for each in wanted}
    locked = {_normal(each["name"], each.get("specifier", "")) for each in ours["metadata"]["requires-dist"]}
    # `dev` has what `etcd` has, which the lock writes out.
    expected.discard(("mcp-claims", frozenset()))
    assert locked == expected, "run `uv lock`"


def _normal(name: str, bounds: str) -> tuple[str, frozenset[str]]:
    return name.replace(".", "-").replace("_", "-").lower(), frozenset(re.findall(r"[<>=!~]+[\d.]+", bounds))
