"""Direct preference optimization on comparisons: a file of them, HHH, HelpSteer3 or UltraFeedback.

    python -m tinsmith.cookbook.recipes.preference.train
    python -m tinsmith.cookbook.recipes.preference.train data=ultrafeedback model_name=Qwen/Qwen3-8B beta=0.1
    python -m tinsmith.cookbook.recipes.preference.train data=pairs.jsonl load_checkpoint_path=tinker://...

Without arguments the embedded model learns from comparisons that ship, and held-out ones say what it has learned.
"""

from __future__ import annotations

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.preference import load_comparisons, train_dpo_in
from tinsmith.cookbook.preference.config import FREE
from tinsmith.cookbook.preference.sources import SORTED_LETTERS
from tinsmith.cookbook.recipes.preference.config import Config
from tinsmith.cookbook.recipes.preference.preference_dataset import judging_evaluators, quality_evaluators
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult, set_up_model
from tinsmith.cookbook.utils import recommended_lr

RECIPE = "preference"
# The policy starts from what it is compared with, and a rate that learns new things fast leaves it behind at once.
_RATE_SHARE = 0.25
# Of the set that ships, whose rejected answers nobody would give: both kinds would become less likely, and others more
# so. The likelihood of the chosen ones is held up by the factor that Llama 3 was trained with (Grattafiori et al. 2024,
# arXiv:2407.21783, section 4.1.4).
_NLL_COEFF = 0.2


def main(config: Config) -> TrainResult:
    """Train, and measure on held-out comparisons what was learned.

    Raises:
        UserError: a setting or a comparison cannot be used.
        TinsmithError: the service failed.
    """
    if config.learning_rate is None:
        config = chz.replace(config, learning_rate=_RATE_SHARE * recommended_lr(config.model_name))
    # Before the run has a folder: a file that cannot be read leaves nothing behind.
    comparisons = load_comparisons(
        config.data, config.test, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows
    )
    if comparisons.name == SORTED_LETTERS and config.loss_fn == "dpo" and config.loss_fn_config is None:
        config = chz.replace(config, loss_fn_config={"nll_coeff": _NLL_COEFF})
    with Run(config, RECIPE, free=FREE) as run:
        model = set_up_model(run, config)
        evaluators = [
            *quality_evaluators(comparisons, config.max_tokens),
            *judging_evaluators(
                model.service, comparisons.test, config.max_tokens, config.judge_model, config.reward_model
            ),
        ]
        result = train_dpo_in(run, model, config, comparisons, evaluators)
    _show(result, len(comparisons.test))
    return result


def _show(result: TrainResult, count: int) -> None:
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    table = Table("held-out comparisons", "before", "after", "longer answer", "random", title=f"{count} of them")
    # Before the first step policy and reference are one, and no answer has the larger reward.
    table.add_row("chosen is preferred", "", f"{after['test/accuracy']:.1%}", f"{after['test/length']:.1%}", "50.0%")
    for told, name in (
        ("margin", "test/margin"),
        ("loss", "test/loss"),
        ("reward of the chosen", "test/chosen_reward"),
        ("reward of the rejected", "test/rejected_reward"),
    ):
        table.add_row(told, _number(before.get(name)), _number(after[name]), "", "")
    if "eval/quality" in after:
        table.add_row(
            "sampled answers that are right", _percent(before.get("eval/quality")), _percent(after["eval/quality"])
        )
    Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
