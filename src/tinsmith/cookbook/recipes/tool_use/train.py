"""Reinforcement learning on questions whose answers have to be looked up with a tool.

    python -m tinsmith.cookbook.recipes.tool_use.train
    python -m tinsmith.cookbook.recipes.tool_use.train model_name=Qwen/Qwen3-8B corpus=documents.jsonl \
        questions=questions.jsonl max_tokens=1024 batch_size=32

Without arguments the embedded model learns to look up invented things and to say what it found.
"""

from __future__ import annotations

import chz
from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.recipes.tool_use.config import DRAWN_LEARNING_RATE, Config
from tinsmith.cookbook.recipes.tool_use.tool_use_dataset import Task, groups, held_out_groups, load_task
from tinsmith.cookbook.rl import RolloutEvaluator, train
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

RECIPE = "tool_use"


class HeldOut:
    """Answers every held-out question with the tools, as `eval/test/...`, and from memory, as `eval/no_tool/correct`.

    Args:
        config: how answers are sampled.
        task: whose held-out questions.
    """

    name = "held_out"
    on_snapshot = True

    def __init__(self, config: Config, task: Task) -> None:
        self._config = config
        self._task = task

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Play both, and write some of it into the transcript."""
        found = self._play(context, "test", tools=True)
        from_memory = self._play(context, "no_tool", tools=False)
        return {**found, "eval/no_tool/correct": from_memory["eval/no_tool/correct"]}

    def _play(self, context: EvalContext, name: str, *, tools: bool) -> dict[str, float]:
        config = self._config
        dataset = held_out_groups(config, self._task, context.renderer, tools=tools)
        return RolloutEvaluator(dataset, config.limits(), name, temperature=config.eval_temperature)(context)


def main(config: Config) -> TrainResult:
    """Train, and measure on held-out questions what was learned.

    Raises:
        UserError: a setting, a document or a question cannot be used.
        TinsmithError: the service failed.
    """
    if config.corpus is None and config.learning_rate is None and config.model_name == EMBEDDED_MODEL:
        config = chz.replace(config, learning_rate=DRAWN_LEARNING_RATE)
    task = load_task(config)
    evaluators = [HeldOut(config, task)]
    result = train(config, RECIPE, lambda model: groups(config, task, model.renderer), evaluators=evaluators)
    _show(result, task)
    return result


def _show(result: TrainResult, task: Task) -> None:
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    table = Table("held-out questions", "before", "after", "one answer for all", title=f"{len(task.test)} of them")
    rows = {
        "right answers": "eval/test/correct",
        "right answers without the tool": "eval/no_tool/correct",
        "called a tool": "eval/test/called",
        "found the answer": "eval/test/retrieved",
        "calls that went wrong": "eval/test/tool_errors",
    }
    for told, name in rows.items():
        shown = _number if name.endswith("errors") else _percent
        constant = task.best_constant() if name == "eval/test/correct" else None
        table.add_row(told, shown(before.get(name)), shown(after.get(name)), _percent(constant))
    Console().print(table)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _number(mean: float | None) -> str:
    return "" if mean is None else f"{mean:.2f}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
