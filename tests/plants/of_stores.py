"""Faults of names, of the file store and of generations."""

from __future__ import annotations

from tests.plants.plant import Plant

NAMES, FILES, LOCK, KERNEL, SECRET = (
    f"mcp_claims/stores/{name}.py" for name in ("names", "files", "namespace_lock", "kernel", "secret_file")
)

STORES = [
    Plant(
        "upper case is kept",
        "N1 6",
        NAMES,
        'rstuvwxyz0123456789-_.")',
        'rstuvwxyz0123456789-_.ABCDEFGHIJKLMNOPQRSTUVWXYZ")',
    ),
    Plant(
        "/ and # become _, as in the original",
        "N1 6",
        NAMES,
        "chr(byte) if byte in _PLAIN else _escape(byte)",
        'chr(byte) if byte in _PLAIN else "_"',
    ),
    Plant("a leading dot is kept", "N2", NAMES, 'if name[0] == ".":', "if False:"),
    Plant("device names are kept", "N2", NAMES, 'if name.partition(".")[0] in _DEVICES:', "if False:"),
    Plant(
        "long names are cut without a hash",
        "N3",
        NAMES,
        'name[:_PREFIX]) + "~" + hashlib.sha256(data).hexdigest()',
        "name[:MAX_NAME])",
    ),
    Plant("no limit to a name", "N3", NAMES, "if len(name) > MAX_NAME:", "if False:"),
    Plant("no lock", "S1 1 2", KERNEL, "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    Plant(
        "the lock of POSIX, which threads share",
        "S1",
        KERNEL,
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    ),
    Plant(
        "a lock that is busy is broken",
        "S1 S6 1 16",
        LOCK,
        "                raise StoreBusyError(self._path, self._wait)",
        "                return",
    ),
    Plant(
        "a thread of this process gets no moment from who may not wait",
        "S6",
        LOCK,
        "_TURN_OF_OURS = 0.002",
        "_TURN_OF_OURS = 0.0",
    ),
    Plant(
        "who waits for a thread of this process asks as often at once as for another process",
        "S6",
        LOCK,
        "_ASKED_OF_OURS, _LONGEST_FOR_OURS = 1, 0.000_2",
        "_ASKED_OF_OURS, _LONGEST_FOR_OURS = ASKED, 0.000_2",
    ),
    Plant(
        "each who asks gives a thread of this process a turn",
        "S6",
        LOCK,
        "                    _ours[self._path] = False",
        "                    pass",
    ),
    Plant(
        "a forked child believes that its parent's threads are its own",
        "S6",
        LOCK,
        "os.register_at_fork(after_in_child=_ours.clear)",
        "os.register_at_fork(after_in_parent=_ours.clear)",
    ),
    Plant(
        "what is no file can be a lock file",
        "S5",
        LOCK,
        "if not stat.S_ISREG(self._file.st_mode):",
        "if False:",
    ),
    Plant(
        "the lock file is removed after use",
        "S2 2",
        LOCK,
        "            self._kernel.unlock(self._fd)\n",
        '            self._kernel.unlock(self._fd)\n            os.unlink(f"{self._directory}/{LOCK_FILE}")\n',
    ),
    Plant(
        "who waited does not look whether the file is still there",
        "S2",
        LOCK,
        "                if self._is_at_its_path():\n                    _ours",
        "                if True:\n                    _ours",
    ),
    Plant(
        "nobody looks again before a change",
        "S2",
        LOCK,
        "if not self._is_at_its_path():",
        "if False:",
    ),
    Plant(
        "no comparison",
        "S3 3 4",
        FILES,
        "                if found is not old and found != old:",
        "                if False:",
    ),
    Plant(
        "written in place, not by rename",
        "S4 11",
        FILES,
        "self._write_by_way_of(fresh, path, data, lock)",
        "self._write_by_way_of(path, path, data, lock)",
    ),
    Plant("nobody can mount a namespace", "S4", FILES, "if error.errno != errno.EXDEV:", "if True:"),
    Plant(
        "what a crash left of a write stays",
        "S4",
        FILES,
        "        except FileExistsError:\n            self._remove(new, lock)\n",
        "        except FileExistsError:\n",
    ),
    Plant(
        "unreadable means free",
        "S5 5",
        FILES,
        "            return unreadable(path, status, str(error))",
        "            return None",
    ),
    Plant(
        "larger than allowed means free",
        "S5",
        FILES,
        '            return unreadable(path, status, f"larger',
        '            return None\n            return unreadable(path, status, f"larger',
    ),
    Plant(
        "not permitted means free",
        "S5",
        "mcp_claims/stores/unreadable.py",
        'return unreadable(path, kernel.status_of(path), error.strerror or "cannot be opened")',
        "return None",
    ),
    Plant("about another key means ours", "S5", FILES, "if claim.scoped != scoped and (", "if False and ("),
    Plant(
        "age by what touch can set",
        "S5",
        KERNEL,
        'return status.st_mtime if sys.platform == "win32" else status.st_ctime',
        "return status.st_mtime",
    ),
    Plant(
        "nobody's after an hour",
        "S5",
        "mcp_claims/rules.py",
        "return now.wall - found.changed > MAX_TTL",
        "return now.wall - found.changed > timedelta(hours=1)",
    ),
    Plant(
        "an impossible expiry is believed",
        "S5",
        "mcp_claims/rules.py",
        "    return impossible and claim.stored",
        "    return False and claim.stored",
    ),
    Plant(
        "a directory in a claim's place is not put aside",
        "S5",
        FILES,
        "if stat.S_ISDIR(status.st_mode):\n            # It",
        "if False:\n            # It",
    ),
    Plant(
        "asks once, then sleeps",
        "S6",
        KERNEL,
        "for _ in range(asked):",
        "for _ in range(1):",
    ),
    Plant("waits without end", "S6 16", LOCK, "left = deadline - self._kernel.monotonic()", "left = 1.0"),
    Plant(
        "errors of the system come as they are",
        "S7 12",
        "mcp_claims/stores/trust.py",
        "return StoreUnavailableError(error.filename or where, error)",
        "return error",
    ),
    Plant(
        "a descriptor is left open",
        "S7 12",
        FILES,
        "                data = self._read_all(fd, status.st_size)\n            finally:\n                kernel.close(fd)",
        "                data = self._read_all(fd, status.st_size)\n            finally:\n                pass",
    ),
    Plant(
        "group and others may write", "S8", KERNEL, "if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):", "if False:"
    ),
    Plant("another user's directory is taken", "S8", KERNEL, "if status.st_uid != os.geteuid():", "if False:"),
    Plant("a namespace may be a link", "S8", KERNEL, "if stat.S_ISLNK(status.st_mode):", "if False:"),
    Plant("modes by the umask", "S8", KERNEL, "                os.fchmod(fd, 0o600)", "                pass"),
    Plant("trusted for ever", "S8", "mcp_claims/stores/trust.py", "_TRUST_LASTS = 1.0", "_TRUST_LASTS = 1e9"),
    Plant(
        "one unsafe namespace hides all",
        "S8",
        FILES,
        "                if namespace is not None or problem is None:\n",
        "                if True:\n",
    ),
    Plant("directories that are not ours are entered", "S8", FILES, "and self._is_namespace(directory)", ""),
    Plant(
        "each claim is synced",
        "S9",
        FILES,
        "            lock.still_locked()\n            self._kernel.replace(new, path)",
        "            lock.still_locked()\n            self._kernel.sync_directory(os.path.dirname(path))\n            self._kernel.replace(new, path)",
    ),
    Plant(
        "the claim is written before the mark",
        "G1",
        FILES,
        "new = new.numbered(lock.next_generation(after, new.claimed.epoch))\n                data = to_json(new)\n                self._write(path, fresh, data, lock)",
        "data = to_json(new.numbered(max(lock._last()[0], after) + 1))\n                    self._write(path, fresh, data, lock)\n                    new = new.numbered(lock.next_generation(after, new.claimed.epoch))",
    ),
    Plant("counted per claim only", "G1", LOCK, "value = max(given, after) + 1", "value = after + 1"),
    Plant("no leap in a new boot", "G2", LOCK, "given = given + LEAP if given or written_in else 0", "given = given"),
    Plant("the leap is not synced", "G2", LOCK, "            self._kernel.sync(self._fd)\n", ""),
    Plant(
        "a damaged mark counts from zero", "G2", LOCK, "return time.time_ns() // 1_000, _DAMAGED", "return 0, _DAMAGED"
    ),
    Plant(
        "a mark that is gone counts from zero", "G2", LOCK, 'return _above_all() if lost else (0, "")', 'return 0, ""'
    ),
    Plant(
        "the secret is made by each for itself",
        "I5",
        FILES,
        "                found = read_secret(self._kernel, path)\n                if found is None:\n",
        "                found = None\n                if found is None:\n",
    ),
    Plant(
        "a secret that others can read is used", "I5", SECRET, "status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)", "False"
    ),
]
