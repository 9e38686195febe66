"""Two agents see one event, each through an MCP server of its own; one acts.  Run: python examples/two_sessions.py"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from mcp import Client, StdioServerParameters
from mcp_types import TextContent

EVENT = "vercel/next.js#4521:checks_failed@3f2a91c"


async def try_claim(agent: Client) -> str:
    """Try to claim the event and return the text of the answer."""
    result = await agent.call_tool("try_claim", {"key": EVENT})
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def main() -> None:
    # --dir keeps the example apart from your own claims.
    with tempfile.TemporaryDirectory() as directory:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "mcp_claims", "serve", "--dir", f"{directory}/claims"]
        )
        async with Client(server) as ada:
            async with Client(server) as ben:
                print("ben:", await try_claim(ben))
                print("ada:", await try_claim(ada))
            # Ben's server has ended, which releases his claims.
            print("ada:", await try_claim(ada))


if __name__ == "__main__":
    asyncio.run(main())
