"""The MCP server: the claims of one session as tools."""
