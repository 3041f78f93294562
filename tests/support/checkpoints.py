"""Tiny random checkpoints, written by plain `transformers`, one folder per family and session.

The weights are drawn wide enough that logits differ well between tokens, norms and biases included, so that a
forgotten bias or norm shows.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe")
DENSE_FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Shape:
    """The known shape of every tiny checkpoint."""

    vocab_size: int = 320
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate_size: int = 96
    context_length: int = 1024
    experts: int = 4
    experts_per_token: int = 2
    expert_intermediate_size: int = 32


SHAPE = Shape()

_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
)
_QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA_TEMPLATE = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer: ids below 256 are the bytes (in GPT-2 order), then the family's control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    llama = family == "llama"
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (_LLAMA_SPECIAL if llama else _QWEN_SPECIAL)])
    if not llama:
        tokenizer.add_tokens([AddedToken(t, special=False) for t in _QWEN_PLAIN])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>" if llama else None,
        eos_token="<|eot_id|>" if llama else "<|im_end|>",
        pad_token="<|finetune_right_pad_id|>" if llama else "<|endoftext|>",
        chat_template=_LLAMA_TEMPLATE if llama else _QWEN_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_checkpoint(
    folder: Path,
    family: str,
    *,
    tied: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: object,
) -> Path:
    """Write a random checkpoint with its tokenizer into `folder` and return the folder.

    Args:
        folder: made when absent.
        family: one of `FAMILIES` (or any decoder that `transformers` knows).
        tied: whether the output projection is the input embedding.
        seed: of the weights.
        dtype: of the stored weights.
        config: further fields of the `transformers` config.
    """
    tokenizer = make_tokenizer(family)
    fields: dict[str, object] = {
        "vocab_size": SHAPE.vocab_size,
        "hidden_size": SHAPE.hidden_size,
        "num_hidden_layers": SHAPE.layers,
        "num_attention_heads": SHAPE.heads,
        "num_key_value_heads": SHAPE.kv_heads,
        "head_dim": SHAPE.head_dim,
        "intermediate_size": SHAPE.intermediate_size,
        "max_position_embeddings": SHAPE.context_length,
        "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "qwen3_moe":
        fields |= {
            "num_experts": SHAPE.experts,
            "num_experts_per_tok": SHAPE.experts_per_token,
            "moe_intermediate_size": SHAPE.expert_intermediate_size,
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
        }
    if family == "mixtral":
        fields |= {"num_local_experts": SHAPE.experts, "num_experts_per_tok": SHAPE.experts_per_token}
    fields |= config
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(noise * 0.1 + (0.0 if name.endswith("bias") else 1.0))
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def _session_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tinsmith-checkpoints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def checkpoint(family: str, tied: bool = False, seed: int = 0) -> Path:
    """Return the folder of a tiny checkpoint, made once per test session."""
    name = f"{family}-{'tied' if tied else 'untied'}-{seed}"
    return make_checkpoint(_session_folder() / name, family, tied=tied, seed=seed)
