"""Parameters of adapters, optimizers and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class LoraConfig(BaseModel):
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685): output = W·x + (32 / rank)·B·A·x.

    Attributes:
        rank: 1 to 256.
        seed: seed of the initial A; None lets the service choose one.
        train_unembed: adapt the output projection.
        train_mlp: adapt the MLP or the experts.
        train_attn: adapt the attention projections.
    """

    # A field that is misspelt would otherwise be a default that nobody notices.
    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = 32
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class AdamParams(BaseModel):
    """One AdamW step (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, decoupled weight decay).

    Attributes:
        learning_rate: step size.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the square root of the second moment.
        weight_decay: decoupled decay, multiplied by the learning rate.
        grad_clip_norm: largest global gradient norm; 0 turns clipping off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The protocol's defaults. Mind eps and beta2: torch's own are 1e-8 and 0.999.
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class AdamOptimizerConfig(BaseModel):
    """The optimizer that a model is created with; AdamW is the only family served."""

    model_config = ConfigDict(frozen=True)

    type: Literal["adamw"] = "adamw"


class SamplingParams(BaseModel):
    """How to sample.

    Attributes:
        max_tokens: most tokens to generate; None means up to the context length.
        seed: any 64-bit whole number; None lets the service choose one.
        stop: None stops at the model's end-of-turn tokens; an empty list never stops; else strings or token ids.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; -1 keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches this, in (0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str | int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    def wire(self) -> dict[str, Any]:
        """Return the JSON form: fields that are None are left out."""
        return self.model_dump(exclude_none=True)
