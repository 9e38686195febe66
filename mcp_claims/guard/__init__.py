"""The guard: what the hooks of hosts and of git do, so that sessions which call no tool keep off each other's files."""
