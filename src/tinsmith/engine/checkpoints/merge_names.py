"""Which tensors of a checkpoint on disk an adapter's parts change, and how.

`transformers` fuses the experts of a layer when it loads a mixture; on disk most mixtures have a tensor per expert and
projection (`experts.3.gate_proj.weight`), some the fused ones (`experts.gate_up_proj`). `StoredNames` tells which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tinsmith.adapter_files.peft_parts import Part, Parts
from tinsmith.engine.model.loading.stored_names import Piece, StoredNames
from tinsmith.types.errors import UserError, invalid

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """The change of one tensor.

    Attributes:
        part: of the adapter.
        expert: which one's; None for all that the part has.
        rows: of the part's outputs, [start, end).
    """

    part: Part
    expert: int | None
    rows: tuple[int, int]

    @property
    def shape(self) -> Shape:
        """Shape of the tensor."""
        matrix = (self.rows[1] - self.rows[0], self.part.inputs)
        return (self.part.experts, *matrix) if self.part.experts and self.expert is None else matrix

    def add_to(self, weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return weight + scale·B·A.

        Args:
            weight: [out, in], or [experts, out, in] where the part is of experts and `expert` is None.
            tensors: of the adapter, by name.
        """
        part, (start, end) = self.part, self.rows
        a, b = tensors[part.a], tensors[part.b][start:end]
        if part.experts:
            a = a.reshape(part.experts, part.rank, part.inputs)
            # PEFT lets the expert's index run fastest in B: [out, rank * experts].
            b = b.reshape(end - start, part.rank, part.experts).permute(2, 0, 1)
            if self.expert is not None:
                a, b = a[self.expert], b[self.expert]
        return weight + (b.to(weight.dtype) * part.scale) @ a.to(weight.dtype)


def find_updates(adapter: Parts, names: StoredNames, shapes: Mapping[str, Shape]) -> dict[str, Update]:
    """Return the change of every stored tensor that an adapter changes.

    Args:
        adapter: all of it.
        names: which stored tensors the base's parameters are made of.
        shapes: of the stored tensors.

    Raises:
        UserError: the base lacks a weight, has it in another shape, or stores it in a way that is not followed.
    """
    updates: dict[str, Update] = {}
    single = {piece.written: piece.name for pieces in names.pieces.values() for piece in pieces}
    for part in adapter.parts.values():
        parameter = part.weight if part.experts else f"{part.weight}.weight"
        if parameter in names.unfollowed:
            reason = names.unfollowed[parameter]
            raise UserError(f"base: got files in which {reason}, expected such as adapters can be merged into")
        pieces, whole = names.pieces.get(parameter), (0, part.outputs)
        if pieces is None and parameter in single:
            # Of one expert alone, as PEFT made adapters before `transformers` fused the experts of a layer.
            updates[single[parameter]] = _sized(Update(part, None, whole), single[parameter], shapes)
            continue
        if pieces is None:
            raise UserError(f"base: got no tensor {parameter}, expected the one that {part.a} adapts")
        _check_experts(part, pieces)
        for piece in pieces:
            update = Update(part, piece.expert, piece.rows if piece.expert is not None else whole)
            updates[piece.name] = _sized(update, piece.name, shapes)
    return updates


def _sized(update: Update, name: str, shapes: Mapping[str, Shape]) -> Update:
    if shapes[name] != update.shape:
        expected = f"shape {update.shape}, which {update.part.a} and {update.part.b} adapt"
        raise invalid(f"base: {name}", shapes[name], expected)
    return update


def _check_experts(part: Part, pieces: Sequence[Piece]) -> None:
    # More experts on disk than the adapter has would be left unmerged without a word.
    for piece in pieces:
        if piece.expert is not None and piece.expert >= part.experts:
            raise UserError(f"base: got tensor {piece.name}, expected {part.experts} experts as {part.a} adapts")
    found = {piece.expert for piece in pieces if piece.expert is not None}
    if found and len(found) < part.experts:
        raise UserError(
            f"base: got {len(found)} experts ({pieces[0].name}), expected {part.experts} as {part.a} adapts"
        )
