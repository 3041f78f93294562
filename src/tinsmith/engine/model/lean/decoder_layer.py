"""One decoder layer of the Llama family, as the sampler computes it: its norms, its products and its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tinsmith.engine.model.lean.fused_linear import FusedLinear
from tinsmith.engine.model.lean.lean_norms import HeadNorms, Norm

# What `transformers` may call x·sigmoid(x).
_SILU = {"SiLU", "SiLUActivation"}


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer; `gate_up` and `down` are None where the MLP is a module of its own kind (experts)."""

    norm: Norm
    qkv: FusedLinear
    head_norms: HeadNorms | None
    output: FusedLinear
    mlp_norm: Norm
    mlp: Any
    gate_up: FusedLinear | None
    down: FusedLinear | None
    heads: int
    key_heads: int
    scaling: float

    @property
    def has_swiglu(self) -> bool:
        """Whether the MLP is down·(silu(gate)·up)."""
        return self.gate_up is not None and type(self.mlp.act_fn).__name__ in _SILU


def read_layer(layer: Any, names: dict[nn.Module, str]) -> DecoderLayer:
    """Return a layer of `transformers`, whose linear layers are not swapped yet.

    Args:
        layer: of one of the Llama family's classes.
        names: of its modules in the model.

    Raises:
        ValueError: layers with one input are no neighbours, so that an adapter's factors do not lie side by side.
    """
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]

    def fused(*of_one_input: nn.Linear) -> FusedLinear:
        first = linears.index(of_one_input[0])
        if linears[first : first + len(of_one_input)] != list(of_one_input):
            found = ", ".join(names[linear] for linear in of_one_input)
            raise ValueError(f"{found} are no neighbours, so that an adapter's factors do not lie side by side")
        return FusedLinear.of([(names[linear], linear) for linear in of_one_input])

    attention, mlp = layer.self_attn, layer.mlp
    heads, key_heads = (p.out_features // attention.head_dim for p in (attention.q_proj, attention.k_proj))
    dense = isinstance(getattr(mlp, "gate_proj", None), nn.Linear)
    return DecoderLayer(
        norm=Norm.of(layer.input_layernorm),
        qkv=fused(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=HeadNorms.of(attention, heads, key_heads),
        output=fused(attention.o_proj),
        mlp_norm=Norm.of(layer.post_attention_layernorm),
        mlp=mlp,
        gate_up=fused(mlp.gate_proj, mlp.up_proj) if dense else None,
        down=fused(mlp.down_proj) if dense else None,
        heads=heads,
        key_heads=key_heads,
        scaling=attention.scaling,
    )
