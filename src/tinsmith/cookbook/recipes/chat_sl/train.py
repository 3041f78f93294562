"""Fine-tuning on conversations: NoRobots, Tulu 3, or any file of them.

    python -m tinsmith.cookbook.recipes.chat_sl.train
    python -m tinsmith.cookbook.recipes.chat_sl.train model_name=Qwen/Qwen3-8B batch_size=256 lora_rank=128
    python -m tinsmith.cookbook.recipes.chat_sl.train model_name=/models/mine dataset=tulu3 general=general.jsonl

Without arguments the embedded model learns pig latin, and what that cost it elsewhere is measured too.
"""

from __future__ import annotations

from collections.abc import Sequence

import chz

from tinsmith import ServiceClient
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.eval import (
    AccuracyEvaluator,
    Evaluator,
    ForgettingEvaluator,
    GradedJudge,
    ModelJudge,
    WinRateEvaluator,
)
from tinsmith.cookbook.recipes.chat_sl.chat_sl_dataset import PIG_LATIN, data_name, general_rows, held_out_words
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.supervised.config import FREE, SupervisedConfig, share_or_count
from tinsmith.cookbook.supervised.train import split_rows, train_on_rows
from tinsmith.cookbook.training import TrainResult, set_up_model
from tinsmith.cookbook.utils import at_least
from tinsmith.cookbook.words import MAX_LENGTH
from tinsmith.types.errors import invalid

RECIPE = "chat_sl"
# A word of the longest length, "ay" and the end of the turn, in a vocabulary of letters.
_WORD_TOKENS = MAX_LENGTH + 4


@chz.chz
class Config(SupervisedConfig):
    """What is learned, and what is asked of the tuned model; the rest is that of supervised training."""

    data: str | None = chz.field(
        default=None,
        doc="no_robots, tulu3, pig_latin, a JSONL, Parquet or CSV file, a hub data set, or a mixture a.jsonl:0.7,"
        "b.jsonl:0.3; None: pig_latin for the embedded model, no_robots for others",
    )
    general: str | None = chz.field(
        default=None, doc="conversations on which forgetting/general is measured; None: with pig_latin only"
    )
    judge_model: str | None = chz.field(
        default=None, doc="model that compares answers to held-out questions with the base model's, for eval/win_rate"
    )
    max_tokens: int = chz.field(
        default=512, validator=at_least(1), doc="longest answer that is sampled from a held-out question"
    )
    held_out: int | float | None = chz.field(
        default=None,
        validator=share_or_count,
        doc="rows, or the share of them below 1.0, held out of training; None: 200, or a tenth of fewer than 2,000",
    )
    batch_size: int | None = chz.field(
        default=None,
        validator=at_least(1),
        doc="conversations per step; None: 64, or fewer where 10 batches are not filled",
    )
    eval_every: int = chz.field(default=50, validator=at_least(0), doc="steps between evaluations; 0: only at the end")

    @property
    def usual_batch_size(self) -> int:
        return 64


def main(config: Config) -> TrainResult:
    """Train, and measure what was gained and what it cost.

    Raises:
        UserError: a setting or a row cannot be used.
        TinsmithError: the service failed.
    """
    # In the config, and so in `config.json`: a run that is taken up again must not choose anew.
    config = chz.replace(config, data=data_name(config.data, config.model_name))
    with Run(config, RECIPE, free=FREE) as run:
        evaluators = _evaluators(config)
        model = set_up_model(run, config)
        rows = config.load_rows(model.renderer)
        learned, held_out = split_rows(config, run, rows)
        if config.judge_model is not None:
            evaluators.append(_judged(config, model.service, held_out))
        return train_on_rows(config, run, model, learned, held_out=held_out, evaluators=evaluators)


def _evaluators(config: Config) -> list[Evaluator]:
    found: list[Evaluator] = []
    # Only here is it known what is right, so answers can be graded.
    if config.data == PIG_LATIN:
        words = held_out_words(config.seed)
        found.append(AccuracyEvaluator(words, name="pig_latin", max_tokens=_WORD_TOKENS))
        found.append(WinRateEvaluator(words, GradedJudge(), name="pig_latin_win_rate", max_tokens=_WORD_TOKENS))
    if config.general is not None:
        # There is seldom one right answer to a question of a general kind: the loss says it.
        rows = general_rows(config.general, config.seed, skip_bad_rows=config.skip_bad_rows)
        found.append(ForgettingEvaluator(rows, grader=None))
    elif config.data == PIG_LATIN:
        found.append(ForgettingEvaluator(general_rows(None, config.seed), max_tokens=64))
    return found


def _judged(config: Config, service: ServiceClient, held_out: Sequence[Row]) -> WinRateEvaluator:
    if not held_out:
        raise invalid("held_out", config.held_out, "rows whose answers can be compared, as judge_model is given")
    judge = Completer.open(service, base_model=config.judge_model)
    return WinRateEvaluator(held_out, ModelJudge(judge.sampler, judge.renderer), max_tokens=config.max_tokens)


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
