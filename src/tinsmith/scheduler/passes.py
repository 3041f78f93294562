"""Packed passes: the rows of all models whose turn it is, merged up to a token budget.

Within a model, rows are computed strictly in the order of its operations, and a pass takes rows of one operation only:
so a model that is alone meets the same passes, and gets the same sums to the last bit, however fast its operations
arrive, in a replay too. The owner whose turn it is goes first, then the others by their accounts (`engine.sharing` says
who may take part), and of an owner's models the one that has had the fewest tokens. An operation with which a host was
lost is computed with few others or alone (`Operation.company`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Protocol

from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.engine.sharing import PassKind, PassShare, Turn
from tinsmith.scheduler.failures import raise_if_fatal
from tinsmith.scheduler.model_queue import ModelQueue
from tinsmith.scheduler.shares.fairness import OwnedShare
from tinsmith.scheduler.training_task import Placed, Task
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import Operation

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

    def keep_reference(self, model_id: str, reference: str, /) -> object:
        """Measure a model's preferences against a reference from now on."""
        ...


_Outputs = list[RowOutput | Exception]


def _may_join(op: Operation, others: Mapping[str, Operation]) -> bool:
    """Whether an operation may be in one pass with others, as far as one of them is suspected to end the process."""
    if op.request_id in others:
        return True
    limits = [one.company for one in (op, *others.values()) if one.company is not None]
    return not limits or len(others) < min(limits)


class Passes:
    """The passes of one engine.

    Args:
        begin: told the ids of the operations that are about to be computed.
    """

    def __init__(self, engine: TrainingEngine, begin: Callable[[Iterable[str]], None]) -> None:
        self._engine = engine
        self._begin = begin
        self._fair: OwnedShare[str] = OwnedShare()
        # Per model, in its order: the tasks that were opened and not handed back yet. The first of them is the first of
        # the model's ready run, so that positions in both are the same.
        self._tasks: dict[str, deque[Task]] = {}
        self.tokens = 0

    def forget(self, model_id: str) -> None:
        """Drop what is half done for a model; its operations are answered by the caller."""
        self._tasks.pop(model_id, None)

    def turn(self, queues: Iterable[ModelQueue], turn: Turn) -> tuple[list[tuple[ModelQueue, Task]], PassShare]:
        """Compute one pass.

        Args:
            queues: the models that have a forward_backward ready.
            turn: the accounts.

        Returns:
            the operations that are done, each model's in order, and who had how much of the pass.
        """
        by_model = {queue.model_id: queue for queue in queues}
        share = PassShare(turn, PassKind.TRAIN, self._engine.max_tokens_per_pass)
        placed = self._collect(by_model, share)
        for (task, start), outputs in zip(placed, self._compute(placed), strict=True):
            task.take(start, outputs)
        return [(by_model[m], task) for m in by_model for task in self._take_finished(m)], share

    def _collect(self, queues: dict[str, ModelQueue], share: PassShare) -> list[Placed]:
        """Choose the units of a pass, all forward-only or none, within the budget unless the first alone exceeds it.

        Small units may fill what a needier model's next one leaves, but not run ahead of it by more than a budget.
        """
        units: list[Placed] = []
        ops: dict[str, Operation] = {}
        cursors: dict[str, dict[str, _Cursor]] = {}
        for model_id, queue in queues.items():
            cursors.setdefault(queue.owner, {})[model_id] = _Cursor(self, queue)
        self._fair.activate({model_id: queue.owner for model_id, queue in queues.items()})
        # Whose turn it is, then the neediest; what an owner has in the pass moves it down.
        first = [-math.inf if owner == share.turn.leader else share.standing(owner) for owner in cursors]
        heap = [(standing, place, owner) for place, (standing, owner) in enumerate(zip(first, cursors, strict=True))]
        heapify(heap)
        while heap and not share.is_full:
            _, place, owner = heap[0]
            mine = cursors[owner]
            model_id = self._fair.least(mine)
            found = mine[model_id].seek()
            if (
                found is None
                or not self._fits(found, model_id, owner, share, units)
                or not _may_join(found.task.op, ops)
            ):
                # Out of this pass altogether: its rows keep their order, so none further on may fill the gap.
                del mine[model_id]
                if not mine:
                    heappop(heap)
                continue
            mine[model_id].advance(found)
            units.append(found)
            ops[found.task.op.request_id] = found.task.op
            # Now, not when the pass succeeds: no recovery point may come between a part of a step and the rest of it.
            queues[model_id].dirty |= found.task.backward
            share.take(owner, found.cost)
            self.tokens += found.cost
            self._fair.charge(model_id, found.cost)
            heapreplace(heap, (share.standing(owner), place, owner))
        return units

    def _fits(self, unit: Placed, model_id: str, owner: str, share: PassShare, units: list[Placed]) -> bool:
        if self._fair.lead(model_id) > self._engine.max_tokens_per_pass:
            return False
        return not units or (unit.cost <= share.room(owner) and unit.task.backward == units[0].task.backward)

    def open_task(self, queue: ModelQueue, position: int) -> Task | None:
        """Return the task at `position` of the model's run of forward_backwards, opened on first use."""
        tasks = self._tasks.setdefault(queue.model_id, deque())
        if position == len(tasks):
            op = queue.ready_pass(position)
            if op is None:
                return None
            self._begin((op.request_id,))
            tasks.append(Task.of(op, self._engine.row_cost))
        return tasks[position]

    def _compute(self, placed: Sequence[Placed]) -> list[_Outputs]:
        """Compute units in one pass; those for which that was too much are computed again in halves.

        A pass that raises, and rows for which memory ran out, have left no gradients.
        """
        if not placed:
            return []
        outputs, again = self._pass(placed)
        # A unit that is too much by itself has no smaller half.
        if not again or len(placed) == 1:
            return outputs
        for i in again:
            outputs[i] = [_COMPUTED_AGAIN]  # the errors hold on to the failed pass's tensors
        middle = (len(again) + 1) // 2
        for half in (again[:middle], again[middle:]):
            for i, output in zip(half, self._compute([placed[i] for i in half]), strict=True):
                outputs[i] = output
        return outputs

    def _pass(self, placed: Sequence[Placed]) -> tuple[list[_Outputs], list[int]]:
        """Compute one pass; return the outputs of each unit, and which units may do better in a smaller pass."""
        self._begin(dict.fromkeys(unit.task.op.request_id for unit in placed))
        try:
            found = iter(self._engine.train_rows([row for unit in placed for row in unit.rows]))
        except Exception as error:
            raise_if_fatal(error)
            return [[error] for _ in placed], list(range(len(placed)))
        outputs = [list(islice(found, len(unit.rows))) for unit in placed]
        failed = [(i, out) for i, unit in enumerate(outputs) for out in unit if isinstance(out, Exception)]
        for _, error in failed:
            raise_if_fatal(error)
        return outputs, list(dict.fromkeys(i for i, error in failed if is_out_of_memory(error)))

    def _take_finished(self, model_id: str) -> list[Task]:
        tasks = self._tasks.get(model_id, deque())
        finished: list[Task] = []
        while tasks and tasks[0].settled:
            task = tasks.popleft()
            # Once it is known to have succeeded: one that fails is left out by a replay, and must leave nothing.
            if task.error is None and task.outputs and task.backward and task.reference is not None:
                self._engine.keep_reference(model_id, task.reference)
            finished.append(task)
        return finished


class _Cursor:
    """Where one model stands while a pass is being collected."""

    def __init__(self, passes: Passes, queue: ModelQueue) -> None:
        self._passes = passes
        self._queue = queue
        self._position = 0
        self._taken = 0

    def seek(self) -> Placed | None:
        """Go to the model's next unit and return it, None where it has none for this pass; stays there if repeated."""
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

    def advance(self, found: Placed) -> None:
        """Go past the unit that `seek` returned."""
        self._taken += len(found.rows)
