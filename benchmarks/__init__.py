"""What mcp-claims costs, each figure beside a floor: the same work without mcp-claims.

    python -m benchmarks [SUBJECT...] [--quick] [--json] [--write]

The two sides of a comparison run alternately (A B A B …), so that other load on the machine affects both.  Only the
ratios can be compared with those of other machines.
"""
