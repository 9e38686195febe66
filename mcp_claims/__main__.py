"""`python -m mcp_claims` is the command `mcp-claims`."""

import sys

from mcp_claims.cli.main import command

sys.exit(command())
