"""A teacher answers under a long prompt; the student learns the answers without it.

    python -m tinsmith.cookbook.recipes.prompt_distillation.train
    python -m tinsmith.cookbook.recipes.prompt_distillation.train model_name=Qwen/Qwen3-8B \
        teacher_prompt=prompt.txt queries=queries.jsonl log_path=runs/distilled

Without arguments the embedded model learns five tools, whose descriptions it then needs no more.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.eval import NLLEvaluator
from tinsmith.cookbook.recipes.prompt_distillation.agreement import AgreementEvaluator
from tinsmith.cookbook.recipes.prompt_distillation.config import Config
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import (
    Distilled,
    distil,
    load_prompt,
    load_queries,
)
from tinsmith.cookbook.recipes.prompt_distillation.teacher import ask, with_prompt
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.supervised.config import FREE
from tinsmith.cookbook.supervised.train import train_on_rows
from tinsmith.cookbook.training import TrainResult, set_up_model

RECIPE = "prompt_distillation"


def main(config: Config) -> TrainResult:
    """Sample the teacher, train the student, and show what both say.

    Raises:
        UserError: a setting, a prompt or a query cannot be used.
        TinsmithError: the service failed.
    """
    prompt = load_prompt(config.teacher_prompt)
    # Before the run has a folder: a prompt that cannot be read leaves nothing behind.
    train, held_out = load_queries(config.queries, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows)
    with Run(config, RECIPE, free=FREE) as run:
        model = set_up_model(run, config)
        answers = ask(config, run, prompt, [*train, *held_out])
        distilled = distil(
            # Answers are to both kinds of queries in one list, the held-out ones last.
            list(zip(train, answers, strict=False)),
            list(zip(held_out, answers[len(train) :], strict=True)),
            keep_thinking=config.keep_thinking,
            answer_pattern=config.answer_pattern,
        )
        for reason, count in distilled.dropped.items():
            print(f"teacher: {count} of {len(answers)} answers left out: {reason}")
        tests = [{"messages": [*query.messages, answer]} for query, answer in distilled.tests]
        evaluators = [
            NLLEvaluator(tests, max_length=config.max_length, train_on_what=config.train_on_what),
            AgreementEvaluator(distilled, config.max_tokens, config.samples),
        ]
        run.hold("data", as_rows(distilled.rows).facts())
        result = train_on_rows(config, run, model, distilled.rows, evaluators=evaluators)
        _show(result, model.renderer, distilled, prompt)
    return result


def _show(result: TrainResult, renderer: Renderer, distilled: Distilled, prompt: str) -> None:
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    table = Table("held-out queries", "before", "after", "majority", "teacher", title=f"{len(distilled.tests)} of them")
    table.add_row(
        "agreement with the teacher",
        _percent(before.get("eval/agreement")),
        _percent(after["eval/agreement"]),
        _percent(after["teacher/majority"]),
        _percent(1.0),
    )
    if "eval/accuracy" in after:
        table.add_row(
            "right answers",
            _percent(before.get("eval/accuracy")),
            _percent(after["eval/accuracy"]),
            "",
            _percent(after["teacher/accuracy"]),
        )
    first_nll = f"{before['test/nll']:.4f}" if "test/nll" in before else ""
    table.add_row("NLL of the teacher's answers", first_nll, f"{after['test/nll']:.4f}", "", "")
    long, short = _prompt_lengths(renderer, distilled, prompt)
    table.add_row("tokens of a prompt", f"{short:.0f}", f"{short:.0f}", "", f"{long:.0f}")
    Console().print(table)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _prompt_lengths(renderer: Renderer, distilled: Distilled, prompt: str) -> tuple[float, float]:
    """Return the mean tokens of a held-out query with the teacher's prompt, and without it."""
    queries = [query.messages for query, _ in distilled.tests]
    long = [renderer.build_generation_prompt(with_prompt(messages, prompt)).length for messages in queries]
    short = [renderer.build_generation_prompt(messages).length for messages in queries]
    return sum(long) / len(long), sum(short) / len(short)


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
