"""A contestant in a process of its own, with the environment that it would have in real use.

Two of them in one process would share torch's threads and how these wait for each other, which is half of what differs.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import transformers

from benchmarks.contestants import Batch, Contestant, Job, Request

P = ParamSpec("P")
T = TypeVar("T")
Make = Callable[[Job], object]
MakePool = Callable[[Make, Job], Executor]

# In the worker. Of a thread, not of the process: the tests keep both sides in one process, in a thread each.
_here = threading.local()


def own_process(make: Make, job: Job) -> Executor:
    """Return a pool of one process that holds the contestant."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_hold_quietly, initargs=(make, job))


def hold(make: Make, job: Job) -> None:
    """Make the contestant of this worker."""
    _here.contestant = make(job)


def _hold_quietly(make: Make, job: Job) -> None:
    """Make it without what libraries print while they load, in the middle of the table."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
    hold(make, job)


def _call(function: Callable[..., T], *args: Any) -> T:
    return function(_here.contestant, *args)


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        for name in extra:
            del os.environ[name]
        os.environ.update(before)


class Side:
    """One side, itself a contestant.

    Args:
        system: its name.
        make: makes the contestant, in its process; what is no contestant is there for `call` alone.
        job: what it works on.
        environment: of its process beside what this one has.
        pool: makes the process.
    """

    def __init__(
        self, system: str, make: Make, job: Job, environment: Mapping[str, str], pool: MakePool = own_process
    ) -> None:
        self.system = system
        self._pool = pool(make, job)
        # The process starts with the first call, and what it starts with counts: libraries read it when they load.
        with _environment(environment):
            self.call(_is_there)

    def call(self, function: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function(contestant, *args)` returns in the other process."""
        return self._pool.submit(_call, function, *args, **kwargs).result()

    def train(self, batches: dict[str, Batch]) -> dict[str, float]:
        """One optimizer step of each adapter on its batch; return each one's summed loss."""
        return self.call(_train, batches)

    def train_in_turn(self, batches: Sequence[Batch], adapter: str) -> None:
        """A step on each batch, one after the other."""
        self.call(_train_in_turn, batches, adapter)

    def sample(self, prompts: Batch, samples: int, max_tokens: int) -> int:
        """Sample at temperature 1, never stopping early; return the number of tokens."""
        return self.call(_sample, prompts, samples, max_tokens)

    def sample_requests(self, requests: Sequence[Request]) -> int:
        """Sample what ends at different times; return the number of tokens."""
        return self.call(_sample_requests, requests)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _is_there(_: Contestant) -> None:
    pass


def _train(contestant: Contestant, batches: dict[str, Batch]) -> dict[str, float]:
    return contestant.train(batches)


def _train_in_turn(contestant: Contestant, batches: Sequence[Batch], adapter: str) -> None:
    for batch in batches:
        contestant.train({adapter: batch})


def _sample(contestant: Contestant, prompts: Batch, samples: int, max_tokens: int) -> int:
    return contestant.sample(prompts, samples, max_tokens)


def _sample_requests(contestant: Contestant, requests: Sequence[Request]) -> int:
    return contestant.sample_requests(requests)
