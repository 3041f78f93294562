"""The same mathematics through plain transformers and PEFT, one padded batch per adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM


def load_reference(base: Path, adapter: Path, dtype: torch.dtype, trainable: bool = True) -> PeftModel:
    """Load a saved adapter onto its base with PEFT.

    Args:
        base: folder of the base model.
        adapter: PEFT folder.
        dtype: of everything.
        trainable: whether the adapter's weights require gradients.
    """
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation="sdpa", experts_implementation="eager"
    )
    return PeftModel.from_pretrained(model, adapter, is_trainable=trainable, autocast_adapter_dtype=False).eval()


def reference_logprobs(model: PeftModel, tokens: list[list[int]]) -> list[Tensor]:
    """Return log-softmax over the vocabulary at every position of every sequence, [N, V] each, in one padded batch."""
    width = max(map(len, tokens))
    ids = torch.tensor([t + [0] * (width - len(t)) for t in tokens])
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in tokens])
    logits = model(input_ids=ids, attention_mask=mask).logits
    return [row[: len(t)].log_softmax(-1) for row, t in zip(logits, tokens, strict=True)]


def reference_gradients(model: PeftModel) -> dict[str, Tensor]:
    """Return the adapter's gradients by their name in `adapter_model.safetensors`."""
    return {name.replace(".default.", "."): p.grad for name, p in model.named_parameters() if p.grad is not None}
