"""Hyperparameters from a model's size: learning rates, and how many parameters an adapter trains."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinsmith import models
from tinsmith.cookbook.model_info import count_experts, get_model_attributes, read_config
from tinsmith.cookbook.notices import warn_once
from tinsmith.types.errors import invalid
from tinsmith.types.facts.learning_rate import LORA_MULTIPLIER, family_of, learning_rate
from tinsmith.types.facts.lineup import EMBEDDED_MODEL, lookup

# The formula is for models a thousand times as large; 1.5 million parameters learn pig latin best near this rate.
_EMBEDDED_RATE = 4e-3
# Rewards are a noisier teacher than answers: at three times this rate the embedded model unlearns its sums.
_EMBEDDED_RL_RATE = 1e-3
# Decoders whose adapters are counted below as the service makes them.
_COUNTED = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe")


def get_lr(model_name: str, is_lora: bool = True) -> float:
    """Return the course's learning rate of a model: 5e-5 · M · (2000 / H)^P.

    M is 10 for LoRA and 1 for full fine-tuning; H is the hidden size; P is 0.781 for Llama and 0.0775 for Qwen. No
    rate was measured for other families: they get Qwen's exponent, which hardly looks at the size, and a warning.

    Args:
        model_name: a name of the lineup, a checkpoint folder, or a hub id.
        is_lora: False for full fine-tuning.

    Raises:
        UserError: the model's hidden size cannot be found.
    """
    attributes = get_model_attributes(model_name)
    kind = attributes.model_type.lower()
    # Said and not refused: an exponent of 0.08 hardly moves the rate, so it is a fair first try for any family.
    if "llama" not in kind and "qwen" not in kind:
        warn_once(
            f"get_lr of {kind}",
            f"get_lr: no learning rate was measured for models of type {kind!r}; Qwen's exponent is taken. "
            "Try a third and three times of it",
        )
    return learning_rate(family_of(kind), attributes.hidden_size, is_lora=is_lora)


def recommended_lr(model_name: str) -> float:
    """Return the LoRA learning rate that the recipes take where none is given.

    That is `get_lr`'s, and 4e-3 for the embedded model, which is too small for the formula (measured on its demo).

    Raises:
        UserError: the model's hidden size cannot be found.
    """
    # The formula would give less than a sixth of it.
    return _EMBEDDED_RATE if model_name == EMBEDDED_MODEL else get_lr(model_name)


def recommended_rl_lr(model_name: str) -> float:
    """Return the LoRA learning rate that reinforcement learning takes where none is given.

    That is `get_lr`'s, and 1e-3 for the embedded model (measured on sums).

    Raises:
        UserError: the model's hidden size cannot be found.
    """
    return _EMBEDDED_RL_RATE if model_name == EMBEDDED_MODEL else get_lr(model_name)


def lr_for_batch(learning_rate: float, batch_size: int, *, tuned_at: int = 128) -> float:
    """Return a learning rate for another batch size: rate · sqrt(batch_size / tuned_at).

    The square root is Adam's scaling rule (Malladi et al. 2022, arXiv:2205.10287).

    Args:
        learning_rate: that is good at `tuned_at`.
        batch_size: examples per step (in reinforcement learning: completions).
        tuned_at: the batch size that the rate is for; recipes recommend 128.

    Raises:
        UserError: a batch size below 1.
    """
    for field, value in (("batch_size", batch_size), ("tuned_at", tuned_at)):
        if value < 1:
            raise invalid(field, value, "at least 1")
    return learning_rate * math.sqrt(batch_size / tuned_at)


def get_lora_lr_over_full_finetune_lr(model_name: str, lora_alpha: int = 32) -> float:
    """Return how many times the learning rate of full fine-tuning a LoRA rate is: 10, for every model and rank.

    Args:
        model_name: not looked at; the factor is the same for all.
        lora_alpha: 32, the only one that the service knows.

    Raises:
        UserError: another alpha.
    """
    if lora_alpha != 32:
        raise invalid("lora_alpha", lora_alpha, "32")
    return LORA_MULTIPLIER


def get_lora_param_count(
    model_name: str,
    lora_rank: int = 32,
    train_mlp: bool = True,
    train_attn: bool = True,
    train_unembed: bool = True,
) -> int:
    """Return how many parameters an adapter of a model trains, as `create_lora_training_client` makes it.

    A weight of `inputs` by `outputs` has rank · (inputs + outputs). An expert has its share of the rank (rank over
    the number of experts that a token visits, 1 at least), and each expert matrices of its own.

    Args:
        model_name: a model that ships with the package, a checkpoint folder, or a hub id.
        lora_rank: of the adapter.
        train_mlp: adapt the MLP or the experts.
        train_attn: adapt the attention projections.
        train_unembed: adapt the output projection.

    Raises:
        UserError: nothing is to be trained, there is no config, or it is of an architecture that is not counted.
    """
    if lora_rank < 1:
        raise invalid("lora_rank", lora_rank, "at least 1")
    if not (train_mlp or train_attn or train_unembed):
        raise invalid("lora_config", "nothing to train", "train_attn, train_mlp or train_unembed")
    config = read_config(model_name)
    if config.get("model_type") not in _COUNTED:
        raise invalid(f"{model_name}: model_type", config.get("model_type"), f"one of {', '.join(_COUNTED)}")
    hidden = config["hidden_size"]
    layers = config["num_hidden_layers"]
    count = 0
    if train_attn:
        count += lora_rank * layers * _attention(config, hidden)
    if train_mlp:
        dense = _dense_layers(config, layers)
        # gate and up go from hidden to inner, down goes back: three matrices with the same sum of sizes.
        count += lora_rank * dense * 3 * (hidden + config["intermediate_size"])
        count += (layers - dense) * _experts(config, hidden, lora_rank)
    if train_unembed:
        count += lora_rank * (hidden + config["vocab_size"])
    return count


def _attention(config: dict[str, Any], hidden: int) -> int:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    # q, k and v read the hidden state; o writes it back. With grouped queries, k and v are narrower.
    outputs = [heads * width, *[(config.get("num_key_value_heads") or heads) * width] * 2]
    return sum(hidden + o for o in outputs) + heads * width + hidden


def _dense_layers(config: dict[str, Any], layers: int) -> int:
    if not count_experts(config):
        return layers
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step") or 1
    return sum(layer in dense or (layer + 1) % step != 0 for layer in range(layers))


def _experts(config: dict[str, Any], hidden: int, lora_rank: int) -> int:
    experts = count_experts(config)
    if not experts:
        return 0
    # Never below 1: an expert without rank would not be trained at all.
    rank = max(1, lora_rank // config["num_experts_per_tok"])
    inner = config["moe_intermediate_size"]
    return rank * experts * ((hidden + 2 * inner) + (inner + hidden))


def get_full_finetune_param_count(model_name: str) -> float:
    """Return how many parameters a model has.

    Args:
        model_name: a checkpoint folder (its safetensors are counted) or a name of the lineup (in round numbers).

    Raises:
        UserError: it is neither, or holds no safetensors.
    """
    folder = models.path(model_name) if model_name in models.NAMES else Path(model_name).expanduser()
    if folder.is_dir():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise invalid("model_name", model_name, "a folder with safetensors")
        return float(sum(size for file in files for size in _sizes(file)))
    facts = lookup(model_name)
    if facts is None:
        raise invalid("model_name", model_name, "a checkpoint's folder or a model of the lineup")
    return facts.parameters_b * 1e9


def _sizes(file: Path) -> Iterator[int]:
    """Yield the number of elements of each tensor; a safetensors file opens with a JSON header and its length."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            yield math.prod(entry["shape"])


def get_full_finetune_lr_multiplier(model_name: str) -> float:
    """Return 1 / sqrt(number of parameters): rates of full fine-tuning are thought to go with it from model to model.

    Raises:
        UserError: see `get_full_finetune_param_count`.
    """
    return 1.0 / math.sqrt(get_full_finetune_param_count(model_name))


def get_lora_lr_multiplier(model_name: str) -> float:
    """Return what a LoRA rate goes with from model to model: rate_B = rate_A · multiplier(B) / multiplier(A).

    Raises:
        UserError: see `get_full_finetune_param_count`.
    """
    return get_full_finetune_lr_multiplier(model_name) * get_lora_lr_over_full_finetune_lr(model_name)
