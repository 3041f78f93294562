"""The teacher's answers: sampled once, in order, into a file of the run's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinsmith import SamplingClient, ServiceClient
from tinsmith.cookbook.answers import sample_responses
from tinsmith.cookbook.model_info import get_recommended_renderer_name
from tinsmith.cookbook.recipes.prompt_distillation.config import Config
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import Query
from tinsmith.cookbook.renderers import ParsedResponse, Renderer, get_renderer
from tinsmith.cookbook.runs.folder import unusable
from tinsmith.cookbook.runs.jsonl import keep_rows, read_rows
from tinsmith.types.errors import invalid

FILE = "teacher.jsonl"
# Answers that are sampled side by side, and written together.
_CHUNK = 128


def with_prompt(messages: Sequence[Mapping[str, Any]], prompt: str) -> list[dict[str, Any]]:
    """Return a query as the teacher sees it: the prompt first, before a system message of the query's own."""
    if messages[0]["role"] == "system":
        prompt, messages = f"{prompt}\n\n{messages[0]['content']}", messages[1:]
    return [{"role": "system", "content": prompt}, *({**message} for message in messages)]


def ask(
    config: Config, service: ServiceClient, folder: Path, prompt: str, queries: Sequence[Query]
) -> list[dict[str, Any]]:
    """Return the teacher's answer to each query, from the run's folder as far as they are there, else sampled.

    Answers are written as they come, every one seeded by its place, so that a run that was stopped, or killed, asks
    only for the rest and gets what it would have got.

    Args:
        config: of the run.
        service: its client.
        folder: of the run.
        prompt: the teacher's system message.
        queries: in order.

    Returns:
        Per query `{"index": ..., "message": ..., "end": ...}`; `end` is the reason why the turn ended.

    Raises:
        UserError: the folder holds answers to other queries, or of another teacher, or cannot be written.
    """
    path = folder / FILE
    header = {"teacher": _fingerprint(config, prompt, queries)}
    keep_rows(path, lambda row: True)  # cuts off the end of a line that a crash left
    rows = read_rows(path)
    if rows and rows[0] != header:
        raise invalid("log_path", str(folder), "a run of the same teacher, prompt and queries, or another log_path")
    if not rows:
        _append(path, [header])
    answers = rows[1:]
    if len(answers) < len(queries):
        _ask_rest(config, service, path, prompt, queries, answers)
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
    sampler, renderer = _open(config, service)
    for start in range(len(answers), len(queries), _CHUNK):
        responses = sample_responses(
            sampler,
            renderer,
            [with_prompt(query.messages, prompt) for query in queries[start : start + _CHUNK]],
            max_tokens=config.max_tokens,
            temperature=config.teacher_temperature,
            seed=config.seed + start,
        )
        sampled = [_row(start + offset, response) for offset, response in enumerate(responses)]
        _append(path, sampled)
        answers += sampled
        print(f"teacher: {len(answers)} of {len(queries)} answers", flush=True)


def _open(config: Config, service: ServiceClient) -> tuple[SamplingClient, Renderer]:
    if config.teacher_path is None:
        sampler = service.create_sampling_client(base_model=config.teacher_model or config.model_name)
    else:
        sampler = service.create_sampling_client(model_path=config.teacher_path)
    name, tokenizer = sampler.get_base_model(), sampler.get_tokenizer()
    if config.teacher_model is not None and config.teacher_model != name:
        raise invalid("teacher_model", config.teacher_model, f"{name}, the base of {config.teacher_path}, or none")
    renderer_name = config.teacher_renderer_name or get_recommended_renderer_name(name, tokenizer)
    return sampler, get_renderer(renderer_name, tokenizer)


def _row(index: int, response: ParsedResponse) -> dict[str, Any]:
    # The ids are the teacher's; the student says the same in its own format.
    message = {key: value for key, value in response.message.items() if key != "tokens"}
    return {"index": index, "message": message, "end": response.end.value}


def _fingerprint(config: Config, prompt: str, queries: Sequence[Query]) -> str:
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
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unusable(path.parent, error) from error
