# What a developer needs.  `uvx --from rust-just just` runs it where `just` is not installed.

# List the commands.
default:
    @just --list

# Make the environment that all others use.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -e '.[dev]'

# Run the tests, or those in PATHS.
test *PATHS:
    .venv/bin/pytest {{ PATHS }}

# Check style, types and layers.
lint:
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/lint-imports
    .venv/bin/mypy
    .venv/bin/mypy --platform darwin mcp_claims
    .venv/bin/mypy --platform win32 mcp_claims

# Build the documentation into `docs/site/`.
docs:
    uv run --locked --no-default-groups --group docs zensical build -f docs/zensical.toml --clean --strict

# Measure what it costs; SUBJECTS are those of `python -m benchmarks --help`.
bench *SUBJECTS:
    .venv/bin/python -m benchmarks {{ SUBJECTS }}

# Do all that CI does, on a clean clone.
ci:
    .ci/run
