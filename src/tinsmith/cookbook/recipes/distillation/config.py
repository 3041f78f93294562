"""The settings of `distillation`."""

from __future__ import annotations

from typing import Any, Literal

import chz

from tinsmith.cookbook.distillation import DistillationConfig
from tinsmith.cookbook.distillation.config import check_off_policy
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.paths import CheckpointPath

_ONE_TEACHER = ("teacher_model", "teacher_path", "teacher_base_url", "teacher_sees")
# Less than what the embedded model takes for supervised training: the policy that samples is the one that moves.
SHIPPED_LEARNING_RATE = 3e-3


def _held_out(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None and (not value > 0 or (isinstance(value, float) and value >= 1)):
        raise invalid(field.removeprefix("X_"), value, "a number of prompts, or a share of them below 1.0")


def _checkpoint(config: Any, field: str) -> None:
    value = getattr(config, field)
    if value is not None:
        CheckpointPath.parse(value, field.removeprefix("X_"))


@chz.chz
class Config(DistillationConfig):
    """Who teaches what, and how; the rest is that of distillation."""

    method: Literal["on_policy", "off_policy", "both"] | None = chz.field(
        default=None,
        doc="on_policy (the student speaks), off_policy (the teacher does), both (one student each); "
        "None: both for the shipped sums, else on_policy",
    )
    prompts: str | None = chz.field(
        default=None,
        doc='JSONL, Parquet or CSV of {"prompt": ...} or {"messages": [...]}, perhaps with "answer", or owner/name of '
        "the hub; "
        "None: sums, as ship with the recipe",
    )
    held_out: int | float | None = chz.field(
        default=None,
        validator=_held_out,
        doc="prompts, or the share of them below 1.0, held out of training; None: 200, or a tenth of fewer than 2,000",
    )
    skip_bad_rows: bool = chz.field(default=False, doc="leave out rows of a file that are no prompts; they are counted")
    drawn: int = chz.field(
        default=960, validator=at_least(1), doc="shipped sums that are trained on; 960 are 30 steps of the default size"
    )
    grade: Literal["exact", "boxed"] = chz.field(
        default="exact", doc="an answer is right if it equals the given one, or if what it has in its last box does"
    )
    teacher_model: str | None = chz.field(
        default=None, doc="the teacher, a base model; None: teacher_path, else see teacher_sees"
    )
    teacher_path: str | None = chz.field(
        default=None, validator=_checkpoint, doc="the teacher, tinker:// sampler weights, in place of teacher_model"
    )
    teacher_base_url: str | None = chz.field(
        default=None, doc="the service that holds the teacher; None: the student's"
    )
    teacher_sees: str | None = chz.field(
        default=None,
        doc="what the teacher reads in place of the question, with {question} and {answer} in it: self-distillation "
        "where no teacher is named",
    )
    domains: str | None = chz.field(
        default=None,
        doc="JSON file of several domains with a teacher each, in place of prompts and teacher_*; see the README",
    )
    teacher_steps: int = chz.field(
        default=60,
        validator=at_least(1),
        doc="shipped sums without a named teacher: supervised steps that make one of the embedded model",
    )
    teacher_learning_rate: float = chz.field(default=4e-3, validator=positive, doc="peak rate of these steps")
    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="prompts per step; None: 32, or fewer where 10 batches are not filled"
    )
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the prompts are gone through")
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest answer, of student and teacher")

    @property
    def shipped(self) -> bool:
        """Whether it is about the sums that ship with the recipe."""
        return self.prompts is None and self.domains is None

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is named."""
        return self.teacher_model is not None or self.teacher_path is not None

    @chz.validate
    def _teachers(self) -> None:
        if self.teacher_model is not None and self.teacher_path is not None:
            raise invalid("teacher_path", self.teacher_path, "None beside teacher_model: one teacher")
        if self.domains is not None:
            given = [name for name in ("prompts", *_ONE_TEACHER) if getattr(self, name) is not None]
            if given:
                raise invalid(given[0], getattr(self, given[0]), "None: the file of domains says it")
            return
        if self.teacher_base_url is not None and not self.has_teacher:
            raise invalid("teacher_base_url", self.teacher_base_url, "None, or teacher_model or teacher_path beside it")
        made = self.shipped and self.model_name == EMBEDDED_MODEL
        if not (self.has_teacher or self.teacher_sees or made):
            raise invalid(
                "teacher_model",
                None,
                "a teacher: teacher_model=NAME, teacher_path=tinker://..., or teacher_sees=TEXT for self-distillation",
            )

    @chz.validate
    def _rollouts(self) -> None:
        if self.method == "off_policy":
            check_off_policy(self)
