"""Which models have something to do now, by owner, kept up to date so that nobody has to walk over all of them."""

from __future__ import annotations

from tinsmith.scheduler.model_queue import ModelQueue

_Queues = dict[str, dict[str, ModelQueue]]


class ReadyModels:
    """The queues that can go on.

    Attributes:
        passes: by owner and model, those whose next operation is part of a pass.
        barriers: the same of those whose next operation runs by itself.
    """

    def __init__(self) -> None:
        self.passes: _Queues = {}
        self.barriers: _Queues = {}

    def note(self, queue: ModelQueue) -> None:
        """Look at a queue again; called whenever something may have changed what comes next in it."""
        _set(self.passes, queue, queue.ready_pass() is not None)
        _set(self.barriers, queue, queue.ready_barrier() is not None)


def _set(queues: _Queues, queue: ModelQueue, ready: bool) -> None:
    if ready:
        queues.setdefault(queue.owner, {})[queue.model_id] = queue
        return
    mine = queues.get(queue.owner, {})
    if mine.pop(queue.model_id, None) is not None and not mine:
        del queues[queue.owner]
