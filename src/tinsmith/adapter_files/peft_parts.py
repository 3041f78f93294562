"""What an adapter's tensors are, told by names and shapes alone: which weight each pair belongs to. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tinsmith.adapter_files.peft_config import AdapterConfig
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.params import LoraConfig

PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_EXPERTS = "experts"
_FIRST, _SECOND = "gate_up_proj", "down_proj"
# The projections that a fused weight of experts consists of, one below the other.
SPLITS = {_FIRST: ("gate_proj", "up_proj"), _SECOND: ("down_proj",)}
_KINDS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "gate_up_proj"), "mlp"),
    "lm_head": "unembed",
}
# PEFT writes the base's own embeddings beside an adapter on the output projection.
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.base_layer.weight")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The adapter of one weight: W + scale·B·A.

    Attributes:
        weight: path of the linear layer in the model; for experts, of the fused parameter.
        a, b: names of the tensors: A [rank, inputs] and B [outputs, rank]; of experts, stacked as `peft_layout` says.
        inputs, outputs: widths.
        rank: of one expert where there are experts.
        experts: how many; 0 for a linear layer.
        scale: factor on B·A.
        pieces: where this stands for LoRAs of single experts: those; see `expert_parts`.
    """

    weight: str
    a: str
    b: str
    inputs: int
    outputs: int
    rank: int
    experts: int
    scale: float
    pieces: tuple[Part, ...] = ()

    @property
    def kind(self) -> str | None:
        """The switch of `LoraConfig` that turns this weight on; None where none does."""
        return _KINDS.get(self.weight.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Parts:
    """All of an adapter.

    Attributes:
        where: its name in messages.
        parts: by the path of their weight.
        copies: tensors that repeat embeddings of the base, by their name, each with the name of the base's own:
            `model.embed_tokens.weight` or `lm_head.weight`.
    """

    where: str
    parts: dict[str, Part]
    copies: dict[str, str]


def read_parts(where: str, config: AdapterConfig, shapes: Mapping[str, Shape]) -> Parts:
    """Sort an adapter's tensors.

    Args:
        where: what messages call the adapter.
        config: of the adapter.
        shapes: of every tensor, by its name in `adapter_model.safetensors`.

    Raises:
        UserError: a tensor is no part of a LoRA, misses its partner, or has a shape that the config does not say.
    """
    parts: dict[str, Part] = {}
    copies: dict[str, str] = {}
    for name in sorted(shapes):
        path = name.removeprefix(PREFIX)
        # A tensor B is taken together with its A; here it only has to have one.
        if name.endswith(_B) and name.removesuffix(_B) + _A not in shapes:
            raise UserError(f"{where}: got only one of {name.removesuffix(_B)}{_A} and {name}, expected both")
        if path in _EMBEDDINGS:
            copies[name] = path.replace(".base_layer", "")
        elif name.endswith(_A):
            part = _part(where, config, shapes, name, path.removesuffix(_A))
            if part.weight in parts:
                raise UserError(f"{where}: got {name} and {parts[part.weight].a}, expected one LoRA of {part.weight}")
            parts[part.weight] = part
        elif not name.endswith(_B):
            raise UserError(f"{where}: got tensor {name}, expected only lora_A and lora_B of linear layers and experts")
    if not parts:
        raise UserError(f"{where}: got no lora_A and lora_B, expected those of one weight at least")
    return Parts(where, parts, copies)


def _part(where: str, config: AdapterConfig, shapes: Mapping[str, Shape], name_a: str, path: str) -> Part:
    name_b = name_a.removesuffix(_A) + _B
    if name_b not in shapes:
        raise UserError(f"{where}: got only one of {name_a} and {name_b}, expected both")
    module = path.removesuffix(".base_layer")
    of_experts = module.rpartition(".")[2] == _EXPERTS
    if path != module and not of_experts:
        raise UserError(f"{where}: got tensor {name_a}, expected only lora_A and lora_B of linear layers and experts")
    weight = _expert_weight(where, config, name_a, module, path != module) if of_experts else module
    # A linear layer may be named as a module or by its weight; patterns match the name that PEFT knows it by.
    as_parameter = not of_experts and config.adapts_parameter(f"{weight}.weight")
    key = f"{weight}.weight" if as_parameter else weight
    rank = config.rank_of(key)
    a, b = shapes[name_a], shapes[name_b]
    if len(a) != 2 or a[0] % rank or (a[0] != rank and not of_experts):
        inputs = a[-1] if a else 1
        raise invalid(f"{where}: {name_a}", a, f"shape {(rank, inputs)} (rank {rank})")
    if len(b) != 2 or b[1] != a[0]:
        outputs = b[0] if b else 1
        raise invalid(f"{where}: {name_b}", b, f"shape {(outputs, a[0])} (rank {rank})")
    # A of all experts is stacked [experts * rank, in], so its height tells their number.
    experts = a[0] // rank if of_experts else 0
    return Part(weight, name_a, name_b, a[1], b[0], rank, experts, config.scale_of(key))


def _expert_weight(where: str, config: AdapterConfig, name: str, module: str, inner: bool) -> str:
    """Tell which of the two fused weights a tensor of experts belongs to: PEFT wraps the first one first."""
    adapted = [w for w in (_FIRST, _SECOND) if config.adapts_parameter(f"{module}.{w}")]
    if len(adapted) == 2 or (inner and not adapted):
        return f"{module}.{_FIRST if inner else _SECOND}"
    if len(adapted) == 1 and not inner:
        return f"{module}.{adapted[0]}"
    raise UserError(
        f"{where}: got tensor {name} and target_parameters {sorted(config.parameters)}, "
        f"expected them to name {module}.{_FIRST}, {module}.{_SECOND} or both"
    )


def lora_of(adapter: Parts, experts_per_token: int) -> LoraConfig:
    """Return the smallest adapter of ours that holds one made elsewhere.

    Args:
        adapter: all of it.
        experts_per_token: of the base, because an expert of ours has its share of the rank; 1 without experts.

    Raises:
        UserError: it acts on a weight that adapters of ours leave alone.
    """
    for part in adapter.parts.values():
        if part.kind is None:
            known = "q, k, v, o, gate, up and down projections, fused experts (gate_up_proj, down_proj) and lm_head"
            raise UserError(f"{adapter.where}: got a LoRA of {part.weight}, expected only {known}")
    kinds = {part.kind for part in adapter.parts.values()}
    return LoraConfig(
        rank=_rank(adapter.parts.values(), experts_per_token),
        train_attn="attn" in kinds,
        train_mlp="mlp" in kinds,
        train_unembed="unembed" in kinds,
    )


def _rank(parts: Iterable[Part], experts_per_token: int) -> int:
    """Return the least rank whose linear layers and experts have room; an expert gets max(1, rank // per token)."""
    # An expert has a rank of 1 at least, however small the adapter's share for it is.
    needed = [p.rank * experts_per_token if p.experts and p.rank > 1 else p.rank for p in parts]
    return max(needed)


def check_fit(adapter: Parts, wanted: Mapping[str, tuple[int, int, int]]) -> None:
    """Check that an adapter fits a base model.

    Args:
        adapter: all of it.
        wanted: (experts, inputs, outputs) of every weight of the base that can be adapted, by its path.

    Raises:
        UserError: a weight is not in the base, or has another shape there.
    """
    for part in adapter.parts.values():
        shape = wanted.get(part.weight)
        if shape is None:
            raise UserError(
                f"{adapter.where}: got tensor {part.a}, expected only weights of this base model's adapters"
            )
        found = (part.experts, part.inputs, part.outputs)
        if found != shape:
            raise invalid(f"{adapter.where}: {part.weight}", _words(found), f"{_words(shape)} as in the base model")


def _words(shape: tuple[int, int, int]) -> str:
    experts, inputs, outputs = shape
    return f"{inputs} inputs and {outputs} outputs" + (f" of {experts} experts" if experts else "")
