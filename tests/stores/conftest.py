"""What the tests of stores share."""

from __future__ import annotations

import pytest

# These hold assertions but are no test modules.
pytest.register_assert_rewrite("tests.stores.contract", "tests.stores.samples")
