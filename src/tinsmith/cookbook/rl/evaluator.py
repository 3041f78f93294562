"""`RolloutEvaluator`: plays held-out groups with the weights as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.rl.environment import EnvGroupBuilder, MakeDataset, RLDataset
from tinsmith.cookbook.rl.learning.advantages import mean_baseline
from tinsmith.cookbook.rl.learning.group_examples import group_examples
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings, do_group_rollout
from tinsmith.cookbook.rl.rollouts.limits import RolloutLimits
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rl.trainer.env_metrics import env_metrics
from tinsmith.cookbook.rl.trainer.pages import show_groups
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup
from tinsmith.cookbook.training import ModelSetup


class RolloutEvaluator:
    """Plays all groups of a data set once and gives their numbers as `eval/NAME/...`, see `env_metrics`.

    Args:
        dataset: held-out groups, or a function that makes them for a model's renderer and tokenizer; the same ones and
            the same seeds at every evaluation.
        limits: how long an episode may go on.
        name: what the numbers are called behind `eval/`.
        temperature: of sampling; 1 measures what training sees, 0 is greedy.
        shown: groups that the transcript shows.
        errors: what is done where an environment fails; None goes on without its episode and counts it.
        measure: measures something more of the groups, by names that are put behind `eval/NAME/`; None: nothing.
    """

    # It asks the sampler alone, so training may go on beside it.
    on_snapshot = True

    def __init__(
        self,
        dataset: RLDataset | MakeDataset,
        limits: RolloutLimits,
        name: str = "test",
        *,
        temperature: float = 1.0,
        shown: int = 4,
        errors: ErrorPolicy | None = None,
        measure: Callable[[Sequence[TrajectoryGroup]], Mapping[str, float]] | None = None,
    ) -> None:
        self.name = name
        self._dataset = dataset
        self._limits = limits
        self._temperature = temperature
        self._shown = shown
        self._measure = measure
        self._errors = errors or ErrorPolicy("drop", min_group_size=1)

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Play, measure, and write some of it into the transcript."""
        dataset = self._dataset
        if not isinstance(dataset, RLDataset):
            dataset = dataset(ModelSetup(context.service_client, context.tokenizer, context.renderer))
        builders = [builder for index in range(len(dataset)) for builder in dataset.get_batch(index)]
        policy = Policy(context.sampling_client, self._temperature, context.context_length, context.step)
        settings = RolloutSettings(context.renderer, self._limits, self._errors)
        with RolloutThread() as thread:
            groups = thread.submit(_play(builders, policy, settings, context.seed)).result()
        if context.transcript is not None:
            context.transcript.heading(f"{self.name}: {len(groups)} groups")
            learned = [group_examples(group, mean_baseline, remove_constant=True) for group in groups[: self._shown]]
            show_groups(context.transcript, context.tokenizer, learned)
        more = {} if self._measure is None else self._measure(groups)
        prefix = f"eval/{self.name}"
        return env_metrics(groups, prefix) | {f"{prefix}/{name}": value for name, value in more.items()}


async def _play(
    builders: Sequence[EnvGroupBuilder], policy: Policy, settings: RolloutSettings, seed: int
) -> list[TrajectoryGroup]:
    return await asyncio.gather(
        *(
            do_group_rollout(builder, policy, settings, derived_seed(seed, "eval", i))
            for i, builder in enumerate(builders)
        )
    )
