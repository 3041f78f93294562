"""Adapters that PEFT or its users made, in the shape of ours: one rank, alpha 32, every scaling folded into B."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tinsmith.adapter_files.expert_parts import fuse_experts, place_of, rank_offsets
from tinsmith.adapter_files.peft_config import AdapterConfig
from tinsmith.adapter_files.peft_parts import Part, Parts, check_fit, lora_of, read_parts
from tinsmith.engine.adapters.layouts import ALPHA, Target
from tinsmith.engine.checkpoints.peft_layout import tensor_names
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.types.errors import UserError
from tinsmith.types.params import LoraConfig


def fit_foreign(
    where: str, config: AdapterConfig, tensors: Mapping[str, Tensor], base: BaseModel
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Fit an adapter made elsewhere onto a base model.

    Weights that it leaves alone get no tensors, and ranks below the common one are filled up with zeros on both
    sides, so that training goes on with what the adapter has: where A and B are zero, both gradients are.

    Args:
        where: what messages call it.
        config: of the adapter.
        tensors: by name, any floating dtype.
        base: that it is put on.

    Returns:
        the smallest adapter of ours that holds it, and the tensors in our layout, float32 or wider.

    Raises:
        UserError: it is no LoRA of this base, changes more than ours do, or has values that are not finite.
    """
    adapter = fuse_experts(read_parts(where, config, {name: tuple(t.shape) for name, t in tensors.items()}))
    lora = lora_of(adapter, base.info.experts_per_token)
    check_fit(adapter, {t.name: (t.experts, t.inputs, t.outputs) for t in base.targets})
    _check_copies(adapter, tensors, base)
    check_finite(where, tensors)
    fitted: dict[str, Tensor] = {}
    for target in base.targets:
        if target.name in adapter.parts:
            part = adapter.parts[target.name]
            a, b = _assemble(part, tensors) if part.pieces else (tensors[part.a], tensors[part.b])
            pair = _fit(part, a, b, target, lora.rank)
            fitted |= zip(tensor_names(target), pair, strict=True)
    return lora, fitted


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that an adapter did not diverge: what a NaN makes of a model need not look like one.

    Raises:
        UserError: a value is NaN or infinite; names the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{where}: got tensor {name} with values that are NaN or infinite, expected finite ones")


def _fit(part: Part, a: Tensor, b: Tensor, target: Target, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B of a weight with our rank and scaling, in the layout of PEFT."""
    own, stack = target.rank(rank), max(1, part.experts)
    dtype = torch.promote_types(torch.float32, a.dtype)
    # [experts, own, in] and [out, own, experts], as PEFT stacks them; a linear layer is one expert.
    wide_a = torch.zeros(stack, own, part.inputs, dtype=dtype)
    wide_a[:, : part.rank] = a.reshape(stack, part.rank, part.inputs)
    wide_b = torch.zeros(part.outputs, own, stack, dtype=dtype)
    # An adapter with our own scaling is multiplied by exactly 1.
    wide_b[:, : part.rank] = b.reshape(part.outputs, part.rank, stack).to(dtype) * (part.scale / (ALPHA / own))
    return wide_a.reshape(-1, part.inputs), wide_b.reshape(part.outputs, -1)


def _assemble(part: Part, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return A and B of fused experts from those of single ones, with their scalings, in the layout of PEFT."""
    offsets = rank_offsets(part.pieces)
    dtype = torch.promote_types(torch.float32, tensors[part.a].dtype)
    a = torch.zeros(part.experts, part.rank, part.inputs, dtype=dtype)
    b = torch.zeros(part.experts, part.outputs, part.rank, dtype=dtype)
    for piece in part.pieces:
        expert, projection = place_of(piece)
        # Block-diagonal: the gate's ranks reach only the gate's rows, the up projection's only its own.
        ranks = slice(offsets[projection], offsets[projection] + piece.rank)
        rows = slice(projection * piece.outputs, (projection + 1) * piece.outputs)
        a[expert, ranks] = tensors[piece.a].to(dtype)
        b[expert, rows, ranks] = tensors[piece.b].to(dtype) * piece.scale
    return a.reshape(-1, part.inputs), b.permute(1, 2, 0).reshape(part.outputs, -1)


def _check_copies(adapter: Parts, tensors: Mapping[str, Tensor], base: BaseModel) -> None:
    """Check that embeddings which PEFT stored beside an adapter are the base's own, and not trained ones."""
    embedding = base.decoder.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    assert isinstance(embedding, nn.Module)
    own = {"model.embed_tokens.weight": embedding.weight, "lm_head.weight": base.head.weight}
    for name, parameter in adapter.copies.items():
        wanted, found = own[parameter], tensors[name]
        # Either side may have been rounded to the other's dtype.
        narrow = min(wanted.dtype, found.dtype, key=lambda d: d.itemsize)
        if wanted.shape != found.shape or not torch.equal(found.to(narrow), wanted.detach().cpu().to(narrow)):
            raise UserError(
                f"{adapter.where}: got tensor {name}, expected only weights that the base model has: "
                "trained embeddings are no part of an adapter"
            )
