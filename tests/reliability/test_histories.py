"""Random histories of clients, services and engines against a model of one operation after the other."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.reliability.history import Step, play, shorten, told
from tests.reliability.machine import Histories

EXAMPLES = 12
# How long a history that fails is made shorter before it is told, seconds.
_SHORTEN_S = 25.0


def _run(examples: int) -> None:
    last: list[Step] = []

    class Kept(Histories):
        def __init__(self) -> None:
            nonlocal last
            super().__init__()
            last = self.history

    options = settings(
        max_examples=examples,
        stateful_step_count=50,
        derandomize=True,
        deadline=None,
        database=None,
        # Made shorter here, for a known time: to Hypothesis each step is a dozen choices, and that takes many minutes.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    failed: Exception | None = None
    try:
        run_state_machine_as_test(Kept, settings=options)
    except Exception as error:
        failed = error
    if failed is not None:
        short = shorten(Histories, last, _SHORTEN_S)
        # None where it does not fail again, which would be a fault of the machine.
        found = play(Histories, short)
        what = f"{type(found).__name__}: {found}" if found else f"once, and not when it was played again: {failed}"
        raise AssertionError(f"{what}\nin this history:\n{told(short)}") from (found or failed)


@pytest.mark.row(210, 211)
def test_any_history_ends_as_if_each_operation_had_run_once_and_in_order() -> None:
    _run(EXAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.row(210, 211)
def test_many_histories_end_so() -> None:
    _run(50 * EXAMPLES)
