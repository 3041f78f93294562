"""Our adapters in PEFT's own layout: tensor names, shapes and `adapter_config.json`.

Linear layers have lora_A [rank, in] and lora_B [out, rank]. Fused expert weights are PEFT `target_parameters`: A of all
experts stacked as [experts * rank, in], B with the expert index running fastest, [out, rank * experts]. PEFT wraps a
module once per parameter, so the names of the first parameter carry a `base_layer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from tinsmith.adapter_files.peft_parts import PREFIX
from tinsmith.engine.adapters.layouts import ALPHA, Layout, Place, Target
from tinsmith.types.errors import UserError, invalid


def tensor_names(target: Target) -> tuple[str, str]:
    """Return the names of A and B of one target in `adapter_model.safetensors`."""
    path = target.name
    if target.experts:
        module, _, weight = path.rpartition(".")
        # `down_proj` is the parameter that PEFT wraps last, so it has the outer name.
        path = module if weight == "down_proj" else f"{module}.base_layer"
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def export_tensors(flat: Tensor, layout: Layout, rank: int) -> dict[str, Tensor]:
    """Turn a flat vector [P] into PEFT's tensors on the CPU, cut to the adapter's own rank.

    Moments have the same layout as weights, so this serves for them, too.
    """
    flat = flat.detach().cpu()
    tensors: dict[str, Tensor] = {}
    for place in layout.places.values():
        a, b = _own_rank(place, flat, rank)
        if place.target.experts:
            a = a.reshape(-1, place.target.inputs)
            b = b.permute(1, 2, 0).reshape(place.target.outputs, -1)
        for name, tensor in zip(tensor_names(place.target), (a, b), strict=True):
            # A copy of its own: safetensors refuses tensors that share memory.
            tensors[name] = tensor.contiguous().clone()
    return tensors


def import_tensors(tensors: dict[str, Tensor], flat: Tensor, layout: Layout, rank: int) -> None:
    """Write PEFT's tensors into a flat vector [P]; targets without tensors, and padding, become zero.

    Args:
        tensors: by name; shapes have been checked, see `check_tensors`.
        flat: to be written.
        layout: of `flat`.
        rank: the adapter's own.
    """
    # Padding between the own rank and the bucket's has to be zero, whatever the slot's last owner left there.
    flat.zero_()
    for place in layout.places.values():
        name_a, name_b = tensor_names(place.target)
        if name_a not in tensors:
            continue
        a, b = _own_rank(place, flat, rank)
        saved_a, saved_b = tensors[name_a], tensors[name_b]
        if place.target.experts:
            saved_a = saved_a.reshape(a.shape)
            saved_b = saved_b.reshape(place.target.outputs, -1, place.target.experts).permute(2, 0, 1)
        a.copy_(saved_a)
        b.copy_(saved_b)


def _own_rank(place: Place, flat: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    own = place.target.rank(rank)
    return place.a(flat)[..., :own, :], place.b(flat)[..., :own]


def check_tensors(where: str, tensors: dict[str, Tensor], targets: Iterable[Target], rank: int) -> None:
    """Check names and shapes of an adapter's tensors against a base model.

    Raises:
        UserError: a tensor belongs to no weight of the base, is missing its partner, or has another shape.
    """
    wanted: dict[str, tuple[int, int]] = {}
    for target in targets:
        stacked = target.rank(rank) * max(1, target.experts)
        name_a, name_b = tensor_names(target)
        wanted[name_a], wanted[name_b] = (stacked, target.inputs), (target.outputs, stacked)
        if (name_a in tensors) != (name_b in tensors):
            raise UserError(f"{where}: got only one of {name_a} and {name_b}, expected both")
    for name, tensor in sorted(tensors.items()):
        if name not in wanted:
            raise UserError(f"{where}: got tensor {name}, expected only weights of this base model's adapters")
        if tuple(tensor.shape) != wanted[name]:
            raise invalid(f"{where}: {name}", tuple(tensor.shape), f"shape {wanted[name]} (rank {rank})")


def adapter_config(base_model: str, targets: Iterable[Target], rank: int, mixture: bool) -> dict[str, Any]:
    """Make the `adapter_config.json` of an adapter.

    Args:
        base_model: name of the base.
        targets: that the adapter acts on.
        rank: the adapter's own.
        mixture: whether the base's architecture has experts, even if no layer of this one does.
    """
    targets = tuple(targets)
    experts = {".".join(t.name.split(".")[-3:]): t.rank(rank) for t in targets if t.experts}
    modules = [t for t in targets if not t.experts]
    # PEFT takes gate_proj and its like, wherever they stand in a Qwen mixture, for names of expert weights: dense
    # layers of a mixture are therefore named by their parameters.
    dense = [t for t in modules if mixture and t.kind == "mlp"]
    parameters = [*experts, *{".".join([*t.name.split(".")[-2:], "weight"]) for t in dense}]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": int(ALPHA),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": sorted({t.name.rpartition(".")[2] for t in modules if t not in dense}),
        "target_parameters": sorted(parameters) or None,
        "rank_pattern": experts,
        "alpha_pattern": {},
    }
