"""Which programs load an adapter as it is, told by its `adapter_config.json`, and how they are asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HEAD = "lm_head"
# vLLM has room for 16 unless it is told otherwise, and takes these limits (vllm.config.lora).
_VLLM_USUAL = 16
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class Server:
    """A program that loads models.

    Attributes:
        name: of the program.
        takes: whether it loads the adapter.
        how: the command or call; where it does not load it, the reason.
    """

    name: str
    takes: bool
    how: str


def servers_of(config: Mapping[str, Any], folder: str) -> list[Server]:
    """Return what loads an adapter of ours.

    Args:
        config: fields of its `adapter_config.json`.
        folder: where it lies.
    """
    base = str(config.get("base_model_name_or_path") or "BASE")
    load = f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")'
    found = [Server("PEFT", True, load)]
    reason = why_only_merged(config)
    if reason is not None:
        return [*found, Server("vLLM", False, reason), Server("SGLang", False, reason)]
    limit = next((rank for rank in _VLLM_RANKS if rank >= int(config["r"])), _VLLM_RANKS[-1])
    room = f" --max-lora-rank {limit}" if limit > _VLLM_USUAL else ""
    vllm = f"vllm serve {base} --enable-lora{room} --lora-modules mine={folder}"
    sglang = f"python -m sglang.launch_server --model-path {base} --enable-lora --lora-paths mine={folder}"
    return [*found, Server("vLLM", True, vllm), Server("SGLang", True, sglang)]


def why_only_merged(config: Mapping[str, Any]) -> str | None:
    """Return why vLLM and SGLang do not load an adapter as a LoRA; None where they do."""
    if _HEAD in (config.get("target_modules") or ()):
        return "it adapts the output projection (lm_head), which they load merged only"
    if any("experts" in name for name in config.get("target_parameters") or ()):
        return "it adapts experts, which they load merged only"
    return None
