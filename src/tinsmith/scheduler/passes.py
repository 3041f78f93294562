"""Packed passes: the rows of all models whose turn it is, merged up to a token budget.

Within a model, rows are computed strictly in the order of its operations, and a pass takes rows of one operation only:
so a model that is alone meets the same passes, and gets the same sums to the last bit, however fast its operations
arrive, in a replay too. Between models the one that has had the fewest tokens goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.scheduler.failures import is_out_of_memory, raise_if_fatal
from tinsmith.scheduler.fairness import FairShare
from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.types.codec import decode_forward_backward_request, encode_forward_backward_output
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import ForwardBackwardOutput
from tinsmith.types.tensor import TensorData

# How an engine, which sees one row at a time, begins its complaints about one.
_ROW = "data[0]"

# Stands where an output will be once its half was computed.
_COMPUTED_AGAIN = RuntimeError("computed again")


class TrainingEngine(Protocol):
    """What training needs of an engine."""

    @property
    def max_tokens_per_pass(self) -> int:
        """Token budget of a pass."""
        ...

    def row_cost(self, datum: Datum) -> int:
        """Tokens that a row takes of a pass."""
        ...

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        """Compute one pass; where it raises, no gradient of any model has changed."""
        ...


@dataclass(slots=True)
class Task:
    """A forward_backward that is being computed.

    Attributes:
        op: the operation.
        rows: its datums as the engine takes them.
        costs: tokens of each row.
        outputs: results of the rows computed so far.
        error: why the operation fails, None while it does not.
    """

    op: Operation
    rows: list[TrainRow] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    outputs: list[RowOutput] = field(default_factory=list)
    error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether no row is left to compute."""
        return self.error is not None or len(self.outputs) == len(self.rows)

    @property
    def backward(self) -> bool:
        """Whether the operation leaves gradients, or would have."""
        return not self.rows or self.rows[0].backward

    def take(self, index: int, output: RowOutput | Exception) -> None:
        """Keep the result of a row; after the first failure the others do not matter."""
        if self.error is not None:
            return
        if isinstance(output, UserError):
            self.error = UserError(f"data[{index}]{_complaint(output.message)}")
        elif isinstance(output, Exception):
            self.error = output
        else:
            self.outputs.append(output)

    def payload(self) -> bytes:
        """Return the encoded result: per datum the logprobs, and sums over the rows as metrics.

        Raises:
            Exception: the operation failed.
        """
        if self.error is not None:
            raise self.error
        metrics = {"loss:sum": 0.0, "tokens:sum": float(sum(self.costs))}
        for output in self.outputs:
            metrics["loss:sum"] += output.loss
            for name, value in output.metrics.items():
                metrics[f"{name}:sum"] = metrics.get(f"{name}:sum", 0.0) + value
        outputs = [{"logprobs": TensorData.from_numpy(output.logprobs)} for output in self.outputs]
        return encode_forward_backward_output(ForwardBackwardOutput("ArrayRecord", outputs, metrics))


def _complaint(message: str) -> str:
    return message.removeprefix(_ROW) if message.startswith(_ROW) else f": {message}"


class Placed(NamedTuple):
    """A row of a task with its place in a pass."""

    task: Task
    index: int

    @property
    def cost(self) -> int:
        """Tokens of the row."""
        return self.task.costs[self.index]


def _fits(row: Placed, first: Placed, room: int) -> bool:
    return row.cost <= room and row.task.backward == first.task.backward


class Passes:
    """The passes of one engine."""

    def __init__(self, engine: TrainingEngine) -> None:
        self._engine = engine
        self._fair: FairShare[str] = FairShare()
        # Per model, in its order: the tasks that were opened and not handed back yet. The first of them is the first of
        # the model's ready run, so that positions in both are the same.
        self._tasks: dict[str, deque[Task]] = {}
        self.tokens = 0

    def forget(self, model_id: str) -> None:
        """Drop what is half done for a model; its operations are answered by the caller."""
        self._tasks.pop(model_id, None)

    def turn(self, queues: Iterable[ModelQueue]) -> list[tuple[ModelQueue, Task]]:
        """Compute one pass.

        Args:
            queues: the models that have a forward_backward ready.

        Returns:
            the operations that are done, each model's in order.
        """
        by_model = {queue.model_id: queue for queue in queues}
        placed = self._collect(by_model)
        for (task, index), output in zip(placed, self._compute(placed), strict=True):
            task.take(index, output)
        return [(by_model[m], task) for m in by_model for task in self._take_finished(m)]

    def _collect(self, queues: dict[str, ModelQueue]) -> list[Placed]:
        """Choose the rows of a pass, all forward-only or none, within the budget unless the first alone exceeds it.

        Small rows may fill what a needier model's next row leaves, but not run ahead of it by more than a budget.
        """
        rows: list[Placed] = []
        budget = room = self._engine.max_tokens_per_pass
        cursors = {model_id: _Cursor(self, queue) for model_id, queue in queues.items()}
        self._fair.activate(cursors)
        while cursors:
            model_id = self._fair.least(cursors)
            found = cursors[model_id].seek()
            if found is None or self._fair.lead(model_id) > budget or (rows and not _fits(found, rows[0], room)):
                # Out of this pass altogether: its rows keep their order, so none further on may fill the gap.
                del cursors[model_id]
                continue
            cursors[model_id].advance()
            rows.append(found)
            # Now, not when the pass succeeds: no recovery point may come between a part of a step and the rest of it.
            queues[model_id].dirty |= found.task.backward
            room -= found.cost
            self.tokens += found.cost
            self._fair.charge(model_id, found.cost)
        return rows

    def open_task(self, queue: ModelQueue, position: int) -> Task | None:
        """Return the task at `position` of the model's run of forward_backwards, opened on first use."""
        tasks = self._tasks.setdefault(queue.model_id, deque())
        if position == len(tasks):
            op = queue.ready_pass(position)
            if op is None:
                return None
            tasks.append(self._open(op))
        return tasks[position]

    def _open(self, op: Operation) -> Task:
        task = Task(op)
        try:
            request = decode_forward_backward_request(op.read_body())
            if op.replay and request.forward_only:
                return task  # it had no effect, and its result is recorded
            model_id = op.model_id or ""
            task.rows = [
                TrainRow(model_id, datum, request.loss_fn, request.loss_fn_config, not request.forward_only)
                for datum in request.data
            ]
            task.costs = [self._engine.row_cost(datum) for datum in request.data]
        except Exception as error:
            task.error = error  # answered in its turn, like a failed row
        return task

    def _compute(self, placed: Sequence[Placed]) -> list[RowOutput | Exception]:
        """Compute rows in one pass; those for which that was too much are computed again in halves.

        A pass that raises, and rows for which memory ran out, have left no gradients.
        """
        if not placed:
            return []
        outputs, again = self._pass(placed)
        # A row that is too much by itself has no smaller half.
        if not again or len(placed) == 1:
            return outputs
        for i in again:
            outputs[i] = _COMPUTED_AGAIN  # the errors hold on to the failed pass's tensors
        middle = (len(again) + 1) // 2
        for half in (again[:middle], again[middle:]):
            for i, output in zip(half, self._compute([placed[i] for i in half]), strict=True):
                outputs[i] = output
        return outputs

    def _pass(self, placed: Sequence[Placed]) -> tuple[list[RowOutput | Exception], list[int]]:
        """Compute one pass; return the outputs, and which of them may do better in a smaller pass."""
        try:
            outputs = self._engine.train_rows([task.rows[index] for task, index in placed])
        except Exception as error:
            raise_if_fatal(error)
            return [error] * len(placed), list(range(len(placed)))
        failed = [(i, output) for i, output in enumerate(outputs) if isinstance(output, Exception)]
        for _, error in failed:
            raise_if_fatal(error)
        return outputs, [i for i, error in failed if is_out_of_memory(error)]

    def _take_finished(self, model_id: str) -> list[Task]:
        tasks = self._tasks.get(model_id, deque())
        finished: list[Task] = []
        while tasks and tasks[0].settled:
            finished.append(tasks.popleft())
        return finished


class _Cursor:
    """Where one model stands while a pass is being collected."""

    def __init__(self, passes: Passes, queue: ModelQueue) -> None:
        self._passes = passes
        self._queue = queue
        self._position = 0
        self._taken = 0

    def seek(self) -> Placed | None:
        """Go to the model's next row and return it, None where it has none for this pass; stays there if repeated."""
        while True:
            task = self._passes.open_task(self._queue, self._position)
            if task is None:
                return None
            index = len(task.outputs) + self._taken
            if task.error is None and index < len(task.rows):
                return Placed(task, index)
            # One operation per pass, as the module says: what else has arrived by now must not change the sums.
            if self._taken:
                return None
            self._position += 1

    def advance(self) -> None:
        """Go past the row that `seek` returned."""
        self._taken += 1
