"""A forward_backward while it is computed: its rows as the engine takes them, and what came out so far.

Rows are computed in units: one row, or the two of a pair, whose loss is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tinsmith.engine.jobs import NotFinite, RowOutput, TrainRow
from tinsmith.types.codec import decode_forward_backward_request, encode_forward_backward_output
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import ForwardBackward, Operation
from tinsmith.types.errors import UserError
from tinsmith.types.facts.loss_table import unit_of
from tinsmith.types.outputs import ForwardBackwardOutput, LossFnOutput, reduce_metrics
from tinsmith.types.tensor import TensorData

# How an engine, which sees one unit at a time, begins its complaints about a row of one.
_ROW = re.compile(r"data\[(\d+)\]")


@dataclass(slots=True)
class Task:
    """A forward_backward that is being computed.

    Attributes:
        op: the operation.
        rows: its datums as the engine takes them.
        costs: tokens of each row.
        unit: rows that have to be computed together.
        outputs: results of the rows computed so far.
        error: why the operation fails, None while it does not.
    """

    op: Operation
    rows: list[TrainRow] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    unit: int = 1
    outputs: list[RowOutput] = field(default_factory=list)
    error: Exception | None = None

    @classmethod
    def of(cls, op: Operation, row_cost: Callable[[Datum], int]) -> Task:
        """Read an operation; one that cannot be read is a task with an error, which is answered in its turn.

        Args:
            op: the operation.
            row_cost: tokens that a datum takes of a pass.
        """
        task = cls(op)
        try:
            request = decode_forward_backward_request(op.read_body())
            if op.replay and request.forward_only:
                return task  # it had no effect, and its result is recorded
            model_id = op.model_id or ""
            task.rows = [
                TrainRow(
                    model_id, datum, request.loss_fn, request.loss_fn_config, not request.forward_only, task.reference
                )
                for datum in request.data
            ]
            task.unit = unit_of(request.loss_fn)
            task.costs = [row_cost(datum) for datum in request.data]
        except Exception as error:
            task.error = error
        return task

    @property
    def settled(self) -> bool:
        """Whether no row is left to compute."""
        return self.error is not None or len(self.outputs) == len(self.rows)

    @property
    def backward(self) -> bool:
        """Whether the operation leaves gradients, or would have."""
        return not self.rows or self.rows[0].backward

    @property
    def reference(self) -> str | None:
        """What its request names for preferences to be measured against."""
        return self.op.work.reference if isinstance(self.op.work, ForwardBackward) else None

    def take(self, start: int, outputs: Iterable[RowOutput | Exception]) -> None:
        """Keep the results of a unit, whose first row is `start`; after the first failure the others do not matter."""
        for output in outputs:
            if self.error is not None:
                return
            if isinstance(output, UserError):
                self.error = type(output)(_complaint(start, output.message))
            elif isinstance(output, Exception):
                self.error = output
            else:
                self.outputs.append(output)

    def payload(self) -> bytes:
        """Return the encoded result: per datum the logprobs, and metrics over all rows.

        Raises:
            Exception: the operation failed.
        """
        if self.op.replay and isinstance(self.error, NotFinite):
            # Earlier versions answered it, and refused the next optimizer step: it has left no gradients, as now.
            return b""
        if self.error is not None:
            raise self.error
        metrics = {"loss:sum": sum(output.loss for output in self.outputs), "tokens:sum": float(sum(self.costs))}
        metrics |= reduce_metrics([(output.metrics, 1) for output in self.outputs]) if self.outputs else {}
        outputs = [_answer(output) for output in self.outputs]
        return encode_forward_backward_output(ForwardBackwardOutput("ArrayRecord", outputs, metrics))


def _answer(output: RowOutput) -> LossFnOutput:
    answer = {"logprobs": TensorData.from_numpy(output.logprobs)}
    if output.ref_logprobs is not None:
        answer["ref_logprobs"] = TensorData.from_numpy(output.ref_logprobs)
    return answer


def _complaint(start: int, message: str) -> str:
    """Return an engine's complaint about a unit, with the rows counted as the request has them."""
    if _ROW.match(message) is None:
        return f"data[{start}]: {message}"
    # All of them: what is wrong with a rejected row is told by naming the chosen one, too.
    return _ROW.sub(lambda row: f"data[{start + int(row[1])}]", message)


class Placed(NamedTuple):
    """A unit of a task with its place in a pass."""

    task: Task
    start: int

    @property
    def rows(self) -> list[TrainRow]:
        """The rows of the unit."""
        return self.task.rows[self.start : self.start + self.task.unit]

    @property
    def cost(self) -> int:
        """Tokens of the unit."""
        return sum(self.task.costs[self.start : self.start + self.task.unit])
