"""Which tensors of a checkpoint on disk an adapter's parts change, and how.

`transformers` fuses the experts of a layer when it loads a mixture; on disk most mixtures have a tensor per expert and
projection (`experts.3.gate_proj.weight`), some the fused ones (`experts.gate_up_proj`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from tinsmith.adapter_files.peft_parts import SPLITS, Part, Parts
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


def find_updates(adapter: Parts, shapes: Mapping[str, Shape]) -> dict[str, Update]:
    """Return the change of every tensor that an adapter changes.

    Args:
        adapter: all of it.
        shapes: of the base's tensors, by their names on disk.

    Raises:
        UserError: the base lacks a weight, or has it in another shape.
    """
    updates: dict[str, Update] = {}
    for part in adapter.parts.values():
        for name, shape, update in _changes(part, shapes):
            if name not in shapes:
                raise UserError(f"base: got no tensor {name}, expected the one that {part.a} adapts")
            if shapes[name] != shape:
                raise invalid(f"base: {name}", shapes[name], f"shape {shape}, which {part.a} and {part.b} adapt")
            updates[name] = update
    return updates


def disk_names(weight: str, shape: Shape, names: Container[str]) -> list[str]:
    """Return the tensors on disk that, laid end to end, hold the numbers of a parameter of the loaded model in order.

    Args:
        weight: path of the parameter, e.g. `model.layers.0.mlp.experts.gate_up_proj`.
        shape: of the parameter.
        names: of the tensors on disk.
    """
    module, _, last = weight.rpartition(".")
    if weight in names or last not in SPLITS:
        return [weight]
    return [f"{module}.{expert}.{projection}.weight" for expert in range(shape[0]) for projection in SPLITS[last]]


def _changes(part: Part, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Shape, Update]]:
    whole = (0, part.outputs)
    if not part.experts:
        yield f"{part.weight}.weight", (part.outputs, part.inputs), Update(part, None, whole)
    elif part.weight in shapes:
        yield part.weight, (part.experts, part.outputs, part.inputs), Update(part, None, whole)
    else:
        module, _, fused = part.weight.rpartition(".")
        projections = SPLITS[fused]
        height = part.outputs // len(projections)
        for i, projection in enumerate(projections):
            # More experts on disk than the adapter has would be left unmerged without a word.
            further = f"{module}.{part.experts}.{projection}.weight"
            if further in shapes:
                raise UserError(f"base: got tensor {further}, expected {part.experts} experts as {part.a} adapts")
            for expert in range(part.experts):
                rows = (i * height, (i + 1) * height)
                yield f"{module}.{expert}.{projection}.weight", (height, part.inputs), Update(part, expert, rows)
