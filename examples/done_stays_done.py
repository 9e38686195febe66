"""One agent does the work and reports it; a later one learns that and stops.  Run: python examples/done_stays_done.py"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from mcp import Client, StdioServerParameters
from mcp_types import TextContent

EVENT = "vercel/next.js#4521:checks_failed"


async def ask(agent: Client, tool: str, **arguments: str) -> str:
    """Call *tool* about the event; return the text of the answer."""
    result = await agent.call_tool(tool, {"key": EVENT, **arguments})
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def main() -> None:
    # A directory for this example only; without --dir the server uses yours.
    with tempfile.TemporaryDirectory() as directory:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "mcp_claims", "serve", "--dir", f"{directory}/claims"]
        )
        async with Client(server) as ada:
            print("ada:", await ask(ada, "try_claim"))
            print("ada:", await ask(ada, "release", outcome="done", note="fixed in #4530"))
        # Ada's host has closed her server; the outcome of her work stays.
        async with Client(server) as ben:
            print("ben:", await ask(ben, "try_claim"))


if __name__ == "__main__":
    asyncio.run(main())
