"""The settings of prompt distillation."""

from __future__ import annotations

import re
from typing import Any

import chz

from tinsmith.cookbook.renderers import TrainOnWhat
from tinsmith.cookbook.supervised.config import RowTrainingConfig
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid
from tinsmith.types.names.paths import CheckpointPath


# A prompt without its queries, or the reverse, would mix somebody's task with the shipped one.
def _queries(config: Any, field: str) -> None:
    value = getattr(config, field)
    if (value is None) != (config.teacher_prompt is None):
        raise invalid(field.removeprefix("X_"), value, "a JSONL file exactly where teacher_prompt is given")


def _tested(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None and (value <= 0 or (isinstance(value, float) and value >= 1)):
        raise invalid(field.removeprefix("X_"), value, "a number of queries, or a share of them below 1.0")


def _pattern(config: Any, field: str) -> None:
    value = getattr(config, field)
    try:
        # Tried at the door, not after the teacher has answered a thousand queries.
        groups = 1 if value is None else re.compile(value).groups
    except re.error as error:
        raise invalid(field.removeprefix("X_"), value, f"a regular expression ({error})") from None
    if groups != 1:
        raise invalid(field.removeprefix("X_"), value, "a regular expression with one (group): what is kept")


def _temperature(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value < 0:
        raise invalid(field.removeprefix("X_"), value, "0 (greedy) or more")


def _checkpoint(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None:
        CheckpointPath.parse(value, field.removeprefix("X_"))


@chz.chz
class Config(RowTrainingConfig):
    """What is asked of whom; the rest is that of training on rows, which here are the teacher's answers."""

    teacher_prompt: str | None = chz.field(
        default=None, doc="text file: the teacher's system message; None: five tools, as ships with the recipe"
    )
    queries: str | None = chz.field(
        default=None,
        validator=_queries,
        doc='JSONL, Parquet or CSV of {"query": ...} or {"messages": [...]}, perhaps with "answer"; None: as ships',
    )
    teacher_model: str | None = chz.field(default=None, doc="the teacher's base model; None: the student's")
    teacher_path: str | None = chz.field(
        default=None, validator=_checkpoint, doc="tinker:// sampler weights of the teacher; None: its base model"
    )
    teacher_renderer_name: str | None = chz.field(default=None, doc="its chat format; None: the model's own")
    teacher_temperature: float = chz.field(default=0.0, validator=_temperature, doc="of its answers; 0: greedy")
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest answer, of the teacher or the student")
    keep_thinking: bool = chz.field(default=False, doc="whether the student learns the teacher's thinking too")
    answer_pattern: str | None = chz.field(
        default=None,
        validator=_pattern,
        doc="regular expression whose one group is what the student learns of an answer; others are left out",
    )
    train_on_what: TrainOnWhat = chz.field(
        default=TrainOnWhat.LAST_ASSISTANT_MESSAGE,
        doc="which messages are learned; the last is the teacher's, earlier ones belong to the query",
    )
    held_out: int | float | None = chz.field(
        default=None,
        validator=_tested,
        doc="queries, or the share of them below 1.0, held out of training; None: 200, or a tenth of fewer than 2,000",
    )
    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="queries per step; None: 16, or fewer where 10 batches are not filled"
    )
    epochs: int = chz.field(default=2, validator=at_least(1), doc="how often the answers are gone through")

    @property
    def usual_batch_size(self) -> int:
        return 16

    eval_every: int = chz.field(default=25, validator=at_least(0), doc="steps between evaluations; 0: only at the end")
