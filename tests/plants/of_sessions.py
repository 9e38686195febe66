"""Faults of identity and of the server."""

from __future__ import annotations

from tests.plants.plant import Plant

REGISTRY, HANDLES, KEEPING, IDENTITY = (
    f"mcp_claims/sessions/{name}.py" for name in ("registry", "handles", "keeping", "identity")
)
SERVER = "mcp_claims/server/"

SESSIONS = [
    Plant(
        "a call that waits keeps the others waiting",
        "V1 16",
        "mcp_claims/waiting.py",
        "            return operation(0.0)",
        "            return operation(LOCK_WAIT)",
    ),
    Plant("signals end it without a release", "V2 14", SERVER + "stdio.py", "sessions.end(dying=True)", "pass"),
    Plant(
        "signals are not handled",
        "V2 14",
        SERVER + "stdio.py",
        "    _stop_on_signals(sessions)\n    server",
        "    server",
    ),
    Plant(
        "something is printed",
        "V3",
        SERVER + "tools.py",
        "    asked = parse(PruneArguments, arguments)\n",
        "    asked = parse(PruneArguments, arguments)\n    print('pruning')\n",
        survives="what is printed is diverted to stderr, so stdout stays clean all the same",
    ),
    Plant(
        "stdout is not diverted", "V11", SERVER + "pipes.py", "        os.dup2(2 if sys.stderr else nowhere, 1)\n", ""
    ),
    Plant("who does not read blocks the loop", "V11", SERVER + "pipes.py", "if not self._room.poll(0):", "if False:"),
    Plant(
        "keys are logged",
        "V3",
        SERVER + "app.py",
        "    try:\n        return await tool.call(",
        "    logger.warning('%s', params.arguments)\n    try:\n        return await tool.call(",
    ),
    Plant(
        "the text is the advice alone",
        "V4",
        "mcp_claims/wording.py",
        '    return f"{attempt_lead(scoped, attempt)} {attempt_advice(scoped, attempt, kept)}"',
        "    return attempt_advice(scoped, attempt, kept)",
    ),
    Plant(
        "a note is not quoted",
        "V4 15",
        "mcp_claims/wording.py",
        'f" Its note, quoted: {_quoted(claim.note)}."',
        'f" Its note, quoted: {claim.note}."',
    ),
    Plant(
        "arguments that a tool does not have are passed over",
        "V5 C9",
        SERVER + "arguments.py",
        'extra="forbid"',
        'extra="ignore"',
    ),
    Plant(
        "definitions are long",
        "V6",
        SERVER + "tools.py",
        '"Several agents see the same event; exactly one may act. ',
        '"Several agents see the same event; exactly one may act. " * 9 + "',
    ),
    Plant(
        "an id that nobody checked is an identity",
        "I1",
        SERVER + "caller.py",
        "    if context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:\n        return None\n",
        "",
    ),
    Plant(
        "who has no session acts as somebody",
        "I1",
        REGISTRY,
        "        elif caller.connection is None:\n            return None\n",
        "        elif caller.connection is None:\n            return self._session(self._nobody)\n",
    ),
    Plant(
        "handles are passed over",
        "I2",
        REGISTRY,
        "        if handle is not None:\n            opened",
        "        if handle is not None and self._own is None and not caller.connection:\n            opened",
    ),
    Plant(
        "a signature is not checked",
        "I3 I4",
        HANDLES,
        "if not hmac.compare_digest(mac, self._mac(body, text, caller)):",
        "if len(mac) != _MAC_BYTES:",
    ),
    Plant("the caller is not signed", "I3", HANDLES, 'b"" if caller is None else b"caller " + caller.encode()', 'b""'),
    Plant(
        "another spelling of the last character passes", "I3", HANDLES, "return data if canonical and", "return data if"
    ),
    Plant(
        "each process signs with a secret of its own",
        "I3",
        REGISTRY,
        "Handles(self._store.secret(wait=END_WAIT))",
        "Handles(__import__('secrets').token_bytes(32))",
    ),
    Plant(
        "the name has the secret in it",
        "I4",
        IDENTITY,
        "public = hashlib.sha256(nonce).hexdigest()[: 2 * _NONCE_BYTES]",
        "public = nonce.hex()",
        survives="a test can only look for the handle as it is spelt; that is not the handle",
    ),
    Plant(
        "what outlives its process is bound to it",
        "I6",
        IDENTITY,
        "proof = machine.proof() if bound else Proof()",
        "proof = machine.proof()",
    ),
    Plant(
        "a fixed session is bound to its process",
        "I6",
        IDENTITY,
        "return Claims(store, Holder(holder_name(machine, _FIXED, name), machine.pid()), machine)",
        "return Claims(store, Holder(holder_name(machine, _FIXED, name), machine.pid(), machine.proof()), machine)",
    ),
    Plant("nothing is renewed", "I7", KEEPING, "            elif now >= kept.due:", "            elif False:"),
    Plant("renewed for ever", "I7", KEEPING, "if now > kept.until:", "if False:"),
    Plant(
        "renewed though nobody calls",
        "I7",
        REGISTRY,
        "if stays or now - session.used <= self._idle]",
        "if True]",
    ),
    Plant(
        "a renewal claims anew",
        "I7",
        "mcp_claims/claims.py",
        "        else:\n            return None\n        assert isinstance(found, Claim)",
        "        else:\n            found = self.try_claim(*reversed(scoped), wait=0).found\n        assert isinstance(found, Claim)",
    ),
    Plant(
        "DELETE is passed over",
        "I8",
        SERVER + "http.py",
        'if ending and message["type"]',
        'if False and message["type"]',
    ),
    Plant("idle sessions stay", "I8", REGISTRY, "if connection not in self._requests and now", "if False and now"),
    Plant(
        "a session with an open request ends as idle",
        "I8",
        REGISTRY,
        "if connection not in self._requests and now",
        "if now",
    ),
    Plant(
        "any address is served without a token",
        "I9",
        SERVER + "http.py",
        "if not local and settings.tokens is None:",
        "if False:",
    ),
    Plant(
        "any token is let in",
        "I9",
        SERVER + "tokens.py",
        "        if not known:\n            return None\n",
        "        known = known or self._digests\n",
    ),
    Plant(
        "any name may mean this machine",
        "I9",
        SERVER + "http.py",
        "enable_dns_rebinding_protection=local,",
        "enable_dns_rebinding_protection=False,",
    ),
    Plant(
        "two resources have one URI",
        "V7",
        SERVER + "resources.py",
        'return "%61ll" if namespace == "all" else quote(namespace, safe="")',
        'return quote(namespace, safe="")',
    ),
    Plant(
        "nobody is woken by a change",
        "V8",
        "mcp_claims/patience.py",
        "        with claims.watch(scoped, changed.send):",
        "        with claims.watch(scoped, lambda: None):",
    ),
    Plant(
        "there are no lines",
        "V9",
        "mcp_claims/stores/files.py",
        "        return place_in_line(directory, scoped.key, tell)",
        "        return nullcontext(False)",
    ),
    Plant(
        "everybody is told of everything",
        "V10",
        SERVER + "subscriptions.py",
        "entered.enter_context(self._claims.watch(read_uri(uri), tell))",
        "entered.enter_context(self._claims.watch(None, tell))",
    ),
    Plant(
        "who has gone is watched for",
        "V10",
        SERVER + "subscriptions.py",
        "            if watch := self._watches.pop(uri, None):\n                _end(watch)",
        "            pass",
    ),
]
