"""The claims core from Python, without MCP: guard a piece of work.  Run: python examples/without_mcp.py [KEY]"""

from __future__ import annotations

import sys

from mcp_claims import Claim, ClaimsError, FileStore, claims_directory, process_session


def main() -> int:
    key = sys.argv[1] if len(sys.argv) > 1 else "example:nightly-report"
    try:
        with process_session(FileStore(claims_directory())) as claims:
            attempt = claims.try_claim(key, "examples", ttl_minutes=5, note="running the example")
            if not attempt.claimed:
                by = attempt.found.holder.name if isinstance(attempt.found, Claim) else attempt.found.problem
                print(f"not ours: {key} is held by {by}")
                return 1
            assert isinstance(attempt.found, Claim)
            print(f"ours, generation {attempt.found.generation}: doing the work")
            # Leaving the block releases the claim; so does dying, by whatever cause.
            return 0
    except ClaimsError as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
