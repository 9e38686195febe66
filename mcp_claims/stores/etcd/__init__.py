"""Claims on an etcd cluster, for agents on several machines.

What it promises: a majority of the cluster grants a claim, or nobody does.  An acknowledged claim survives crashes and
changes of leader.  A claim is attached to a lease; etcd ends that lease by its own clock once it no longer hears from
the holder's process, and the clock of no other machine ends it.

What it does not promise: a holder that was paused past the end of its lease can act before it notices, and rarely (etcd
#15247) a stalled leader ends a live lease.  Where that matters, have the resource check the claim's generation.

| module | what it does |
|---|---|
| `config` | which cluster and which credentials, from a URL and the environment |
| `gateway` | sends one request to the cluster: endpoints in turn, time limits, login |
| `connections` | HTTP connections to one endpoint, on which every step ends by a deadline |
| `keys` | which etcd key a claim has |
| `messages` | JSON of requests and responses |
| `lease` | the lease of this process with its fence, and leases of single claims |
| `txn` | commits one compare-and-swap, and finds out its outcome where no answer came |
| `plans` | what one change takes in a transaction: revision, lease, trace, ticket |
| `overlaps` | which claims on files overlap with one, and what is in its way |
| `traces` | what stays of a claim whose lease has ended |
| `keepalive` | the thread that renews the lease and removes claims at their expiry |
| `watch` | notifies of changes |
| `tickets` | tickets of the sessions that wait for a key |
| `store` | the `Store` |
"""
