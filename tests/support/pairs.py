"""Preference pairs with random content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRMSNorm

from tests.support.checkpoints import SHAPE
from tinsmith.engine.jobs import TrainRow
from tinsmith.types.datum import Datum


def make_datum(prompt: Sequence[int], completion: Sequence[int], **inputs: Any) -> Datum:
    """A datum that trains on the completion alone."""
    tokens = [*prompt, *completion]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    fields = {"target_tokens": tokens[1:], "weights": np.asarray(weights, np.float32)}
    return Datum(model_input=tokens[:-1], loss_fn_inputs={**fields, **inputs})


def make_pair(
    rng: np.random.Generator, prompt: int, chosen: int, rejected: int, vocab: int = SHAPE.vocab_size
) -> list[Datum]:
    """A pair of datums; arguments are numbers of tokens."""
    start = rng.integers(0, vocab, prompt).tolist()
    return [make_datum(start, rng.integers(0, vocab, length).tolist()) for length in (chosen, rejected)]


def pair_rows(
    model_id: str,
    data: Sequence[Datum],
    loss_fn: str = "dpo",
    *,
    backward: bool = True,
    reference: str | None = None,
    **config: float,
) -> list[TrainRow]:
    """Rows of datums in turn, chosen and rejected."""
    return [TrainRow(model_id, datum, loss_fn, config, backward, reference) for datum in data]


def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the norms and routers of `transformers` compute in float64 where the model does; else they do in float32.

    Where two rows share a prompt their gradients are added before such a layer rounds them, not after, and in float64
    that shows at 1e-8.
    """
    softmax = torch.nn.functional.softmax

    def norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)

    def wide_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None, **options: Any) -> torch.Tensor:
        return softmax(x, dim, dtype=None if dtype is None else torch.promote_types(dtype, x.dtype), **options)

    for kind in (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, Qwen3MoeRMSNorm):
        monkeypatch.setattr(kind, "forward", norm)
    monkeypatch.setattr(torch.nn.functional, "softmax", wide_softmax)
