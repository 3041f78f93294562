"""Examples of rollouts beside what their teachers say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinsmith.cookbook.distillation.prompts import TaughtGroup
from tinsmith.cookbook.distillation.teachers import Likeliest, Scored, Teacher, ask_each
from tinsmith.cookbook.rl.learning.examples import Example, examples_of
from tinsmith.cookbook.rl.learning.kl_penalty import log_ratios
from tinsmith.cookbook.rl.trajectories import TrajectoryGroup
from tinsmith.types.errors import invalid

# A sum over tokens, and how many these are.
Totals = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Taught:
    """A sequence of N tokens that a teacher looks at.

    Attributes:
        example: what was read and said.
        domain: metrics about it are called so.
        teacher: who.
        first: place of the first token that was said.
        text: what the teacher is asked about: its prompt, and all tokens from the first that was said.
    """

    example: Example
    domain: str
    teacher: Teacher
    first: int
    text: Scored

    @classmethod
    def of(cls, example: Example, group: TrajectoryGroup) -> Taught:
        """Find out who teaches an example of a group.

        Raises:
            UserError: the group has no teacher.
        """
        builder = group.builder
        if not isinstance(builder, TaughtGroup) or builder.teacher is None:
            raise invalid(
                "dataset", f"groups of {type(builder).__name__}", "groups of TaughtGroup, which have a teacher"
            )
        first = example.action.index(True)
        reads = example.tokens[:first] if builder.teacher_prompt is None else builder.teacher_prompt
        domain = builder.tags[0] if builder.tags else ""
        return cls(example, domain, builder.teacher, first, Scored(reads, example.tokens[first:]))

    def differences(self, own: Sequence[float | None]) -> npt.NDArray[np.float64]:
        """Return log pi - log pi_teacher of N tokens, of the teacher's logprobs of its text."""
        return log_ratios(self.example, [*[None] * self.first, *own])


def taught_in(groups: Iterable[TrajectoryGroup]) -> list[Taught]:
    """Return all sequences of groups with their teachers."""
    return [
        Taught.of(example, group)
        for group in groups
        for trajectory in group.trajectories
        for example in examples_of(trajectory, [0.0] * len(trajectory.transitions))
    ]


def ask_logprobs(taught: Sequence[Taught]) -> list[list[float | None]]:
    """Return the logprobs of the tokens of each text under its teacher."""
    teachers, texts = [each.teacher for each in taught], [each.text for each in taught]
    return ask_each(teachers, texts, lambda teacher, own: teacher.logprobs(own))


def ask_likeliest(taught: Sequence[Taught], k: int) -> list[Likeliest]:
    """Return its teacher's likeliest tokens at each place of each text."""
    teachers, texts = [each.teacher for each in taught], [each.text for each in taught]
    return ask_each(teachers, texts, lambda teacher, own: teacher.likeliest(own, k))


def totals(name: str, taught: Sequence[Taught], sums: Sequence[float]) -> Totals:
    """Return sums over tokens with their numbers: of all, and of each domain where there are several.

    Args:
        name: of the number; that of a domain is `NAME/DOMAIN`.
        taught: sequences.
        sums: of each, over its action tokens.
    """
    domains = {each.domain for each in taught}
    found: Totals = {}
    for each, total in zip(taught, sums, strict=True):
        for called in [name, *([f"{name}/{each.domain}"] if len(domains) > 1 else [])]:
            before, count = found.get(called, (0.0, 0))
            found[called] = (before + total, count + each.example.trained_tokens)
    return found


def means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Return sums divided by their numbers."""
    return {name: total / count for name, (total, count) in sums.items() if count}


def teacher_kl(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    """Measure `teacher_kl` of groups: the mean log ratio of student and teacher, in nats per token that was said.

    It is an unbiased estimate of the reverse KL to the teacher at the student's own states, and may be below 0 by
    chance.
    """
    taught = taught_in(groups)
    logprobs = ask_logprobs(taught)
    sums = [float(each.differences(own).sum()) for each, own in zip(taught, logprobs, strict=True)]
    return means(totals("teacher_kl", taught, sums))
