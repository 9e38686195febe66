"""`python -m mcp_claims` is the command `mcp-claims`."""

from mcp_claims.cli.main import command

command()
