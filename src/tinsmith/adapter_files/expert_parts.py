"""Adapters of single experts, as PEFT made them before `transformers` fused the experts of a layer. No torch.

Each expert's gate, up and down projection has a LoRA of its own. Fused, gate and up become one: A_gate above A_up, and
B_gate and B_up on the diagonal, so that their rank is the sum of both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tinsmith.adapter_files.peft_parts import SPLITS, Part, Parts
from tinsmith.types.errors import UserError

# Up to nine digits: an index that int() reads in no time, whatever the file claims.
_SINGLE = re.compile(r"(.*\.experts)\.(\d{1,9})\.(gate_proj|up_proj|down_proj)")
_FUSED = {projection: fused for fused, projections in SPLITS.items() for projection in projections}


def fuse_experts(adapter: Parts) -> Parts:
    """Put the parts of single experts together, so that each fused weight of a layer has one part.

    Raises:
        UserError: experts differ in shape, or a weight has both kinds of adapters.
    """
    parts: dict[str, Part] = {}
    singles: dict[str, list[Part]] = defaultdict(list)
    for part in adapter.parts.values():
        found = _SINGLE.fullmatch(part.weight)
        if found is None:
            parts[part.weight] = part
        else:
            singles[f"{found[1]}.{_FUSED[found[3]]}"].append(part)
    for weight, pieces in singles.items():
        if weight in parts:
            raise UserError(f"{adapter.where}: got {parts[weight].a} and {pieces[0].a}, expected one LoRA of {weight}")
        parts[weight] = _fuse(adapter.where, weight, pieces)
    return replace(adapter, parts=parts)


def place_of(piece: Part) -> tuple[int, int]:
    """Return the expert of a piece, and which of the fused projections it is."""
    found = _SINGLE.fullmatch(piece.weight)
    assert found is not None
    return int(found[2]), SPLITS[_FUSED[found[3]]].index(found[3])


def rank_offsets(pieces: Sequence[Part]) -> list[int]:
    """Return where the ranks of each projection begin in the fused part, and at the end the rank of all."""
    # The largest of all experts: fused, they share one rank, and smaller ones are padded with zeros.
    ranks: dict[int, int] = defaultdict(int)
    for piece in pieces:
        _, projection = place_of(piece)
        ranks[projection] = max(ranks[projection], piece.rank)
    offsets = [0]
    for projection in range(max(ranks) + 1):
        offsets.append(offsets[-1] + ranks[projection])
    return offsets


def _fuse(where: str, weight: str, pieces: Sequence[Part]) -> Part:
    first = pieces[0]
    for piece in pieces:
        if (piece.inputs, piece.outputs) != (first.inputs, first.outputs):
            raise UserError(f"{where}: got {piece.a} and {first.a} of other widths, expected experts that are alike")
    outputs = first.outputs * len(SPLITS[weight.rpartition(".")[2]])
    experts = 1 + max(expert for expert, _ in map(place_of, pieces))
    rank = rank_offsets(pieces)[-1]
    # Scale 1: the pieces may differ in theirs, so each is folded into its B when the tensors are put together.
    return Part(weight, first.a, first.b, first.inputs, outputs, rank, experts, 1.0, tuple(pieces))
