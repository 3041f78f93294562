"""A forward_backward while it is computed: what is read, what its units are, and what it answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.operations import forward_backward, preferences
from tinsmith.engine.jobs import RowOutput
from tinsmith.scheduler.training_task import Placed, Task
from tinsmith.types.codec import decode_forward_backward_output
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError


def length(datum: Datum) -> int:
    return datum.model_input.length


def output(loss: float, **metrics: float) -> RowOutput:
    return RowOutput(np.array([-loss, 0.0], dtype=np.float32), loss, metrics)


def test_rows_and_their_costs_are_read() -> None:
    task = Task.of(forward_backward("m", 1, [[1, 2], [3, 4, 5]]), length)
    assert (task.unit, task.costs, task.backward, task.settled) == (1, [2, 3], True, False)
    assert [(row.model_id, row.loss_fn, row.datum.model_input.to_ints()) for row in task.rows] == [
        ("m", "cross_entropy", [1, 2]),
        ("m", "cross_entropy", [3, 4, 5]),
    ]
    assert Placed(task, 1).rows == task.rows[1:]
    assert Placed(task, 1).cost == 3


def test_the_two_of_a_pair_are_one_unit() -> None:
    task = Task.of(preferences("m", 1, [1, 2, 3, 4], length=3, reference="folder"), length)
    assert (task.unit, Placed(task, 2).rows, Placed(task, 2).cost) == (2, task.rows[2:], 6)
    assert {row.reference for row in task.rows} == {task.reference} == {"folder"}


def test_what_cannot_be_read_is_answered_with_why() -> None:
    op = forward_backward("m", 1, [1])

    def refuse(_: Datum) -> int:
        raise UserError("data[0]: no")

    task = Task.of(op, refuse)
    assert task.settled
    with pytest.raises(UserError, match=r"data\[0\]: no"):
        task.payload()


def test_a_replay_does_not_compute_what_leaves_no_gradients() -> None:
    assert Task.of(forward_backward("m", 1, [1], forward_only=True, replay=True), length).rows == []
    assert len(Task.of(forward_backward("m", 1, [1], forward_only=True), length).rows) == 1


def test_the_answer_sums_the_losses_and_merges_the_metrics() -> None:
    task = Task.of(forward_backward("m", 1, [1, 2]), length)
    task.take(0, [output(1.0, **{"accuracy:mean": 1.0})])
    assert not task.settled
    task.take(1, [output(0.5, **{"accuracy:mean": 0.0})])
    assert task.settled
    answer = decode_forward_backward_output(task.payload())
    assert answer.metrics == {"loss:sum": 1.5, "tokens:sum": 4.0, "accuracy:mean": 0.5}
    assert [found["logprobs"].to_numpy().tolist() for found in answer.loss_fn_outputs] == [[-1.0, 0.0], [-0.5, 0.0]]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("data[1].weights: got 3", "data[5].weights: got 3"),
        ("data[1]: longer than data[0]", "data[5]: longer than data[4]"),
        ("no room", "data[4]: no room"),
    ],
)
def test_a_complaint_names_the_row_of_the_request(told: str, expected: str) -> None:
    task = Task.of(preferences("m", 1, [1, 2, 3, 4, 5, 6]), length)
    task.take(4, [UserError(told), output(1.0)])
    assert task.settled
    with pytest.raises(UserError) as caught:
        task.payload()
    assert caught.value.message == expected


def test_after_the_first_failure_the_others_do_not_matter() -> None:
    task = Task.of(forward_backward("m", 1, [1, 2, 3]), length)
    first = RuntimeError("first")
    task.take(0, [first, output(1.0), RuntimeError("second")])
    assert (task.error, task.outputs) == (first, [])
