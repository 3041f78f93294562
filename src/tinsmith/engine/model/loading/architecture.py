"""Which architectures the engine can compute exactly; anything else is refused by name.

Two nets: what a config declares, and which modules were built. A third, `probe`, compares what comes out.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tinsmith.engine.adapters.layouts import Target
from tinsmith.model_files.folder import CONFIG
from tinsmith.types.errors import UserError

# Rotary embeddings whose angles do not depend on how long the sequence is. The others (dynamic, longrope) turn a token
# in another way once the sequence has grown past a length, so that keys in the cache would go stale.
_ROPE_TYPES = {"default", "linear", "llama3", "yarn", "proportional"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
_EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")


def unsupported(name: str, reason: str, file: str = "") -> UserError:
    """Make the error of a base model that is not served.

    Args:
        name: of the model.
        reason: what it has that is not computed here.
        file: that says so, where one does.
    """
    place = f"base model {name}: {file}: " if file else f"base model {name}: "
    return UserError(f"{place}got {reason}, expected a decoder of plain causal attention (Llama, Qwen, ...)")


def check_config(name: str, config: PreTrainedConfig) -> None:
    """Refuse what the config alone shows to be unsupported.

    Raises:
        UserError: naming the model, its architecture and the feature.
    """
    what = f"architecture {(getattr(config, 'architectures', None) or [config.model_type])[0]}"
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        reason = f"{what} (model_type {config.model_type!r}), which is no causal language model"
        raise unsupported(name, reason, CONFIG)
    for reason in _declared(config):
        raise unsupported(name, f"{what} with {reason}", CONFIG)


def _declared(config: PreTrainedConfig) -> list[str]:
    reasons: list[str] = []
    if getattr(config, "quantization_config", None) is not None:
        reasons.append("quantised weights (quantization_config)")
    # Where layers are listed, the list counts: configs carry a sliding_window that none of their layers uses.
    layers: list[str] = getattr(config, "layer_types", None) or []
    kinds = set(layers) - {"full_attention"}
    if kinds:
        reasons.append(f"layers of type {', '.join(sorted(kinds))} (layer_types)")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and not layers:
        reasons.append(f"a sliding window of {window} tokens (sliding_window)")
    if getattr(config, "is_causal", True) is False:
        reasons.append("attention that is not causal (is_causal)")
    reasons += [f"rotary embedding of type {t} (rope_parameters)" for t in sorted(_rope_types(config) - _ROPE_TYPES)]
    if getattr(config, "max_position_embeddings", None) is None:
        reasons.append("no context length (max_position_embeddings)")
    return reasons


def _rope_types(config: PreTrainedConfig) -> set[str]:
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Either one set of parameters, or one per type of layer.
    nested = [v for v in rope.values() if isinstance(v, dict)]
    return {str(r.get("rope_type", "default")) for r in (nested or [rope])}


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds the fused weights of all experts of a layer: [experts, out, in]."""
    weights = [getattr(module, w, None) for w in _EXPERT_WEIGHTS]
    return all(isinstance(w, nn.Parameter) and w.dim() == 3 for w in weights)


def find_targets(name: str, model: Any, config: PreTrainedConfig) -> tuple[Target, ...]:
    """List the weights that adapters act on, in the model's order.

    Raises:
        UserError: a decoder layer has other parts than the engine knows.
    """
    targets: list[Target] = []
    per_token = int(getattr(config, "num_experts_per_tok", None) or 1)
    for path, module in model.named_modules():
        last = path.rpartition(".")[2]
        # By the names that the Llama family shares; a model that calls them otherwise has no targets and is refused.
        if isinstance(module, nn.Linear):
            if last in _ATTENTION:
                targets.append(Target(path, "attn", module.in_features, module.out_features))
            elif last in _MLP:
                targets.append(Target(path, "mlp", module.in_features, module.out_features))
            elif module is model.get_output_embeddings():
                targets.append(Target(path, "unembed", module.in_features, module.out_features))
        elif is_experts(module):
            if getattr(module, "is_transposed", False) or getattr(module, "has_bias", False):
                raise unsupported(name, f"experts of {type(module).__name__}, transposed or with biases")
            for weight in _EXPERT_WEIGHTS:
                experts, outputs, inputs = getattr(module, weight).shape
                targets.append(Target(f"{path}.{weight}", "mlp", inputs, outputs, experts, per_token))
    _check_targets(name, type(model).__name__, targets, int(config.num_hidden_layers))
    return tuple(targets)


def _check_targets(name: str, architecture: str, targets: list[Target], layers: int) -> None:
    attention = sum(t.kind == "attn" for t in targets)
    if attention != len(_ATTENTION) * layers:
        raise unsupported(name, f"architecture {architecture} without {', '.join(sorted(_ATTENTION))} in each layer")
    if not any(t.kind == "mlp" for t in targets) or not any(t.kind == "unembed" for t in targets):
        raise unsupported(name, f"architecture {architecture} without an MLP or output projection that is known")
