"""The store that shares its directory with sessions of the agent-awareness project; see `store`."""
