"""The README.md beside exported weights: a model card as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinsmith.adapter_files.servers import servers_of, why_only_merged

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PARTS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
    "output projection": ("lm_head",),
}


def adapter_card(name: str, source: str, config: Mapping[str, Any]) -> str:
    """Return the card of a PEFT folder.

    Args:
        name: of the folder.
        source: the checkpoint that it was written from.
        config: fields of `adapter_config.json`.
    """
    base = str(config.get("base_model_name_or_path") or "")
    trained = ", ".join(_adapted(config))
    takers = [f"- {server.name}: `{server.how}`" for server in servers_of(config, name) if server.takes]
    reason = why_only_merged(config)
    merged = f"tinsmith checkpoint export {name} NEW_FOLDER --merged --base {base or 'BASE'}"
    notes = [f"vLLM and SGLang do not load it as a LoRA: {reason}.", ""] if reason is not None else []
    return "\n".join(
        [
            *_front("peft", base, ["lora", "tinsmith"]),
            f"# {name}",
            "",
            f"A LoRA adapter of `{base or 'an unnamed base model'}`, trained with Tinsmith: rank {config['r']}, alpha "
            f"{config['lora_alpha']}, on {trained}. Written from `{source}`.",
            "",
            *takers,
            f"- as a whole model: `{merged}`",
            "",
            *notes,
        ]
    )


def merged_card(name: str, source: str, base: str) -> str:
    """Return the card of a whole model.

    Args:
        name: of the folder.
        source: the checkpoint or PEFT folder that was merged.
        base: the base model, as it is called.
    """
    return "\n".join(
        [
            *_front("transformers", base, ["tinsmith"]),
            f"# {name}",
            "",
            f"`{base or 'A base model'}` with the LoRA adapter `{source}` merged into it, by Tinsmith.",
            "",
            f'- transformers: `AutoModelForCausalLM.from_pretrained("{name}")`',
            f"- vLLM: `vllm serve {name}`",
            f"- SGLang: `python -m sglang.launch_server --model-path {name}`",
            "",
        ]
    )


def _front(library: str, base: str, tags: list[str]) -> list[str]:
    # The hub links a base by its id; a folder of somebody's machine is none.
    linked = [f"base_model: {base}"] if _HUB_ID.fullmatch(base) else []
    return ["---", f"library_name: {library}", *linked, "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _adapted(config: Mapping[str, Any]) -> list[str]:
    names = {str(name).removesuffix(".weight").rpartition(".")[2] for name in config.get("target_parameters") or ()}
    modules = config.get("target_modules") or ()
    names |= {modules} if isinstance(modules, str) else {str(name).rpartition(".")[2] for name in modules}
    found = [part for part, members in _PARTS.items() if names & set(members)]
    experts = any("experts" in str(name) for name in config.get("target_parameters") or ())
    return [*found, *(["experts"] if experts else [])] or sorted(names)
