"""What only these tests are given."""

import pytest


@pytest.fixture
def lease_seconds() -> float:
    """Shorter than a service may have it: these tests wait for leases to end."""
    return 0.5
