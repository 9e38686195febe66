"""Packs the bundle: `python packaging/mcpb/pack.py [OUTPUT]`, with `mcpb` (npm's @anthropic-ai/mcpb) on the PATH.

The bundle has the package and the names of what it depends on; the host installs these by uv.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def stage(directory: Path) -> None:
    """Put all that belongs into the bundle into *directory*."""
    for name in ("manifest.json", "server.py"):
        shutil.copy(HERE / name, directory)
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, directory)
    shutil.copytree(ROOT / "mcp_claims", directory / "mcp_claims", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = json.loads((HERE / "manifest.json").read_text())["version"]
    # Not the project's own: the host would build the package, and resolve all that tests need.
    wanted = {"name": f"{project['name']}-bundle", "version": version}
    wanted |= {name: project[name] for name in ("requires-python", "dependencies")}
    lines = ["[project]", *(f"{name} = {json.dumps(value)}" for name, value in wanted.items())]
    (directory / "pyproject.toml").write_text("\n".join([*lines, "", "[tool.uv]", "package = false", ""]))


def main() -> int:
    """Pack the bundle; return the exit code of `mcpb`."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "mcp-claims.mcpb").absolute()
    mcpb = shutil.which("mcpb")
    if mcpb is None:
        print("mcpb is not there: npm install -g @anthropic-ai/mcpb", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        stage(Path(directory))
        return subprocess.run([mcpb, "pack", directory, str(output)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
