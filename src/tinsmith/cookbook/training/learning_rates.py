"""The learning rate of each step of a run, and a warning where a run goes on with other rates than it began with."""

from __future__ import annotations

from tinsmith import AdamParams
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.schedules import check_warmup, rate_share
from tinsmith.cookbook.training.training_config import TrainingConfig
from tinsmith.cookbook.utils import recommended_lr


class LearningRates:
    """The plan of a run's rates: a function of the step alone, so that a run that is taken up again has the same ones.

    Args:
        config: names peak, schedule and warm-up; without a rate, the peak is what is recommended for the model.
        total: steps of the whole run, which the schedule spans.

    Attributes:
        total: as given.
        peak: the highest rate.

    Raises:
        UserError: the warm-up is as long as the run, or the model's size cannot be found.
    """

    def __init__(self, config: TrainingConfig, total: int) -> None:
        # Here and not at the first step, which may come after minutes of loading and evaluating.
        check_warmup(config.warmup_steps, total)
        self._config = config
        self.total = total
        self.peak = recommended_lr(config.model_name) if config.learning_rate is None else config.learning_rate

    def at(self, step: int) -> float:
        """Return the rate of a step."""
        return self.peak * rate_share(self._config.lr_schedule, step, self.total, self._config.warmup_steps)

    def adam_params(self, step: int) -> AdamParams:
        """Return the parameters of the optimizer at a step."""
        return self._config.adam_params(self.at(step))

    def warn_of_change(self, run: Run) -> None:
        """Warn where the rates so far are not those of this plan, because the run was made longer or shorter.

        `learning_rate` of the last row on record says what the rate was.
        """
        if not run.first_step:
            return
        last = run.first_step - 1
        logged = run.logged(last).get("learning_rate")
        planned = self.at(last)
        # Equal to the last bit where nothing changed: it is the same arithmetic, and JSON keeps a float exactly.
        if logged is not None and logged != planned:
            warn_once(
                "schedule",
                f"lr_schedule: {self._config.lr_schedule} now spans {self.total} steps: the rate of step {last} was "
                f"{logged:g} and would have been {planned:g}; it goes on with the new plan's",
            )
