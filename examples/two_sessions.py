"""Two agents meet one event, each through an MCP server of its own.  Run: python examples/two_sessions.py"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from mcp import Client, StdioServerParameters
from mcp_types import TextContent

EVENT = "vercel/next.js#4521:checks_failed"


async def ask(agent: Client, tool: str) -> str:
    """Call *tool* about the event; return the text of the answer."""
    result = await agent.call_tool(tool, {"key": EVENT})
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def main() -> None:
    # A directory for this example only; without --dir the server uses yours.
    with tempfile.TemporaryDirectory() as directory:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "mcp_claims", "serve", "--dir", f"{directory}/claims"]
        )
        async with Client(server) as ada:
            async with Client(server) as ben:
                print("ben:", await ask(ben, "try_claim"))
                print("ada:", await ask(ada, "try_claim"))
            # Ben's host has closed his server, so what he held is free.
            print("ada:", await ask(ada, "try_claim"))


if __name__ == "__main__":
    asyncio.run(main())
