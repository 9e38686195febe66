"""Faults of the layout that is shared with agent-awareness."""

from __future__ import annotations

from tests.plants.plant import Plant

LOCK, STORE, CHANGE, NAMES, OPENING = (
    "mcp_claims/stores/agent_awareness/lock.py",
    "mcp_claims/stores/agent_awareness/store.py",
    "mcp_claims/stores/agent_awareness/change.py",
    "mcp_claims/stores/agent_awareness/names.py",
    "mcp_claims/opening.py",
)

LAYOUT = [
    Plant(
        "all providers share one directory",
        "A1",
        OPENING,
        'os.path.join(state, provider, "claims")',
        'os.path.join(state, "claims")',
    ),
    Plant(
        "a look at all plugins ends at one that others can write",
        "A1",
        STORE,
        "if namespace is not None or problem is None:",
        "if True:",
    ),
    Plant(
        "a key keeps its colons",
        "A2",
        NAMES,
        r'_REPLACED = re.compile(r"[/\\#:]")',
        r'_REPLACED = re.compile(r"[/\\#]")',
    ),
    Plant(
        "our claim on another key in the same file is taken for the asked one",
        "A3",
        "mcp_claims/claims.py",
        "claim.ended is None and claim.scoped == scoped",
        "claim.ended is None",
    ),
    Plant(
        "any host's PIDs are judged",
        "A4",
        "mcp_claims/machine/linux.py",
        "holder.is_on(self.host()) and self._look",
        "self._look",
    ),
    Plant(
        "a year beyond the calendar is unreadable",
        "A4",
        "mcp_claims/record_json.py",
        'if re.match(_FAR_YEAR, _required(record, "expiresAt")):',
        "if False:",
    ),
    Plant(
        "the original's lock is not waited for",
        "A5",
        STORE,
        "                if swap is not None:\n                    return swap\n",
        "                return swap or Swap(False, None)\n",
    ),
    Plant(
        "waits with the kernel lock in hand",
        "A5",
        STORE,
        "                    swap = self._try_change(entered, path, lock_path, scoped, old, new)\n",
        "                    swap = self._try_change(entered, path, lock_path, scoped, old, new)\n                    self._kernel.sleep(LOCK_PAUSE if swap is None else 0)\n",
    ),
    Plant(
        "a live owner's lock goes after 10 s",
        "A6",
        LOCK,
        "return is_gone(pid) or (ours and age > STALE_AFTER)",
        "return is_gone(pid) or age > STALE_AFTER",
    ),
    Plant(
        "a dead owner's lock stays",
        "A6",
        LOCK,
        "return is_gone(pid) or (ours and age > STALE_AFTER)",
        "return ours and age > STALE_AFTER",
    ),
    Plant(
        "what was moved aside is not looked at",
        "A7",
        LOCK,
        "        if not is_the_one(found):\n",
        "        if False:\n",
    ),
    Plant("what is in a lock besides goes with it", "A7", LOCK, " or set(kernel.names(path)) - {_META}:", ":"),
    Plant(
        "not looked at before the write",
        "A8",
        CHANGE,
        "if not (lock.is_ours() and self._put(seen, new)):",
        "if not self._put(seen, new):",
    ),
    Plant(
        "not looked at after the write",
        "A8",
        CHANGE,
        "Swap(True, new) if lock.is_ours() else self._settle(seen, new)",
        "Swap(True, new)",
    ),
    Plant(
        "a first claim replaces what is there",
        "A8",
        CHANGE,
        "            self._kernel.link(self._new, self._path)",
        "            self._kernel.replace(self._new, self._path)",
    ),
    Plant(
        "a lock without its owner's PID",
        "A9",
        LOCK,
        '        kernel.link(fresh, f"{path}/{_META}")',
        "        kernel.remove(fresh)",
    ),
    Plant("half a record is unreadable at once", "A10", STORE, "_LOOKS = 10", "_LOOKS = 1"),
    Plant(
        "corrupt means free",
        "A11",
        "mcp_claims/stores/agent_awareness/reading.py",
        "        return unreadable(path, status, str(error))",
        "        return None",
    ),
    Plant(
        "an impossible expiry of ours is believed",
        "A11",
        "mcp_claims/stores/agent_awareness/reading.py",
        "else from_json(data, last_change(status))",
        "else from_json(data)",
    ),
    Plant(
        "generations begin anew after the original's",
        "A12",
        STORE,
        "after = old.generation if isinstance(old, Claim) else 0\n                    new = new.numbered(entered.next_generation(after, new.claimed.epoch))",
        "new = new._replace(generation=1 + (old.generation if isinstance(old, Claim) else 0))",
    ),
    Plant(
        "any directory's files are shown",
        "A13",
        STORE,
        "if name.endswith(RECORD) and is_record_name(name.removesuffix(RECORD)):",
        'if not name.startswith("."):',
    ),
    Plant(
        "directories are entered as deep as they go",
        "A2",
        "mcp_claims/stores/agent_awareness/store.py",
        "                if len(namespace.encode()) > MAX_KEY_BYTES:",
        "                if not namespace:",
    ),
]
