"""The settings of `tool_use`."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.rl import RLConfig, ToolLimits
from tinsmith.cookbook.schedules import Schedule
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.errors import invalid

# Four times what reinforcement learning takes for the embedded model otherwise: here it has little to unlearn.
DRAWN_LEARNING_RATE = 4e-3


# Somebody's questions cannot be answered from drawn documents, nor the reverse.
def _questions(config: Any, field: str) -> None:
    value = getattr(config, field)
    if (value is None) != (config.corpus is None):
        raise invalid(field.removeprefix("X_"), value, "a JSONL file exactly where corpus is given")


def _held_out(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None and (value <= 0 or (isinstance(value, float) and value >= 1)):
        raise invalid(field.removeprefix("X_"), value, "a number of questions, or a share of them below 1.0")


@chz.chz
class Config(RLConfig):
    """What is searched and asked, and what an answer is worth; the rest is that of reinforcement learning."""

    corpus: str | None = chz.field(
        default=None,
        doc='JSONL of {"text": ..., "title": ...}: what is searched; None: things and values that are drawn',
    )
    questions: str | None = chz.field(
        default=None,
        validator=_questions,
        doc='JSONL of {"question": ..., "answer": a text, or a list of those that are right}; None: as are drawn',
    )
    learning_rate: float | None = chz.field(
        default=None,
        validator=positive,
        doc=f"peak rate of Adam; None: {DRAWN_LEARNING_RATE} for the embedded model on drawn ones, else the formula",
    )
    # Near the end a group has one wrong answer or none, and Adam makes a full step of that.
    lr_schedule: Schedule = chz.field(default="linear", doc="constant, linear or cosine, from the peak rate to 0")
    drawn: int = chz.field(default=152, validator=at_least(20), doc="questions to draw, held-out ones included")
    held_out: int | float | None = chz.field(
        default=None,
        validator=_held_out,
        doc="questions, or the share of them below 1.0, held out of training; None: 80, or a tenth of fewer than 800",
    )
    system_prompt: str | None = chz.field(
        default=None, doc="what the model is told before a question; None: to search, of drawn questions nothing"
    )
    require_retrieval: bool = chz.field(
        default=True, doc="a right answer is worth something only where it stood in what was found"
    )
    partial_credit: bool = chz.field(default=False, doc="the share of right words (F1) as reward, not all or nothing")

    results: int = chz.field(default=3, validator=at_least(1), doc="documents that a search shows")
    result_chars: int = chz.field(
        default=4000, validator=at_least(1), doc="characters of a result that the model reads"
    )
    tool_seconds: float = chz.field(default=10.0, validator=positive, doc="that a call may take")
    max_tool_calls: int | None = chz.field(
        default=3, validator=at_least(0), doc="calls of an episode; those beyond are not made, and the model is told"
    )

    eval_temperature: float = chz.field(
        default=1.0, validator=at_least(0), doc="of the answers to held-out questions; 1 as in training, 0 is greedy"
    )
    batch_size: int = chz.field(default=8, validator=at_least(1), doc="questions per step")
    group_size: int = chz.field(default=12, validator=at_least(1), doc="episodes per question; advantages compare them")
    max_tokens: int = chz.field(default=80, validator=at_least(1), doc="longest turn, in tokens")
    max_turns: int | None = chz.field(default=5, validator=at_least(1), doc="turns of an episode")
    eval_every: int = chz.field(default=25, validator=at_least(0), doc="steps between evaluations; 0: only at the end")

    def tool_limits(self) -> ToolLimits:
        """Return the limits of tool calls."""
        return ToolLimits(self.tool_seconds, self.result_chars, self.max_tool_calls)
