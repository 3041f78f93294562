"""What the service tells about a base model that it has loaded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class BaseModelInfo(BaseModel):
    """A loaded base model, as its own config describes it.

    Attributes:
        name: the name that clients use.
        architecture: the `transformers` class, e.g. `Qwen3ForCausalLM`.
        model_type: the `transformers` model type, e.g. `qwen3`.
        vocab_size: rows of the output projection; ids run from 0 to vocab_size - 1.
        hidden_size: width of the residual stream.
        num_layers: decoder layers.
        context_length: longest sequence in tokens, prompt and completion together.
        is_moe: whether it has experts.
        experts_per_token: experts that a token visits; 1 without experts.
        tied_embeddings: whether the output projection is the input embedding.
        eos_token_ids: ids that end a turn by default.
        parameters: number of parameters of the base.
        lora_parameters: parameters of an adapter per unit of its rank, by what it acts on (`attn`, `mlp`, `unembed`).
        has_tokenizer: whether one came with the model; without it nobody can look for strings in what it generates.
        weights_digest: tells it from one with other weights; None where that is not known.
        device, dtype: where and in what it computes, as torch calls it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    context_length: int
    is_moe: bool = False
    experts_per_token: int = 1
    tied_embeddings: bool = False
    eos_token_ids: list[int] = []
    parameters: int = 0
    lora_parameters: dict[str, int] = {}
    has_tokenizer: bool = True
    weights_digest: str | None = None
    device: str | None = None
    dtype: str | None = None
