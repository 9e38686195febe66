"""The server of the bundle, which lies beside the package."""

import sys

from mcp_claims.cli.main import command

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    command()
