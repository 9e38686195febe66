"""Claims on etcd, for fleets on several machines (DESIGN.md, chapter E).

A claim is granted by a majority of the cluster or not at all.  It is attached to a lease, which etcd ends by its own
clock when it no longer hears from the holder's process; no other machine's clock ends it.  What no lease can do is stop a
holder that does not notice: who acts on something that can check generations should have it check them.

| module | what is in it |
|---|---|
| `address` | which cluster: URL, environment |
| `transport` | one question to the cluster: endpoints in turn, time limits, credentials |
| `names` | which key of etcd a claim has |
| `questions` | what is asked, and how answers read |
| `changes` | making one change, and finding out whether it was made |
| `leases` | the lease of this process, and leases of single claims |
| `tender` | the thread that keeps the lease and ends claims whose time is up |
| `watching` | being told of changes |
| `store` | the store itself |
"""
