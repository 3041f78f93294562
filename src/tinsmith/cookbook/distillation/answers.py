"""The teachers' answers: sampled once, in order, into a file of the run's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tinsmith.cookbook.completers import SampledTurn
from tinsmith.cookbook.distillation.config import DistillationConfig
from tinsmith.cookbook.distillation.prompts import Lesson
from tinsmith.cookbook.renderers import TurnEnd
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.jsonl import keep_rows, read_rows
from tinsmith.cookbook.runs.start.folder import append_rows
from tinsmith.types.errors import invalid

FILE = "teacher.jsonl"
# Prompts that are answered side by side, and written together.
_CHUNK = 64


def teacher_answers(config: DistillationConfig, run: Run, lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    """Return the teachers' answers to all prompts, from the run's folder as far as they are there, else sampled.

    They are written as they come, every one drawn from the seed of its place, so that a run that was stopped, or
    killed, asks only for the rest and gets what it would have got.

    Args:
        config: how many answers to each prompt, and how they are sampled.
        run: keeps them, and was held to the teachers and prompts that they depend on.
        lessons: prompts with their teachers.

    Returns:
        `group_size` rows per prompt, in order: `prompt` (its place), `domain`, `tokens` (ids as they were sampled),
        `said` (their text), and `end`, the reason why the answer ended.

    Raises:
        UserError: the folder cannot be written.
        TinsmithError: a teacher's service failed.
    """
    path = run.path / FILE
    keep_rows(path, lambda row: True)  # cuts off the end of a line that a crash left
    rows = read_rows(path)
    # A prompt whose answers were cut off between two lines is asked again.
    rows = rows[: len(rows) // config.group_size * config.group_size]
    keep_rows(path, lambda row: row["prompt"] < len(rows) // config.group_size)
    for start in range(len(rows) // config.group_size, len(lessons), _CHUNK):
        new = _ask(config, lessons, range(start, min(start + _CHUNK, len(lessons))))
        append_rows(path, new)
        rows += new
        print(f"teacher: {len(rows)} of {len(lessons) * config.group_size} answers", flush=True)
    return rows


def sample_teachers(
    lessons: Sequence[Lesson], *, num_samples: int, max_tokens: int, temperature: float, seed: int
) -> list[list[SampledTurn]]:
    """Return `num_samples` answers of each prompt's teacher, in order; prompt i is drawn from `seed + i`."""
    found: list[list[SampledTurn]] = []
    # Prompts in a row that have the same teacher are asked in one go.
    for teacher, own in groupby(lessons, key=lambda lesson: lesson.teacher):
        prompts = [lesson.teacher_reads for lesson in own]
        found += teacher.sample(
            prompts, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, seed=seed + len(found)
        )
    return found


def usable(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the answers without those that were cut off, and say how many these are.

    Raises:
        UserError: none is left.
    """
    # Half an answer would teach the student to stop in the middle.
    left = [row for row in rows if row["end"] != TurnEnd.CUT_OFF.value]
    ends = Counter(row["end"] for row in rows)
    if ends[TurnEnd.CUT_OFF.value]:
        print(f"teacher: {ends[TurnEnd.CUT_OFF.value]} of {len(rows)} answers left out: cut off at max_tokens")
    if not left:
        raise invalid(
            "max_tokens", "only answers that were cut off", "room for the teacher's answers, see teacher.jsonl"
        )
    return left


def _ask(config: DistillationConfig, lessons: Sequence[Lesson], places: range) -> list[dict[str, Any]]:
    turns = sample_teachers(
        lessons[places.start : places.stop],
        num_samples=config.group_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        # Halved, so that a place may be added to it.
        seed=derived_seed(config.seed, "teacher") // 2 + places.start,
    )
    return [
        _row(place, lessons[place].domain, turn) for place, group in zip(places, turns, strict=True) for turn in group
    ]


def _row(place: int, domain: str, turn: SampledTurn) -> dict[str, Any]:
    said = str(turn.message["content"])
    return {"prompt": place, "domain": domain, "tokens": turn.tokens, "said": said, "end": turn.end.value}
