"""Two LangChain agents, whose tools connect anew for each call, exclude each other.  Run: python examples/langchain_sessions.py

`MultiServerMCPClient.get_tools()` opens a connection for each call, so a claim of the connection would end with the call.
`serve --session NAME`, with a name for each agent, makes an identity that outlives the connections.

Needs `pip install langchain-mcp-adapters`, and `mcp-claims` on the PATH; they may be in different environments.
"""

from __future__ import annotations

import asyncio
import tempfile

from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient

EVENT = "vercel/next.js#4521:checks_failed@3f2a91c"


async def claims_tools(agent: str, directory: str) -> dict[str, BaseTool]:
    """Return the tools of the claims server for *agent*, by name."""
    # --dir keeps the example apart from your own claims.
    arguments = ["serve", "--session", agent, "--dir", f"{directory}/claims"]
    client = MultiServerMCPClient({"claims": {"transport": "stdio", "command": "mcp-claims", "args": arguments}})
    return {tool.name: tool for tool in await client.get_tools()}


async def call(tools: dict[str, BaseTool], tool: str, **arguments: str) -> str:
    """Call *tool* for the event and return the text of the answer."""
    parts = await tools[tool].ainvoke({"key": EVENT, **arguments})
    return "".join(part["text"] for part in parts)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        ada, ben = await claims_tools("ada", directory), await claims_tools("ben", directory)
        print("ada:", await call(ada, "try_claim"))
        print("ben:", await call(ben, "try_claim"))
        print("ada:", await call(ada, "release", outcome="done", note="fixed in #4530"))
        print("ben:", await call(ben, "try_claim"))


if __name__ == "__main__":
    asyncio.run(main())
