"""The version is that of the package in everything that is published beside it."""

from __future__ import annotations

import json

import pytest

import mcp_claims
from tests.packaging.places import MCPB, PLUGIN, ROOT


@pytest.mark.parametrize(
    ("file", "places"),
    [
        (ROOT / "server.json", [["version"], ["packages", 0, "version"]]),
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
