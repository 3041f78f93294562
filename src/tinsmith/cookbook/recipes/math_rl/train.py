"""Reinforcement learning on problems with a right answer: sums, GSM8K, MATH, or any file of them.

    python -m tinsmith.cookbook.recipes.math_rl.train
    python -m tinsmith.cookbook.recipes.math_rl.train env=gsm8k model_name=Qwen/Qwen3-8B group_size=64
    python -m tinsmith.cookbook.recipes.math_rl.train env=problems.jsonl test=held_out.jsonl model_name=/models/mine

Without arguments the embedded model learns to add, and sums that it never trained on say how well.
"""

from __future__ import annotations

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.problems import Problems, load_problems
from tinsmith.cookbook.recipes.math_rl.config import Config
from tinsmith.cookbook.recipes.math_rl.math_rl_dataset import Majority, groups, problems_per_step
from tinsmith.cookbook.rl import RolloutEvaluator, train
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult

RECIPE = "math_rl"


def main(config: Config) -> TrainResult:
    """Train, and measure on held-out problems what was learned.

    Raises:
        UserError: a setting, a problem or an example cannot be used.
        TinsmithError: the service failed.
    """
    problems = load_problems(config.env, config.test, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows)
    config = chz.replace(config, batch_size=problems_per_step(config, problems))
    problems = problems._replace(test=problems.test[: config.eval_problems])
    held_out = groups(config, problems, held_out=True)
    answers = RolloutEvaluator(held_out, config.limits(), problems.name, temperature=config.eval_temperature)
    result = train(config, RECIPE, groups(config, problems), evaluators=[answers, Majority(problems)])
    _show(result, problems)
    return result


def _show(result: TrainResult, problems: Problems) -> None:
    prefix = f"eval/{problems.name}/"
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    kinds = sorted({problem.kind for problem in problems.test} - {""})
    table = Table("held-out problems", "before", "after", "majority", title=f"{len(problems.test)} of {problems.name}")
    for told, name in (("right answers", "correct"), *((f"  {kind}", f"{kind}/correct") for kind in kinds)):
        if prefix + name in after:
            majority = _percent(after[f"{prefix}majority"]) if name == "correct" else ""
            table.add_row(told, _percent(before.get(prefix + name)), _percent(after[prefix + name]), majority)
    table.add_row("answers in a box", _percent(before.get(f"{prefix}format")), _percent(after[f"{prefix}format"]), "")
    Console().print(table)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
