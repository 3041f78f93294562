"""How a checkpoint's files name and cut the weights of the loaded model: `transformers`' own renaming, followed.

Most files name a weight as the module does. Others do not: a decoder saved alone lacks the `model.` before its names,
Mixtral's experts are `block_sparse_moe.experts.3.w1`, and most mixtures store one tensor per expert and projection of
what the model holds as one. `transformers` has rules for each architecture (`conversion_mapping`); they are applied
here to names alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored tensor, and which numbers of a parameter it holds.

    Attributes:
        name: of the tensor.
        expert: whose; None where the tensor is the whole parameter.
        rows: of the parameter's (or expert's) outputs, [start, end).
    """

    name: str
    expert: int | None
    rows: tuple[int, int]


@dataclass(frozen=True)
class StoredNames:
    """Stored tensors by the parameter that they become.

    Attributes:
        pieces: of each parameter, by its path in the model; laid end to end they have its numbers in their order.
        unfollowed: parameters that `transformers` computes from what is stored in a way that is not followed here,
            each with the reason.
        unused: stored tensors that no parameter takes.
    """

    pieces: dict[str, list[Piece]] = field(default_factory=dict[str, list[Piece]])
    unfollowed: dict[str, str] = field(default_factory=dict[str, str])
    unused: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, model: Any, shapes: Mapping[str, Shape]) -> StoredNames:
        """Follow the renaming.

        Args:
            model: of `transformers`, with or without memory for its weights.
            shapes: of the stored tensors, by their names.
        """
        found = cls()
        state: dict[str, Any] = model.state_dict()
        rules: list[Any] = get_model_conversion_mapping(model)
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        # Tensors of each parameter that a converter makes, by the pattern that they match.
        parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        # In the order in which `transformers` stacks them: experts by number, not by letters.
        for name in sorted(shapes, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
            if target not in state and name in state:
                target, pattern = name, None
            if target not in state:
                found.unused.append(name)
            elif pattern is None:
                found.pieces[target] = [Piece(name, None, (0, (shapes[name] or (1,))[0]))]
            else:
                parts[target][pattern].append(name)
        for target, groups in parts.items():
            converter: Any = by_pattern[next(iter(groups))]
            found._convert(
                target, [groups.get(pattern, []) for pattern in converter.source_patterns], converter, shapes
            )
        return found

    def _convert(
        self, target: str, groups: Sequence[Sequence[str]], converter: Any, shapes: Mapping[str, Shape]
    ) -> None:
        """Tell where the tensors of a fused parameter stand, one group per projection, one tensor per expert."""
        kinds = [(type(op), op.dim) if hasattr(op, "dim") else (type(op), None) for op in converter.operations]
        stacked = kinds in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])
        if not stacked or len({len(group) for group in groups}) != 1:
            named = " and ".join(kind.__name__ for kind, _ in kinds)
            names = [name for group in groups for name in group]
            self.unfollowed[target] = f"{names[0]} and its like become {target} by {named}"
            return
        pieces: list[Piece] = []
        for expert, names in enumerate(zip(*groups, strict=True)):
            start = 0
            for name in names:
                end = start + shapes[name][0]
                pieces.append(Piece(name, expert, (start, end)))
                start = end
        self.pieces[target] = pieces

    def file_names(self, parameter: str) -> list[str]:
        """Return the stored tensors of a parameter, laid end to end in its order; none where there are none."""
        return [piece.name for piece in self.pieces.get(parameter, [])]
