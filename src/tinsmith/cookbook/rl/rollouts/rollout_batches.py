"""Rollouts of a run's batches, as far ahead of the training as the one dial allows.

Batch b is trained in step b. Its groups may begin once the weights have had b - K steps or more; so nothing that is
trained is more than K steps old, and nothing that was sampled is thrown away. K = 0 is synchronous training. Each group
samples from the newest weights that there are when it begins, and keeps them to its end. No more groups are played at
once than a batch has, so that what waits is sampled as late as possible, from weights as new as possible.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

from tinsmith import SamplingClient
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.rl.environment import EnvGroupBuilder, RLDataset
from tinsmith.cookbook.rl.rollouts.env_errors import about_the_sampler
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings, do_group_rollout
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup
from tinsmith.cookbook.runs.interrupts import interruptible
from tinsmith.types.errors import TinsmithError

T = TypeVar("T")


@dataclass(frozen=True)
class RolloutPlan:
    """What is played.

    Attributes:
        dataset: the batches.
        settings: how groups are played.
        seed: of the run.
        steps: batches of the whole run.
        max_steps_off_policy: K, how many steps old the weights may be that a group was sampled from when it is trained.
    """

    dataset: RLDataset
    settings: RolloutSettings
    seed: int
    steps: int
    max_steps_off_policy: int = 0


class RolloutBatches:
    """Plays the batches of a run on a loop of its own and hands them to a trainer that blocks.

    Args:
        plan: what is played.
        thread: whose loop it lives on.
        policy: of the weights as they are; the steps that they have had are the number of the first batch.
        renew: makes a policy of the weights as they are, where a sampler has expired.

    Attributes:
        renewed: how many samplers had expired and were made anew.
        waited_seconds: that the trainer has waited for groups.
        may_be_stopped: whether Ctrl-C ends a wait for groups at once: the weights are still those before the step.
    """

    def __init__(self, plan: RolloutPlan, thread: RolloutThread, policy: Policy, renew: Callable[[], Policy]) -> None:
        self.renewed = 0
        self.waited_seconds = 0.0
        self.may_be_stopped = True
        self._plan = plan
        self._thread = thread
        self._policy = policy
        self._renew = renew
        self._ahead = plan.max_steps_off_policy
        # A group is in the queue of its batch once it is finished, with its place.
        self._finished: defaultdict[int, asyncio.Queue[tuple[int, TrajectoryGroup]]] = defaultdict(asyncio.Queue)
        self._sizes: defaultdict[int, asyncio.Queue[int]] = defaultdict(asyncio.Queue)
        self._known_sizes: dict[int, int] = {}
        self._newer = asyncio.Condition()
        self._failure: Exception | None = None
        self._playing = thread.submit(self._start(policy.step)).result()

    # -- the trainer's side -------------------------------------------------------------------------------------------

    def publish(self, sampler: SamplingClient, step: int, ahead: int) -> None:
        """Take newer weights, once the service has them.

        Args:
            sampler: the weights.
            step: training steps that they have had.
            ahead: how many steps sampling may run ahead from now on.
        """
        self._thread.submit(self._publish(sampler, step, ahead))

    def size(self, batch: int) -> int:
        """Return how many groups a batch has; waits until it is begun.

        Raises:
            EnvError, TinsmithError: as `as_finished`.
        """
        if batch not in self._known_sizes:
            self._known_sizes[batch] = self._wait(self._sizes[batch])
        return self._known_sizes[batch]

    def as_finished(self, batch: int) -> Iterator[TrajectoryGroup]:
        """Yield the groups of a batch as they finish; waits for each.

        Raises:
            EnvError: an environment failed, and the run is not to go on.
            TinsmithError: the service failed.
        """
        return (group for _, group in self._placed(batch))

    def in_order(self, batch: int) -> list[TrajectoryGroup]:
        """Wait for a batch and return its groups in the data set's order, which does not depend on who was quick.

        Raises:
            EnvError, TinsmithError: as `as_finished`.
        """
        return [group for _, group in sorted(self._placed(batch), key=lambda placed: placed[0])]

    def _placed(self, batch: int) -> Iterator[tuple[int, TrajectoryGroup]]:
        for _ in range(self.size(batch)):
            yield self._wait(self._finished[batch])
        del self._finished[batch], self._sizes[batch]

    def _wait(self, queue: asyncio.Queue[T]) -> T:
        began = time.perf_counter()
        try:
            with interruptible() if self.may_be_stopped else nullcontext():
                return self._thread.submit(self._next(queue)).result()
        finally:
            self.waited_seconds += time.perf_counter() - began

    # -- the loop's side ----------------------------------------------------------------------------------------------

    async def _start(self, first: int) -> asyncio.Task[None]:
        return asyncio.create_task(self._play_all(first))

    async def _next(self, queue: asyncio.Queue[T]) -> T:
        getting = asyncio.create_task(queue.get())
        await asyncio.wait({getting, self._playing}, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            getting.cancel()
            # Only an error ends the playing while a batch is being waited for.
            await self._playing
        return await getting

    async def _publish(self, sampler: SamplingClient, step: int, ahead: int) -> None:
        error: Exception | None = None
        try:
            # Groups that the older weights still admit may begin meanwhile.
            await sampler
        except Exception as caught:
            # Nobody waits for this coroutine: the error comes to light where weights are waited for.
            error = caught
        async with self._newer:
            if error is None:
                self._policy = replace(self._policy, sampler=sampler, step=step)
                self._ahead = ahead
            self._failure = error
            self._newer.notify_all()

    async def _play_all(self, first: int) -> None:
        places: asyncio.Semaphore | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(first, self._plan.steps):
                    await self._admitted(number)
                    builders = self._plan.dataset.get_batch(number)
                    self._sizes[number].put_nowait(len(builders))
                    places = places or asyncio.Semaphore(len(builders))
                    for place, builder in enumerate(builders):
                        await places.acquire()
                        await self._admitted(number)  # again: what runs ahead may have been held back meanwhile
                        task = tasks.create_task(self._play(number, place, builder))
                        task.add_done_callback(lambda _, free=places: free.release())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__

    async def _admitted(self, batch: int) -> None:
        async with self._newer:
            await self._newer.wait_for(lambda: self._failure or batch <= self._policy.step + self._ahead)
            if self._failure is not None:
                raise self._failure

    async def _play(self, number: int, place: int, builder: EnvGroupBuilder) -> None:
        seed = derived_seed(self._plan.seed, number, place)
        policy = self._policy
        try:
            group = await do_group_rollout(builder, policy, self._plan.settings, seed)
        except TinsmithError as error:
            if not about_the_sampler(error):
                raise
            policy = self._renewed(policy, error)
            group = await do_group_rollout(builder, policy, self._plan.settings, seed)
        self._finished[number].put_nowait((place, group))

    def _renewed(self, expired: Policy, error: TinsmithError) -> Policy:
        # Many groups find the same sampler gone; the first of them makes the new one.
        if self._policy is expired:
            warn_once("sampler expired", f"rollouts: {error}; the sampler is made anew from the weights as they are")
            self._policy = self._renew()
            self.renewed += 1
        return self._policy
