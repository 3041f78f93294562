"""What is watched while a run goes on: numbers that tell of trouble, each said once with what to do about it."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinsmith.cookbook.utils import get_lr
from tinsmith.types.errors import UserError
from tinsmith.types.facts.lineup import lookup

logger = logging.getLogger("tinsmith.cookbook")

# The course asks for 100 to 500 steps.
FEWEST_STEPS = 100
# A learning rate this many times above or below the formula's is unusual.
FAR_RATE = 10.0
# Evaluations in a row at which a held-out loss has to rise before it is more than noise.
RISES = 3


@dataclass(frozen=True)
class Watch:
    """A bound of a metric.

    Attributes:
        metric: its name, or the last part of it behind a `/`.
        trips: whether a value is beyond the bound.
        bound: the bound, in words.
        advice: what to do.
        level: of logging.
    """

    metric: str
    trips: Callable[[float], bool]
    bound: str
    advice: str
    level: int = logging.WARNING


WATCHES = (
    Watch(
        "kl_sampler_learner",
        lambda value: value > 0.1,
        "above 0.1",
        "the weights that sample are not those that learn: refresh the sampler more often, lower learning_rate, and "
        "train on the sampled ids as they are",
    ),
    Watch(
        "kl_sampler_learner",
        lambda value: value < 0.01,
        "below 0.01",
        "sampler and learner agree",
        logging.INFO,
    ),
    Watch(
        "sampler_age",
        lambda value: value > 8,
        "above 8 steps",
        "the sampler has not been refreshed for so long: refresh it more often, or allow fewer steps off-policy",
    ),
    Watch(
        "constant_reward_share",
        lambda value: value > 0.5,
        "above 0.5",
        "in so many groups all rewards are equal, which teaches nothing: take larger groups, a higher temperature, or "
        "problems of another difficulty",
    ),
    Watch(
        "truncated_share",
        lambda value: value > 0.1,
        "above 0.1",
        "so many are cut off before their end: raise max_length or max_tokens",
    ),
    Watch(
        "trained_tokens",
        lambda value: value == 0,
        "no token",
        "every weight of the batch is zero, so the step teaches nothing: look at train_on_what and max_length",
    ),
)


class Watches:
    """Looks at every row of a run's metrics and warns once for each cause."""

    def __init__(self) -> None:
        self._said: set[object] = set()
        self._evaluations: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def plan(self, model_name: str, learning_rate: float, steps: int) -> None:
        """Warn where a run's number of steps or learning rate is unusual."""
        if steps < FEWEST_STEPS:
            self._say(
                "steps",
                f"steps: {steps} are fewer than {FEWEST_STEPS}; use a smaller batch_size, more epochs or more data",
            )
        # Tenfold either way: a rate that somebody found by trying is not to be doubted, one with a zero too many is.
        usual = _usual_rate(model_name)
        if usual is not None and not usual / FAR_RATE <= learning_rate <= usual * FAR_RATE:
            self._say(
                "learning_rate",
                f"learning_rate: {learning_rate:g} is more than {FAR_RATE:g} times off get_lr's {usual:g}; "
                "learning_rate=None takes what is recommended",
            )

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the evaluations of an earlier part of the run."""
        for row in rows:
            for name, value in row.items():
                if _is_held_out_loss(name) and value is not None:
                    self._evaluations[name].append((row["step"], value))

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at the metrics of a step."""
        for name, value in metrics.items():
            # Once a loss is NaN, all that follows is: the first is told, and no bound is compared with it.
            if not math.isfinite(value):
                self._say((name, "finite"), f"{name}: {value} at step {step}; lower learning_rate, look at the data")
                continue
            for watch in WATCHES:
                # `train/kl_sampler_learner` or `rl/kl_sampler_learner`: whose it is does not matter.
                if name.rpartition("/")[2] == watch.metric and watch.trips(value):
                    told = f"{name}: {value:g} at step {step} is {watch.bound}; {watch.advice}"
                    self._say((name, watch.bound), told, watch.level)
            if _is_held_out_loss(name):
                self._evaluations[name].append((step, value))
                self._look_at_rises(name)

    def _look_at_rises(self, name: str) -> None:
        last = self._evaluations[name][-RISES - 1 :]
        values = [value for _, value in last]
        if len(last) > RISES and all(before < after for before, after in pairwise(values)):
            best_step, best = min(self._evaluations[name], key=lambda evaluation: evaluation[1])
            self._say(
                (name, "rises"),
                f"{name}: rose at {RISES} evaluations in a row, to {values[-1]:.4g} at step {last[-1][0]}; it was "
                f"lowest, {best:.4g}, at step {best_step}: take a checkpoint from there, fewer epochs, or more data",
            )

    def _say(self, cause: object, message: str, level: int = logging.WARNING) -> None:
        if cause not in self._said:
            self._said.add(cause)
            logger.log(level, message)


def _is_held_out_loss(name: str) -> bool:
    return name.startswith("test/") and name.endswith("nll")


def _usual_rate(model_name: str) -> float | None:
    if lookup(model_name) is None and not Path(model_name).is_dir():
        return None  # a name that only the service knows; asking the hub for its size would take long where it is far
    try:
        return get_lr(model_name)
    except UserError:
        return None  # the formula is for other models
