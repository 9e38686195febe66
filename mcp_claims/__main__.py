"""The command `mcp-claims`, which is `python -m mcp_claims` too."""

import gc

# Imports make many objects and no garbage; searching them for some takes a twentieth of the time of a short command.
gc.disable()

from mcp_claims.cli.main import command

if __name__ == "__main__":
    command()
