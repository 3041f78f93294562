"""Random checkpoints with the shapes of models that people fine-tune.

python -m benchmarks.gpu.shapes Qwen3-0.6B FOLDER --device cuda
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model without its weights.

    Attributes:
        name: of the model whose shape it is.
        family: `model_type` of its config.
        config: fields of its config.
        batch: sequences of a training step in the benchmark.
        length: tokens of each.
        gigabytes: of the checkpoint in bfloat16.
    """

    name: str
    family: str
    config: dict[str, Any] = field(repr=False)
    batch: int
    length: int
    gigabytes: float

    @property
    def short(self) -> str:
        """The name without what is said behind a comma, for folders and command lines."""
        return self.name.partition(",")[0]


_QWEN3 = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960}

REAL = [
    Shape(
        "Qwen3-0.6B",
        "qwen3",
        _QWEN3
        | {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072}
        | {"tie_word_embeddings": True},
        batch=16,
        length=1024,
        gigabytes=1.2,
    ),
    Shape(
        "Qwen3-8B",
        "qwen3",
        _QWEN3 | {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288},
        batch=8,
        length=1024,
        gigabytes=16.4,
    ),
    # A third of its layers: the whole would not fit on the disk of the machines that this is meant for.
    Shape(
        "Qwen3-30B-A3B, 16 of 48 layers",
        "qwen3_moe",
        _QWEN3
        | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 4}
        | {"intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
        | {"decoder_sparse_step": 1, "norm_topk_prob": True},
        batch=8,
        length=1024,
        gigabytes=21.6,
    ),
]

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
_TINY |= {"intermediate_size": 64, "vocab_size": 256, "max_position_embeddings": 512}
TOY = [
    Shape("toy", "qwen3", _TINY, batch=2, length=16, gigabytes=0.001),
    Shape(
        "toy-moe",
        "qwen3_moe",
        _TINY | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
        batch=2,
        length=16,
        gigabytes=0.001,
    ),
]


def write(shape: Shape, folder: Path, device: str) -> int:
    """Write a random checkpoint in bfloat16; return its number of parameters.

    Args:
        shape: of the model.
        folder: made when absent.
        device: where the weights are drawn; a CPU takes minutes for billions of them.
    """
    # Here, because who only wants to know the shapes may have neither.
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[shape.family](**shape.config), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[s.short for s in REAL + TOY])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    shape = next(s for s in REAL + TOY if s.short == args.name)
    print(f"{write(shape, args.folder, args.device):,} parameters")


if __name__ == "__main__":
    main()
