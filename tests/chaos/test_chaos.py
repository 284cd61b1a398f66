"""A short run with a fixed seed; `make chaos` has long ones."""

import pytest
from django.db import connection

from .run import Plan, carry_out

NAMES = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mariadb"}


@pytest.mark.timeout(400)
def test_a_short_run_keeps_every_promise():
    plan = Plan(
        database=NAMES[connection.vendor], seed=20, seconds=12, tasks=80, pace=0.7
    )

    verdict = carry_out(plan)

    print(verdict)
    assert verdict.broken == []
    # A busy machine has fewer processes to pick from at the moment of a fault.
    assert sum(verdict.faults.values()) >= 5
    assert verdict.ended > plan.tasks
