"""Guard a piece of work from Python, without MCP.  Run: python examples/without_mcp.py [KEY]"""

from __future__ import annotations

import sys

from mcp_claims import Claim, ClaimsError, open_session


def main() -> int:
    """Return 0 after the work, 1 if somebody else holds the key, 3 if the store cannot be used."""
    key = sys.argv[1] if len(sys.argv) > 1 else "nightly-report:2026-11-28"
    try:
        # The end of the block releases the claim; so does the death of the process.
        with open_session() as session:
            result = session.try_claim(key, "examples", ttl_minutes=5, note="running the example")
            if not result.claimed:
                holder = result.found.holder.name if isinstance(result.found, Claim) else "an unreadable record"
                print(f"refused: {key} is {result.status.value}, by {holder}")
                return 1
            assert isinstance(result.found, Claim)
            print(f"ours, generation {result.found.generation}: doing the work")
            return 0
    except ClaimsError as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
