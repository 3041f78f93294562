"""Queries, and the rows and test cases that the teacher's answers to them make."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, cast

from tinsmith.cookbook.datasets.pig_latin import draw_words
from tinsmith.cookbook.renderers import Message, TurnEnd
from tinsmith.cookbook.renderers.messages import check_messages
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.formats.chat_messages import own_messages
from tinsmith.cookbook.rows.formats.own_form import SYSTEMS, add_system
from tinsmith.cookbook.rows.formats.row_keys import settle_keys_of_question
from tinsmith.cookbook.rows.formats.sharegpt import is_turn, turns_to_messages
from tinsmith.cookbook.rows.row_notes import RowNotes, tell_facts
from tinsmith.cookbook.rows.sources import open_file
from tinsmith.cookbook.words import Split
from tinsmith.types.errors import invalid

# Few enough for a minute of sampling, enough for a student to learn five tools.
_SHIPPED = {"train": 800, "held_out": 200}
# What a query is asked in.
_FIELDS = ("query", "messages", "conversations")
# Per tool of the shipped prompt: its argument, and how people ask for it.
_TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lookup": ("key", ("What is the value of {}?", "Look up {}.")),
    "search": ("query", ("Search for {}.", "Find out about {}.")),
    "weather": ("city", ("How is the weather in {}?", "Weather in {}?")),
    "price": ("item", ("What does {} cost?", "Price of {}?")),
    "phone": ("name", ("What is the phone number of {}?", "Call {}.")),
}


@dataclass(frozen=True)
class Query:
    """What is asked.

    Attributes:
        messages: the conversation that ends with the question, without the teacher's prompt.
        answer: what is right, where that is known: a text, or a message of the assistant.
    """

    messages: list[dict[str, Any]]
    answer: str | dict[str, Any] | None = None


@dataclass
class Distilled:
    """What the teacher's answers come to.

    Attributes:
        rows: conversations to train on, without the teacher's prompt.
        tests: held-out queries with the teacher's answers.
        dropped: answers that were left out, by reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    tests: list[tuple[Query, Message]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def load_prompt(path: str | None) -> str:
    """Return the teacher's system message.

    Raises:
        UserError: there is no such file, or nothing in it.
    """
    if path is None:
        return (
            files("tinsmith.cookbook.recipes.prompt_distillation")
            .joinpath("teacher_prompt.txt")
            .read_text(encoding="utf-8")
            .strip()
        )
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("teacher_prompt", path, f"a text file that can be read ({error})") from error
    if not text:
        raise invalid("teacher_prompt", path, "a file with a prompt in it")
    return text


def load_queries(
    path: str | None, held_out: int | float | None, seed: int, *, skip_bad_rows: bool = False
) -> tuple[list[Query], list[Query]]:
    """Return the queries to train on, and those that are held out.

    The shipped ones are split by their words; those of a file are drawn, by `seed`.

    Args:
        path: JSONL, Parquet or CSV of `{"query": "..."}` or `{"messages": [...]}`, perhaps with an `"answer"`; None: as
            ships.
        held_out: queries to hold out, or the share of them below 1.0; None: 200, or a tenth of fewer than 2,000.
        seed: of the draw.
        skip_bad_rows: whether rows that are no queries are left out, with a warning, or an error.

    Raises:
        UserError: a line is no query (names file and line), or there are too few.
    """
    if path is None:
        count = _SHIPPED["held_out"] if held_out is None else held_out
        count = count if isinstance(count, int) else round(count * _SHIPPED["train"])
        return _shipped("train", _SHIPPED["train"], seed), _shipped("held_out", count, seed)
    rows = open_file(Path(path), _check, _check_columns, field="queries", skip=skip_bad_rows)
    tell_facts(path, rows.remarks())
    queries = [_query(row, RowNotes()) for row in rows]
    count = max(1, held_out_count(held_out, len(queries), _SHIPPED["held_out"], "queries"))
    if count >= len(queries):
        raise invalid("held_out", held_out, f"fewer than the {len(queries)} queries of {path}")
    order = Random(f"held-out-{seed}").sample(range(len(queries)), len(queries))
    return [queries[i] for i in sorted(order[count:])], [queries[i] for i in sorted(order[:count])]


def _shipped(split: Split, count: int, seed: int) -> list[Query]:
    rng = Random(f"{split}-{seed}")
    return [_tool_query(rng, word) for word in draw_words(split, count, seed)]


def _tool_query(rng: Random, word: str) -> Query:
    tool = rng.choice(tuple(_TOOLS))
    argument, phrasings = _TOOLS[tool]
    call = {"type": "function", "function": {"name": tool, "arguments": {argument: word}}}
    question = rng.choice(phrasings).format(word)
    return Query([{"role": "user", "content": question}], {"role": "assistant", "content": "", "tool_calls": [call]})


def _check(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    _query(row, notes)
    return row


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not any(name in columns for name in _FIELDS):
        raise invalid(f"{path}: columns", ", ".join(columns), 'either "query" or "messages"')


def _query(row: Any, notes: RowNotes) -> Query:
    if not isinstance(row, dict) or sum(row.get(name) is not None for name in _FIELDS) != 1:
        raise invalid("row", row, 'an object with either "query" or "messages"')
    for key in ("tools", "functions"):
        if row.get(key):
            raise invalid(key, row[key], "none: queries without tools")
    settle_keys_of_question(row, (*_FIELDS, *SYSTEMS, "answer"), notes)
    field = next(name for name in _FIELDS if row.get(name) is not None)
    turns = row[field]
    if field == "query":
        if not (isinstance(turns, str) and turns.strip()):
            raise invalid("query", turns, "a text that is not empty")
        turns = [{"role": "user", "content": turns}]
    elif field == "conversations" or (isinstance(turns, list) and any(map(is_turn, turns))):
        turns = turns_to_messages(turns, field)
    messages = add_system(row, own_messages(turns, field, notes), notes)
    if check_messages(messages, field)[-1].role == "assistant":
        raise invalid(field, "an answer of the assistant at the end", "a question; the answer belongs in `answer`")
    answer = row.get("answer")
    if isinstance(answer, dict):
        (answer,) = own_messages([answer], "answer", notes)
        check_messages([answer], "answer")
    elif answer is not None and not isinstance(answer, str):
        raise invalid("answer", answer, "a text, or a message of the assistant")
    return Query(messages, answer)


def distil(
    train: Sequence[tuple[Query, Mapping[str, Any]]],
    held_out: Sequence[tuple[Query, Mapping[str, Any]]],
    *,
    keep_thinking: bool,
    answer_pattern: str | None,
) -> Distilled:
    """Make rows and test cases of the teacher's answers, without those that are cut off or malformed.

    Args:
        train: queries with the answers as `teacher.ask` gives them.
        held_out: the same of the queries to test with.
        keep_thinking: whether answers keep their thinking.
        answer_pattern: regular expression whose one group is kept of an answer's text; None keeps the text.

    Raises:
        UserError: nothing is left to train on, or nothing to test with.
    """
    found = Distilled()
    for query, given in train:
        message = _kept(given, keep_thinking, answer_pattern, found.dropped)
        if message is not None:
            found.rows.append({"messages": [*query.messages, message]})
    for query, given in held_out:
        message = _kept(given, keep_thinking, answer_pattern, found.dropped)
        if message is not None:
            found.tests.append((query, message))
    if not found.rows or not found.tests:
        raise invalid("teacher", f"no answer that can be used ({dict(found.dropped)})", "answers; see teacher.jsonl")
    return found


def _kept(given: Mapping[str, Any], keep_thinking: bool, pattern: str | None, dropped: Counter[str]) -> Message | None:
    message = cast(Message, dict(given["message"]))
    thinking = message.pop("reasoning_content", None)
    # Half an answer would teach the student to stop in the middle.
    if given["end"] == TurnEnd.CUT_OFF:
        dropped["cut off"] += 1
        return None
    # Nor is it to learn calls that nobody can read.
    if message.get("unparsed_tool_calls"):
        dropped["malformed tool call"] += 1
        return None
    if pattern is not None:
        match = re.search(pattern, str(message["content"]))
        if match is None or match[1] is None:
            dropped["without the pattern"] += 1
            return None
        message["content"] = match[1]
    # After the pattern, which may leave nothing.
    if not str(message["content"]).strip() and not message.get("tool_calls"):
        dropped["empty"] += 1
        return None
    # The field comes back at the end of the message; without it the student learns to answer at once.
    if keep_thinking and thinking:
        message["reasoning_content"] = thinking
    return message
