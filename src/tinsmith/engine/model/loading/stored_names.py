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

# One tensor per expert, stacked; one per expert and projection, stacked and then laid one below the other.
_STACKED = ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored tensor, and which numbers of a parameter it holds.

    Attributes:
        name: of the tensor.
        written: its name in a file that is written anew: the same, but with the `model.` that a decoder saved alone
            lacks, as `save_pretrained` would write it.
        expert: whose; None where the tensor is the whole parameter.
        rows: of the parameter's (or expert's) outputs, [start, end).
    """

    name: str
    written: str
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
        rules = _Rules(model)
        # Tensors of each parameter that a converter makes, by the pattern that they match.
        parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        # In the order in which `transformers` stacks them: experts by number, not by letters.
        for name in sorted(shapes, key=dot_natural_key):
            target, pattern = rules.apply(name)
            if target is None:
                found.unused.append(name)
            elif pattern is None:
                found.pieces[target] = [Piece(name, rules.written(name), None, (0, (shapes[name] or (1,))[0]))]
            else:
                parts[target][pattern].append(name)
        for target, groups in parts.items():
            converter = rules.converter_of(next(iter(groups)))
            columns = [groups.get(pattern, []) for pattern in converter.source_patterns]
            kinds = [(type(op), getattr(op, "dim", None)) for op in converter.operations]
            if kinds in _STACKED and len({len(column) for column in columns}) == 1:
                found.pieces[target] = _stack(columns, shapes, rules)
            else:
                names = " and ".join(kind.__name__ for kind, _ in kinds)
                first = converter.target_patterns[0]
                # One stored tensor may become several parameters: what is fused on disk and apart in the model.
                for pattern in converter.target_patterns:
                    parameter = target.replace(first, pattern)
                    found.unfollowed[parameter] = (
                        f"{next(iter(groups.values()))[0]} and its like become {parameter} by {names}"
                    )
        return found

    def file_names(self, parameter: str) -> list[str]:
        """Return the stored tensors of a parameter, laid end to end in its order; none where there are none."""
        return [piece.name for piece in self.pieces.get(parameter, [])]


class _Rules:
    """What `transformers` does to the names of a checkpoint when it loads it into a model."""

    def __init__(self, model: Any) -> None:
        self._state: dict[str, Any] = model.state_dict()
        self._prefix: str = model.base_model_prefix
        rules: list[Any] = get_model_conversion_mapping(model)
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]

    def apply(self, name: str) -> tuple[str | None, str | None]:
        """Return the parameter that a stored tensor goes to, and the pattern of the converter that takes it there."""
        renamed = rename_source_key(name, self._renamings, self._converters, self._prefix, self._state)
        if renamed[0] not in self._state and name in self._state:
            renamed = (name, None)
        return renamed if renamed[0] in self._state else (None, None)

    def written(self, name: str) -> str:
        """Return the name with the prefix of the decoder, where it lacks it."""
        renamed, _ = rename_source_key(name, self._renamings, self._converters)
        prefixed = f"{self._prefix}.{renamed}"
        return f"{self._prefix}.{name}" if renamed not in self._state and prefixed in self._state else name

    def converter_of(self, pattern: str) -> Any:
        return next(rule for rule in self._converters if pattern in rule.source_patterns)


def _stack(columns: Sequence[Sequence[str]], shapes: Mapping[str, Shape], rules: _Rules) -> list[Piece]:
    """Tell where the tensors of a fused parameter stand: one column per projection, one tensor of each per expert."""
    pieces: list[Piece] = []
    for expert, names in enumerate(zip(*columns, strict=True)):
        start = 0
        for name in names:
            end = start + shapes[name][0]
            pieces.append(Piece(name, rules.written(name), expert, (start, end)))
            start = end
    return pieces
