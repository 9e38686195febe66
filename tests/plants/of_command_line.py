"""Faults in what commands, hooks and `run` do."""

from __future__ import annotations

from tests.plants.plant import Plant

CLI = "mcp_claims/cli/"

COMMAND_LINE = [
    Plant(
        "trouble with the store looks like wrong usage",
        "L1",
        CLI + "main.py",
        "        return 3",
        "        return 2",
    ),
    Plant(
        "a command claims for itself",
        "L2",
        CLI + "options.py",
        "    if session is None:\n        raise InvalidInputError(",
        "    if session is None:\n        from mcp_claims.sessions.identity import process_session\n\n"
        "        return process_session(store)\n        raise InvalidInputError(",
    ),
    Plant(
        "a process that is not there may hold",
        "L2",
        "mcp_claims/sessions/identity.py",
        "    if proof.boot is None or proof.start is None or machine.provably_dead(holder):",
        "    if proof.boot is None:",
    ),
    Plant(
        "force keeps the generation",
        "L3",
        "mcp_claims/claims.py",
        "            ended=Ended(Outcome.REVOKED, now),\n",
        "            ended=Ended(Outcome.REVOKED, now),\n            generation=found.generation,\n",
    ),
    Plant(
        "force asks nobody",
        "L3",
        CLI + "acting.py",
        "    if listed.standing is Standing.HELD and not options.yes:",
        "    if False:",
    ),
    Plant(
        "the command outlives us",
        "L4",
        CLI + "child.py",
        "                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
    ),
    Plant(
        "the claim is ours, not the command's",
        "L4",
        CLI + "run.py",
        "process_session(store) if child.pid is None else session_for_process(store, child.pid)",
        "process_session(store) if child.pid is not None else session_for_process(store, child.pid)",
    ),
    Plant(
        "a command goes on without its claim",
        "L4",
        CLI + "run.py",
        "            child.stop(_PATIENCE_AFTER_LOSS)\n",
        "            child.wait(1e6)\n",
    ),
    Plant(
        "what the terminal sends comes twice",
        "L4",
        CLI + "child.py",
        "        return found.si_signo, found.si_code > 0 and",
        "        return found.si_signo, False and",
    ),
    Plant(
        "the end of a session frees what everybody holds",
        "L5",
        CLI + "hook.py",
        "        if _is_of_our_host(claim, machine):\n            session.revoke",
        "        if claim:\n            session.revoke",
    ),
    Plant(
        "the guard denies us what is ours",
        "L5",
        CLI + "hook.py",
        "        if (by_path or by_command) and not _is_of_our_host(claim, machine):",
        "        if by_path or by_command:",
    ),
    Plant(
        "a check imports what reading options takes",
        "L6",
        CLI + "main.py",
        "    plain = None if _COMPLETING in os.environ else plain_options(asked)",
        "    plain = plain_options(asked) if _COMPLETING in os.environ else None",
    ),
    Plant(
        "a plain command line means something else than a long one",
        "L6",
        CLI + "plain.py",
        '"namespace": DEFAULT_NAMESPACE',
        '"namespace": "defaults"',
    ),
    Plant(
        "the directory is not that of all other programs",
        "L6",
        "mcp_claims/stores/location.py",
        "    return state if state.startswith",
        "    return state.strip() if state.strip().startswith",
    ),
    Plant(
        "a named tuple has another field's default",
        "L6",
        "mcp_claims/typed.py",
        "if field in body]\n",
        "if field in body][::-1]\n",
    ),
    Plant(
        "a closed stream stays closed",
        "L1",
        CLI + "streams.py",
        "        if getattr(sys, name) is None:",
        "        if getattr(sys, name) is False:",
    ),
    Plant(
        "an answer that nobody reads is another answer",
        "L1",
        CLI + "streams.py",
        "    except OSError as error:\n        discard(sys.stdout)\n",
        "    except ZeroDivisionError as error:\n        discard(sys.stdout)\n",
    ),
    Plant(
        "JSON in the encoding of the terminal",
        "L1",
        CLI + "streams.py",
        '_text(sys.stdout).encoding.lower() != "utf-8"',
        "False",
    ),
    Plant(
        "threads take the signals of the command",
        "L4",
        "mcp_claims/background.py",
        "            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "            pass",
    ),
    Plant(
        "nobody looks whether the claim is taken away before it has to be renewed",
        "L4",
        CLI + "run.py",
        "due - time.monotonic()), look_every)",
        "due - time.monotonic()), ttl)",
    ),
    Plant(
        "wrong settings deny, to a host, what is about to happen",
        "L5",
        CLI + "hook.py",
        "    except ClaimsError as error:\n        return _in_trouble",
        "    except ZeroDivisionError as error:\n        return _in_trouble",
    ),
    Plant(
        "links make another path of it",
        "L5",
        CLI + "hook.py",
        "        return os.path.realpath(path)",
        "        return os.path.normpath(path)",
    ),
]
