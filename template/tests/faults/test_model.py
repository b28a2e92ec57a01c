"""Many orders of claims, ends and take-overs, other ones each time."""

from collections.abc import Callable

from hypothesis import HealthCheck
from hypothesis import settings as effort

from tests.core.test_model import LedgerModel, model, run_model

__all__ = ["model"]


def test_in_many_orders_a_fire_has_one_owner_and_one_outcome(
    model: Callable[[], LedgerModel],
) -> None:
    """A failure prints the steps that lead to it, as few as there can be."""
    many = effort(
        max_examples=100,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_model(model, settings=many)
