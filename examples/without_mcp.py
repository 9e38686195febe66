"""Guard a piece of work from Python, without MCP.  Run: python examples/without_mcp.py [KEY]"""

from __future__ import annotations

import sys

from mcp_claims import Claim, ClaimsError, FileStore, claims_directory, process_session


def main() -> int:
    key = sys.argv[1] if len(sys.argv) > 1 else "example:nightly-report"
    try:
        with process_session(FileStore(claims_directory())) as session:
            result = session.try_claim(key, "examples", ttl_minutes=5, note="running the example")
            if not result.claimed:
                by = result.found.holder.name if isinstance(result.found, Claim) else result.found.problem
                print(f"not ours: {key} is held by {by}")
                return 1
            assert isinstance(result.found, Claim)
            print(f"ours, generation {result.found.generation}: doing the work")
            # The end of the block releases the claim, and so does the death of this process.
            return 0
    except ClaimsError as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
