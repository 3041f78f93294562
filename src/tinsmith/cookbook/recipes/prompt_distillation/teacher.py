"""The teacher's answers: sampled once, in order, into a file of the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinsmith import ServiceClient
from tinsmith.cookbook.completers import Completer, SampledTurn, sample_responses
from tinsmith.cookbook.recipes.prompt_distillation.config import Config
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import Query
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.jsonl import keep_rows, read_rows
from tinsmith.cookbook.runs.start.folder import append_rows
from tinsmith.types.errors import invalid

FILE = "teacher.jsonl"
# Answers that are sampled side by side, and written together.
_CHUNK = 128


def with_prompt(messages: Sequence[Mapping[str, Any]], prompt: str) -> list[dict[str, Any]]:
    """Return a query as the teacher sees it: the prompt first, before a system message of the query's own."""
    if messages[0]["role"] == "system":
        prompt, messages = f"{prompt}\n\n{messages[0]['content']}", messages[1:]
    return [{"role": "system", "content": prompt}, *({**message} for message in messages)]


def ask(config: Config, run: Run, prompt: str, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """Return the teacher's answer to each query, from the run's folder as far as they are there, else sampled.

    Answers are written as they come, every one seeded by its place, so that a run that was stopped, or killed, asks
    only for the rest and gets what it would have got.

    Args:
        config: names the teacher, and how it is sampled.
        run: keeps the answers.
        prompt: the teacher's system message.
        queries: in order; answer i is to query i.

    Returns:
        Per query `{"index": ..., "message": ..., "end": ...}`; `end` is the reason why the turn ended.

    Raises:
        UserError: the folder holds answers to other queries, or of another teacher, or cannot be written.
    """
    path = run.path / FILE
    keep_rows(path, lambda row: True)  # cuts off the end of a line that a crash left
    rows = read_rows(path)
    _check_old_header(rows, run.path, config, prompt, queries)
    # At once: answers are kept from the first one on, long before there is a state of the student.
    run.hold("teacher", _facts(config, prompt, queries), at_once=True)
    answers = [row for row in rows if "index" in row]
    if len(answers) < len(queries):
        _ask_rest(config, run.service_client(), path, prompt, queries, answers)
    return answers


def _ask_rest(
    config: Config,
    service: ServiceClient,
    path: Path,
    prompt: str,
    queries: Sequence[Query],
    answers: list[dict[str, Any]],
) -> None:
    """Sample the answers that are missing at the end; append them to the file and to `answers`."""
    teacher = _open(config, service)
    for start in range(len(answers), len(queries), _CHUNK):
        responses = sample_responses(
            teacher.sampler,
            teacher.renderer,
            [with_prompt(query.messages, prompt) for query in queries[start : start + _CHUNK]],
            max_tokens=config.max_tokens,
            temperature=config.teacher_temperature,
            # Answer i is drawn from seed + i, wherever a chunk begins: a run that was stopped gets the rest that it
            # would have got.
            seed=config.seed + start,
        )
        sampled = [_row(start + offset, response) for offset, response in enumerate(responses)]
        append_rows(path, sampled)
        answers += sampled
        print(f"teacher: {len(answers)} of {len(queries)} answers", flush=True)


def _open(config: Config, service: ServiceClient) -> Completer:
    teacher = Completer.open(
        service,
        base_model=(config.teacher_model or config.model_name) if config.teacher_path is None else None,
        model_path=config.teacher_path,
        renderer_name=config.teacher_renderer_name,
    )
    name = teacher.sampler.get_base_model()
    if config.teacher_model is not None and config.teacher_model != name:
        raise invalid("teacher_model", config.teacher_model, f"{name}, the base of {config.teacher_path}, or none")
    return teacher


def _row(index: int, response: SampledTurn) -> dict[str, Any]:
    # The ids are the teacher's; the student says the same in its own format.
    message = {key: value for key, value in response.message.items() if key != "tokens"}
    return {"index": index, "message": message, "end": response.end.value}


def _facts(config: Config, prompt: str, queries: Sequence[Query]) -> dict[str, Any]:
    """Return all that the answers depend on; of what is long, its hash."""
    return {
        "model": config.teacher_model or config.model_name,
        "path": config.teacher_path,
        "renderer": config.teacher_renderer_name,
        "temperature": config.teacher_temperature,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "prompt_sha256": _sha256(prompt),
        "queries": len(queries),
        "queries_sha256": _sha256([query.messages for query in queries]),
    }


def _check_old_header(
    rows: Sequence[Mapping[str, Any]], folder: Path, config: Config, prompt: str, queries: Sequence[Query]
) -> None:
    """Check the facts of a run whose answers begin with a row of one hash over all of them, as they once did.

    Raises:
        UserError: it is the hash of others.
    """
    if not rows or "teacher" not in rows[0]:
        return
    asked = [
        config.model_name,
        config.teacher_model,
        config.teacher_path,
        config.teacher_renderer_name,
        config.teacher_temperature,
        config.max_tokens,
        config.seed,
        prompt,
        [query.messages for query in queries],
    ]
    if rows[0]["teacher"] != _sha256(asked):
        raise invalid("log_path", str(folder), "a run of the same teacher, prompt and queries, or another log_path")


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
