"""One agent finishes the work; another agent asks later and learns that it is done.  Run: python examples/done_stays_done.py"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from mcp import Client, StdioServerParameters
from mcp_types import TextContent

EVENT = "vercel/next.js#4521:checks_failed@3f2a91c"


async def call(agent: Client, tool: str, **arguments: str) -> str:
    """Call *tool* for the event and return the text of the answer."""
    result = await agent.call_tool(tool, {"key": EVENT, **arguments})
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def main() -> None:
    # --dir keeps the example apart from your own claims.
    with tempfile.TemporaryDirectory() as directory:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "mcp_claims", "serve", "--dir", f"{directory}/claims"]
        )
        async with Client(server) as ada:
            print("ada:", await call(ada, "try_claim"))
            print("ada:", await call(ada, "release", outcome="done", note="fixed in #4530"))
        # Ada's server has ended.  The outcome stays until its retention is over.
        async with Client(server) as ben:
            print("ben:", await call(ben, "try_claim"))


if __name__ == "__main__":
    asyncio.run(main())
