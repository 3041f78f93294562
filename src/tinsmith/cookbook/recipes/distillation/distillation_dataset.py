"""Prompts, their domains and teachers: the sums that ship, a file, a data set of the hub, or several of these."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.distillation import Domain, Grade, Prompt, TeacherSpec, exact
from tinsmith.cookbook.problems.problem import ANSWERS, QUESTIONS
from tinsmith.cookbook.recipes.distillation.config import Config
from tinsmith.cookbook.renderers.messages import check_messages
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.files.hub_rows import open_hub
from tinsmith.cookbook.rows.formats.chat_messages import own_messages
from tinsmith.cookbook.rows.formats.own_form import SYSTEMS, add_system
from tinsmith.cookbook.rows.formats.row_keys import settle_keys_of_question
from tinsmith.cookbook.rows.formats.sharegpt import is_turn, turns_to_messages
from tinsmith.cookbook.rows.row_notes import RowNotes, tell_facts
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.cookbook.rows.sources import names_a_file, open_file
from tinsmith.types.errors import UserError, invalid

_MOST_TEST_SUMS = 250
USUAL_HELD_OUT = 200
SUMS = "sums"
_FIELDS = {"name", "prompts", "held_out", "teacher_model", "teacher_path", "teacher_base_url", "teacher_sees"}


def load_domains(config: Config) -> list[Domain]:
    """Return the domains that a config names; without a named teacher, it is the student's own base model.

    Raises:
        UserError: a file or a row cannot be used; names file and line.
    """
    if config.domains is not None:
        return _domains_of_file(config)
    teacher = TeacherSpec(config.model_name)
    if config.has_teacher:
        teacher = TeacherSpec(config.teacher_model, config.teacher_path, config.teacher_base_url)
    if config.prompts is None:
        learned, held_out = draw_sums(config.drawn, config.held_out, config.seed)
    else:
        learned, held_out = load_prompts(
            config.prompts, config.held_out, config.seed, skip_bad_rows=config.skip_bad_rows
        )
    name = SUMS if config.prompts is None else Path(config.prompts).stem
    return [Domain(name, learned, held_out, teacher, config.teacher_sees)]


def draw_sums(count: int, held_out: float | None, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Return sums to learn from, and others that are held out.

    Args:
        count: to learn from.
        held_out: sums to hold out, or below 1.0 as a share of `count`; None: 200.
        seed: of the choice.

    Raises:
        UserError: there are not so many.
    """
    if held_out is None:
        asked = USUAL_HELD_OUT
    else:
        asked = held_out if isinstance(held_out, int) else max(1, round(held_out * count))
    if asked > _MOST_TEST_SUMS:
        raise invalid("held_out", held_out, f"at most {_MOST_TEST_SUMS} sums")
    learned = arithmetic.rows("train", count, seed)
    rows = (learned, arithmetic.rows("held_out", asked, seed))
    drawn, test = ([_prompt(row, RowNotes()) for row in side] for side in rows)
    return drawn, test


def load_prompts(
    source: str, held_out: float | None, seed: int, *, skip_bad_rows: bool = False
) -> tuple[list[Prompt], list[Prompt]]:
    """Return prompts to learn from, and others that are held out.

    Args:
        source: JSONL, Parquet or CSV file, or `owner/name` of the hub, of which the train split is taken.
        held_out: prompts to hold out, or the share of them below 1.0; None: 200, or a tenth of fewer than 2,000.
        seed: of the choice.
        skip_bad_rows: whether rows of a file that are no prompts are left out, with a warning, or an error.

    Raises:
        UserError: there are no such rows, or too few; names file and line.
    """
    if source.count("/") == 1 and not names_a_file(source):
        rows = open_hub(source, _check)
    else:
        rows = open_file(Path(source), _check, _check_columns, field="prompts", skip=skip_bad_rows)
    tell_facts(source, rows.remarks())
    prompts = [_prompt(row, RowNotes()) for row in rows]
    count = max(1, held_out_count(held_out, len(prompts), USUAL_HELD_OUT, "prompts"))
    if count >= len(prompts):
        raise invalid("held_out", held_out, f"fewer than the {len(prompts)} prompts of {source}")
    chosen = {int(i) for i in seeded(seed, "held out").permutation(len(prompts))[:count]}
    asked = [prompt for place, prompt in enumerate(prompts) if place in chosen]
    # A prompt that stands there twice must not be on both sides.
    known = {json.dumps(prompt.messages, sort_keys=True) for prompt in asked}
    learned = [prompt for prompt in prompts if json.dumps(prompt.messages, sort_keys=True) not in known]
    if not learned:
        raise invalid("held_out", held_out, f"fewer: all prompts of {source} are equal to one that is held out")
    return learned, asked


def best_constant(domain: Domain) -> float | None:
    """Return how often the answer that is right most often in training is right on held-out prompts."""
    known = [prompt.answer for prompt in domain.prompts if prompt.answer is not None]
    asked = [prompt.answer for prompt in domain.held_out if prompt.answer is not None]
    if not known or not asked:
        return None
    ((frequent, _),) = Counter(known).most_common(1)
    return asked.count(frequent) / len(asked)


def grade_of(name: str) -> Grade:
    """Return the function that says whether an answer is right."""
    if name == "exact":
        return exact
    from tinsmith.cookbook.grading import extract_boxed, safe_grade_async

    return lambda said, answer: safe_grade_async(extract_boxed(said), answer)


def _check(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    _prompt(row, notes)
    return row


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not any(name in columns for name in ("messages", "conversations", *QUESTIONS)):
        raise invalid(f"{path}: columns", ", ".join(columns), f"messages, or one of {', '.join(QUESTIONS)}")


def _prompt(row: Any, notes: RowNotes) -> Prompt:
    if not isinstance(row, Mapping):
        raise invalid("row", row, 'an object with "prompt" or "messages"')
    answer = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if answer is not None and not isinstance(answer, str | int | float):
        raise invalid("answer", answer, "a text or a number")
    return Prompt(_messages(row, notes), None if answer is None else str(answer))


def _messages(row: Mapping[str, Any], notes: RowNotes) -> Sequence[Mapping[str, Any]]:
    for key in ("tools", "functions"):
        if row.get(key):
            raise invalid(key, row[key], "none: prompts without tools")
    field = next((name for name in ("messages", "conversations") if row.get(name) is not None), None)
    settle_keys_of_question(row, (*QUESTIONS, *ANSWERS, *SYSTEMS, "messages", "conversations"), notes)
    if field is None:
        asked = next((row[name] for name in QUESTIONS if row.get(name) is not None), None)
        # As TRL has a conversational prompt.
        if isinstance(asked, list):
            return _asking(add_system(row, own_messages(asked, "prompt", notes), notes), "prompt")
        if not isinstance(asked, str) or not asked.strip():
            raise invalid("row", sorted(map(str, row)), f"messages, or a text: one of {', '.join(QUESTIONS)}")
        return add_system(row, [{"role": "user", "content": asked}], notes)
    turns = row[field]
    if field == "conversations" or (isinstance(turns, list) and any(map(is_turn, turns))):
        turns = turns_to_messages(turns, field)
    return _asking(add_system(row, own_messages(turns, field, notes), notes), field)


def _asking(messages: Any, field: str) -> Sequence[Mapping[str, Any]]:
    """Return a conversation up to its last question."""
    # The answer of a data set for supervised training is somebody else's: teacher or student give their own.
    asked = messages[:-1] if check_messages(messages, field)[-1].role == "assistant" else messages
    if not asked or asked[-1]["role"] != "user":
        raise invalid(field, messages, "a conversation in which the user asks last")
    return asked


def _domains_of_file(config: Config) -> list[Domain]:
    path = str(config.domains)
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid("domains", path, f"a JSON file that can be read ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise invalid("domains", path, "a JSON list of at least one object")
    found: list[Domain] = []
    for place, row in enumerate(rows):
        try:
            found.append(_domain(config, row))
        except UserError as error:
            raise UserError(f"{path}, domain {place}: {error}") from None
    names = [domain.name for domain in found]
    if len(set(names)) < len(names):
        raise invalid(f"{path}: name", names, "a name of its own for each domain")
    return found


def _domain(config: Config, row: Any) -> Domain:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("prompts"), str):
        raise invalid("row", row, 'an object with "name" and "prompts"')
    if unknown := sorted(set(row) - _FIELDS):
        raise invalid("row", unknown[0], f"one of {', '.join(sorted(_FIELDS))}")
    spec = TeacherSpec(row.get("teacher_model"), row.get("teacher_path"), row.get("teacher_base_url"))
    if spec.model is None and spec.path is None and row.get("teacher_sees"):
        spec = TeacherSpec(config.model_name)
    if (spec.model is None) == (spec.path is None):
        raise invalid("teacher_model", spec.model, "a teacher: teacher_model or teacher_path, one of them")
    asked = row.get("held_out", config.held_out)
    learned, held_out = load_prompts(row["prompts"], asked, config.seed, skip_bad_rows=config.skip_bad_rows)
    return Domain(row["name"], learned, held_out, spec, row.get("teacher_sees"))
