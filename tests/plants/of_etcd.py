"""Faults of the store on etcd."""

from __future__ import annotations

from tests.plants.plant import Plant

STORE, CHANGES, LEASES, TENDER, QUESTIONS, WATCHING, TRANSPORT, ADDRESS = (
    f"mcp_claims/stores/etcd/{name}.py"
    for name in ("store", "changes", "leases", "tender", "questions", "watching", "transport", "address")
)
RULES, WAITING = "mcp_claims/rules.py", "mcp_claims/waiting.py"

ETCD = [
    Plant(
        "the wall clock of another machine ends a claim",
        "E1",
        RULES,
        "if claim.leased is not None and (claim.expires.epoch is None or claim.expires.epoch != now.epoch):",
        "if claim.leased is not None and claim.expires.epoch is None:",
    ),
    Plant(
        "the claims of a process are under leases as long as they",
        "E2",
        STORE,
        "if new is None or new.ended is not None or not self._lives_here(new.holder, process):",
        "if True:",
    ),
    Plant("nobody renews the lease", "E2", TENDER, "self._lease.renew(lease, soon(ANSWER_WITHIN))", "pass"),
    Plant(
        "threads that begin at once have a lease each",
        "E2",
        STORE,
        "return self._processes.setdefault(pid, made)",
        "self._processes[pid] = made\n        return made",
    ),
    Plant(
        "all that has run out is taken away before the lease is renewed again",
        "E2",
        TENDER,
        "                self._do_some_of_what_is_due()\n",
        "                for _ in range(1_000):\n                    self._do_some_of_what_is_due()\n",
    ),
    Plant(
        "a claim has the time of one before it",
        "E4",
        TENDER,
        "self._expiries.setdefault(key, Counter())[expires] += 1",
        "self._expiries[key] = Counter([max([expires, *self._expiries.get(key, ())])])",
    ),
    Plant(
        "a release forgets the time of the claim that follows",
        "E4",
        TENDER,
        "            del times[expires]\n",
        "            times.clear()\n",
    ),
    Plant("the end of a process revokes nothing", "E2", STORE, "process.lease.revoke(soon(within))", "pass"),
    Plant(
        "a lease that is gone is used for ever",
        "E3",
        STORE,
        "if fenced is None:\n                        process.lease.lost(shared)",
        "if fenced is None:\n                        return Swap(False, None)",
    ),
    Plant(
        "nobody takes away what has expired",
        "E4",
        STORE,
        "if isinstance(found, Claim) and rules.expired(found, self._here.now()):",
        "if False:",
    ),
    Plant(
        "markers and what outlives its process are under the lease of whoever writes",
        "E5",
        STORE,
        "if new is None or new.ended is not None or not self._lives_here(new.holder, process):",
        "if new is None:",
    ),
    Plant(
        "the lease of a single claim is not as long as the claim",
        "E5",
        LEASES,
        "return min(max(int(seconds) + 1 + _SLACK, shortest), _MOST)",
        "return shortest",
    ),
    Plant(
        "a grant over another one keeps its number",
        "E6",
        STORE,
        "won = new._replace(generation=new.generation or revision,",
        "won = new._replace(generation=new.generation or (old.generation if old else revision),",
    ),
    Plant(
        "what was not answered counts as not done",
        "E7",
        CHANGES,
        "if change.made(stored):",
        "if False:",
    ),
    Plant(
        "a removal that was not answered counts as lost",
        "E7",
        CHANGES,
        "return self.seen  # Gone, as was wanted.",
        "return None",
    ),
    Plant(
        "a grant compares no fence",
        "E7",
        QUESTIONS,
        "compare.append(_is_at(*self.fence))",
        "pass",
    ),
    Plant(
        "the lease of a grant that was not answered stays",
        "E7",
        CHANGES,
        "leases.revoke(self._transport, change.lease, until)",
        "pass",
    ),
    Plant(
        "nobody takes back a grant that was told as failed",
        "E7",
        CHANGES,
        "if stored is not None and grant.mark.encode() in stored.value:",
        "if False:",
    ),
    Plant(
        "of a grant under a lease of its own nobody finds out what became",
        "E7",
        CHANGES,
        "if change.is_grant:\n                    self._doubt(change)\n                raise\n            if (revision",
        "if change.fence is not None:\n                    self._doubt(change)\n                raise\n            if (revision",
    ),
    Plant(
        "what has lost to itself counts as lost",
        "E7",
        CHANGES,
        "return (self._made_at(change, seen[0]) if asked_before else None), seen",
        "return None, seen",
    ),
    Plant(
        "a question that nobody answers is asked for ever",
        "E8",
        TRANSPORT,
        "ANSWER_WITHIN = 4.0",
        "ANSWER_WITHIN = 60.0",
    ),
    Plant(
        "reads are answered by one node alone",
        "E8",
        QUESTIONS,
        'return {"key": _coded(key)}',
        'return {"key": _coded(key), "serializable": True}',
    ),
    Plant(
        "the event loop waits for the cluster",
        "E9",
        WAITING,
        "return await _in_a_thread(partial(operation, LOCK_WAIT), undo)",
        "return operation(LOCK_WAIT)",
    ),
    Plant(
        "what a cancelled call was granted stays",
        "E9",
        WAITING,
        "await anyio.to_thread.run_sync(undo, result, limiter=_ASKING)",
        "pass",
    ),
    Plant(
        "what is under no lease is a claim like others",
        "E10",
        QUESTIONS,
        "if not stored.lease:",
        "if False:",
    ),
    Plant(
        "pages are in the order of texts",
        "E10",
        "mcp_claims/stores/etcd/names.py",
        'return key[len(self.claims) - 1 :].decode("latin-1")',
        "return spell(key[len(self.claims) - 1 :])",
    ),
    Plant(
        "a stream that broke begins anew from now",
        "E11",
        WATCHING,
        "            time.sleep(pause)\n",
        "            time.sleep(pause)\n            revision = questions.revision_of(self._transport.ask('/kv/range', questions.one(b'x'), time.monotonic() + 9)) + 1\n",
    ),
    Plant(
        "all are told of all changes",
        "E11",
        WATCHING,
        "if key is None or (revision > watcher.since and watcher.concerns(key)):",
        "if key is None or revision > watcher.since:",
    ),
    Plant(
        "who was too slow leaves a lease behind",
        "E5",
        STORE,
        "                    self._give_up(lease, process)\n",
        "                    pass\n",
    ),
    Plant(
        "who waited for a thread has all the time once more",
        "E8",
        WAITING,
        "in_time = partial(_answered, ask, time.monotonic() + _ANSWERED_WITHIN)",
        "in_time = ask",
    ),
    Plant("lists wait for each other", "E8", WAITING, "abandon_on_cancel=True, limiter=_READING)", "limiter=limiter)"),
    Plant(
        "to prune goes on where nobody answers",
        "E8",
        "mcp_claims/overview.py",
        "if isinstance(store, RemoteStore) and _is_silence(error):",
        "if False:",
    ),
    Plant(
        "each session that has ended waits for the cluster by itself",
        "E8",
        "mcp_claims/sessions/registry.py",
        "with answered_by(time.monotonic() + _RELEASING):",
        "if True:",
    ),
    Plant("who sends us elsewhere is followed", "E8", TRANSPORT, "        self._session.max_redirects = 0\n", ""),
    Plant("whatever answers is etcd", "E8", TRANSPORT, "if not _is_etcds(answer):", "if not isinstance(answer, dict):"),
    Plant("the system's CA counts for more", "E12", TRANSPORT, "self._session.trust_env = False", "pass"),
    Plant(
        "the password is part of what is shown",
        "E12",
        ADDRESS,
        "password: str | None = field(default=None, repr=False)",
        "password: str | None = field(default=None)",
    ),
    Plant(
        "any failure of TLS tells that nothing was sent",
        "E8",
        TRANSPORT,
        "return bool(reason and reason.args and isinstance(reason.args[0], ssl.SSLCertVerificationError))",
        "return True",
    ),
    Plant(
        "a change of rights makes who we are unknown for ever",
        "E12",
        TRANSPORT,
        'return code == _UNAUTHENTICATED or "revision of auth store is old" in problem',
        "return code == _UNAUTHENTICATED",
    ),
    Plant(
        "a user is looked for in the host alone", "E12", ADDRESS, 'if "@" in url:', "if '@' in urlsplit(url).netloc:"
    ),
    Plant(
        "sessions end one after the other",
        "E9",
        "mcp_claims/sessions/registry.py",
        "if isinstance(self._store, RemoteStore):",
        "if dying and isinstance(self._store, RemoteStore):",
    ),
    Plant(
        "a command goes on while its claim is asked about",
        "E9",
        "mcp_claims/cli/run.py",
        "session.prolong, granted, ttl_minutes).result(left)",
        "session.prolong, granted, ttl_minutes).result()",
    ),
    Plant(
        "what was compacted away is asked for again and again",
        "E11",
        WATCHING,
        'if said["result"].get("canceled"):',
        'if said["result"].get("canceled") and questions.revision_of(said["result"]):',
    ),
    Plant("an emptied cluster is waited for", "E11", WATCHING, "+ 1 < revision:", "+ 1 < 0:"),
    Plant(
        "what was seen before the cluster was emptied counts after it", "E11", WATCHING, "        self._forget()\n", ""
    ),
    Plant(
        "who cannot be told ends the notices of all",
        "E11",
        WATCHING,
        """                except Exception:
                    # Whoever""",
        """                except OSError:
                    # Whoever""",
    ),
]
