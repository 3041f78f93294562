"""Reinforcement learning from human feedback: a reward model from comparisons, then a policy that it rewards.

    python -m tinsmith.cookbook.recipes.preference.rlhf.train
    python -m tinsmith.cookbook.recipes.preference.rlhf.train kl_penalty_coef=0
    python -m tinsmith.cookbook.recipes.preference.rlhf.train data=helpsteer3 model_name=Qwen/Qwen3-8B max_tokens=1024
    python -m tinsmith.cookbook.recipes.preference.rlhf.train reward_model=tinker://... data=prompts.jsonl

A penalty holds the policy near the base model. Without arguments both stages run on the embedded model. The same
command takes up whichever stage was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.preference import Comparisons, RewardModelConfig, load_comparisons, train_reward_model
from tinsmith.cookbook.preference.config import held_out_rows
from tinsmith.cookbook.preference.sources import SORTED_LETTERS
from tinsmith.cookbook.recipes.preference.preference_dataset import longest_answer
from tinsmith.cookbook.recipes.preference.preference_env import groups
from tinsmith.cookbook.recipes.preference.reward_model.train import show_reward_model
from tinsmith.cookbook.rl import RLConfig, RolloutEvaluator, train_on_groups
from tinsmith.cookbook.rl.trainer.config import FREE
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult, set_up_model
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.paths import CheckpointPath

RECIPE = "rlhf"
# Of the embedded model's policy: at the rate that suffices for sums it hardly moves in so few steps.
_EMBEDDED_RATE = 3e-3
# Of the set that ships, the policy answers the prompts of so many comparisons: 24 steps, in which the score has risen.
_PROMPTS = 384
# As the recipe `reward_model` has it.
_REWARD_BATCH = 32
# The folder of the first stage, within that of the run.
REWARD_MODEL = "reward_model"


def _checkpoint(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, str):
        CheckpointPath.parse(value, field.removeprefix("X_"))


@chz.chz
class Config(RLConfig):
    """Which comparisons, and both stages; the policy's settings are those of reinforcement learning."""

    data: str | None = chz.field(
        default=None, doc="comparisons, as the recipe preference takes them; their prompts are what the policy answers"
    )
    test: str | None = chz.field(default=None, doc="file of held-out ones; None: as the recipe preference does")
    held_out: int | float | None = chz.field(
        default=None,
        validator=held_out_rows,
        doc="rows, or the share of them below 1.0, held out of training; None: 200, or a tenth of fewer than 2,000",
    )
    skip_bad_rows: bool = chz.field(
        default=False, doc="leave out rows of a file that are no comparisons; they are counted"
    )
    reward_model: str | None = chz.field(
        default=None, validator=_checkpoint, doc="tinker:// reward model; None: one is trained first"
    )
    reward_steps: int | None = chz.field(
        default=None, validator=at_least(1), doc="steps of the reward model; None: all comparisons once"
    )
    reward_batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="comparisons per step of it; None: 32, or fewer of few comparisons"
    )
    reward_learning_rate: float | None = chz.field(
        default=None, validator=positive, doc="its peak rate; None: the course's formula for the model"
    )
    # Scores have no unit of their own, so a group's are brought to one.
    advantages: str = chz.field(default="mean_std", doc="of an answer among its group: mean, mean_std, leave_one_out")
    kl_penalty_coef: float = chz.field(
        default=0.3, validator=at_least(0), doc="weight of the penalty for leaving the base model; 0: none"
    )
    batch_size: int = chz.field(default=16, validator=at_least(1), doc="prompts per step")
    group_size: int = chz.field(default=8, validator=at_least(1), doc="answers to each; advantages compare them")
    eval_every: int = chz.field(default=8, validator=at_least(0), doc="steps between evaluations; 0: only at the end")

    def reward_model_config(self, log_path: str) -> RewardModelConfig:
        """Return the settings of the first stage."""
        return RewardModelConfig(
            model_name=self.model_name,
            base_url=self.base_url,
            log_path=log_path,
            renderer_name=self.renderer_name,
            learning_rate=self.reward_learning_rate,
            batch_size=self.reward_batch_size,
            lora_rank=self.lora_rank,
            train_attn=self.train_attn,
            train_mlp=self.train_mlp,
            train_unembed=self.train_unembed,
            max_steps=self.reward_steps,
            seed=self.seed,
            data=self.data,
            test=self.test,
            held_out=self.held_out,
            eval_every=0,
            save_every=self.save_every,
            rolling_save_every=self.rolling_save_every,
        )


def main(config: Config) -> TrainResult:
    """Train the reward model, then the policy, and measure both the score and what it is to stand for.

    Raises:
        UserError: a setting or a comparison cannot be used.
        EnvError: the reward model gave no finite score.
        TinsmithError: the service failed.
    """
    comparisons = load_comparisons(
        config.data, config.test, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows
    )
    config = chz.replace(config, max_tokens=longest_answer(comparisons, config.max_tokens))
    if config.learning_rate is None and config.model_name == EMBEDDED_MODEL:
        config = chz.replace(config, learning_rate=_EMBEDDED_RATE)
    with Run(config, RECIPE, free=FREE) as run:
        reward_model = config.reward_model or _first_stage(config, run, comparisons)
        model = set_up_model(run, config)
        learned = groups(_prompts(comparisons), reward_model, config.group_size, config.batch_size, config.seed)
        asked = groups(comparisons.test, reward_model, 1, config.batch_size, None)
        evaluator = RolloutEvaluator(asked, config.limits(), "test", temperature=config.temperature)
        result = train_on_groups(config, run, model, learned(model), evaluators=[evaluator])
    _show(result, len(comparisons.test))
    return result


def _prompts(comparisons: Comparisons) -> Sequence[Row]:
    """Return the comparisons whose prompts the policy answers."""
    return comparisons.train[:_PROMPTS] if comparisons.name == SORTED_LETTERS else comparisons.train


def _first_stage(config: Config, run: Run, comparisons: Comparisons) -> str:
    """Return the weights of the reward model of the run, trained as far as they were not yet."""
    settings = config.reward_model_config(str(run.path / REWARD_MODEL))
    size = rows_per_batch(config.reward_batch_size, len(comparisons.train), _REWARD_BATCH, "comparisons")
    settings = chz.replace(settings, batch_size=size)
    result = train_reward_model(settings, REWARD_MODEL, comparisons=comparisons)
    show_reward_model(result, len(comparisons.test))
    return result.sampler_path


def _show(result: TrainResult, count: int) -> None:
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    table = Table("held-out prompts", "before", "after", title=f"{count} of them, answered once each")
    told = (
        ("score of the reward model", "eval/test/score", "{:.2f}"),
        ("answers that are right", "eval/test/quality", "{:.1%}"),
        ("characters of an answer", "eval/test/answer_length", "{:.1f}"),
    )
    for name, key, form in told:
        if key in after:
            table.add_row(name, form.format(before[key]) if key in before else "", form.format(after[key]))
    Console().print(table)


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
