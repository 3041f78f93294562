"""A base model and a tuned one for the tests of evaluators: the embedded model before and after some pig latin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tinsmith
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import conversation_to_datum

STEPS = 12


@contextmanager
def service_in(folder: Path) -> Iterator[tinsmith.ServiceClient]:
    """Open an embedded service whose data lie in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINSMITH_HOME", str(folder))
        with tinsmith.ServiceClient() as client:
            yield client


def context_of(service: tinsmith.ServiceClient, training: tinsmith.TrainingClient | None = None) -> EvalContext:
    """Return an evaluation of an adapter, or of the base model."""
    tokenizer = service.get_tokenizer("tinsmith-tiny")
    renderer = get_renderer("tinsmith_tiny", tokenizer)
    return EvalContext(service, "tinsmith-tiny", renderer, tokenizer, training_client=training)


def tune(service: tinsmith.ServiceClient) -> tinsmith.TrainingClient:
    """Teach the embedded model as much pig latin as a few seconds allow; it then gets some words right, most not."""
    training = service.create_lora_training_client("tinsmith-tiny", rank=16, seed=0)
    renderer = get_renderer("tinsmith_tiny", training.get_tokenizer())
    words = pig_latin.draw_words("train", STEPS * 32, seed=0)
    for step in range(STEPS):
        rows = pig_latin.rows(words[step * 32 : step * 32 + 32])
        training.forward_backward([conversation_to_datum(row["messages"], renderer) for row in rows], "cross_entropy")
        training.optim_step(tinsmith.AdamParams(learning_rate=4e-3)).result()
    return training
