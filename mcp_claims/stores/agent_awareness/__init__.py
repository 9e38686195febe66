"""Claims in the directory of the agent-awareness project, so that its sessions and those of mcp-claims exclude each other.

"The original" in this package is the module `claims.ts` of agent-awareness; its functions are named as they are there.
It is a fixed protocol: running sessions of it cannot be changed, so each of its faults needs a guard on this side.
Each module names the behaviour of the original that its guards are for.

- `store`: the `Store`; two locks around each change
- `swap`: compare and write, with a lock that the original may break at any time
- `lock`: the original's lock directory: acquire, release, remove if stale
- `record_file`: read one record, of either kind
- `filenames`: the original's file names
- `filesystem`: the system calls beside those of the file store
"""
