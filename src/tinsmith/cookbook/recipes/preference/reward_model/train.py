"""A reward model from comparisons, which scores answers through the SDK.

    python -m tinsmith.cookbook.recipes.preference.reward_model.train
    python -m tinsmith.cookbook.recipes.preference.reward_model.train data=helpsteer3 model_name=Qwen/Qwen3-8B

Without arguments the embedded model learns from comparisons that ship.
"""

from __future__ import annotations

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.preference import RewardModelConfig, load_comparisons, train_reward_model
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult
from tinsmith.cookbook.utils import at_least

RECIPE = "reward_model"


@chz.chz
class Config(RewardModelConfig):
    """Which comparisons are learned."""

    batch_size: int | None = chz.field(
        default=None,
        validator=at_least(1),
        doc="comparisons per step; None: 32, or fewer where 10 batches are not filled",
    )

    @property
    def usual_batch_size(self) -> int:
        # Half of what DPO takes: more steps of the same comparisons rank the held-out ones better.
        return 32

    eval_every: int = chz.field(default=20, validator=at_least(0), doc="steps between evaluations; 0: only at the end")


def main(config: Config) -> TrainResult:
    """Train, and measure on held-out comparisons which answers score higher.

    Raises:
        UserError: a setting or a comparison cannot be used.
        TinsmithError: the service failed.
    """
    comparisons = load_comparisons(
        config.data, config.test, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows
    )
    result = train_reward_model(config, RECIPE, comparisons=comparisons)
    show_reward_model(result, len(comparisons.test))
    return result


def show_reward_model(result: TrainResult, count: int) -> None:
    """Print how often the chosen answer of a held-out comparison has the higher score, beside baselines."""
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    table = Table("held-out comparisons", "before", "after", "longer answer", "random", title=f"{count} of them")
    first = f"{before['test/accuracy']:.1%}" if "test/accuracy" in before else ""
    table.add_row(
        "chosen answer scores higher", first, f"{after['test/accuracy']:.1%}", f"{after['test/length']:.1%}", "50.0%"
    )
    first = f"{before['test/margin']:.2f}" if "test/margin" in before else ""
    table.add_row("by how much, in nats", first, f"{after['test/margin']:.2f}", "", "")
    Console().print(table)
    print(f'scores: RewardModel.open(service, "{result.sampler_path}").score(prompt, completion)')


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
