"""What loads an adapter as it is, by its config alone."""

from __future__ import annotations

from typing import Any

import pytest

from tinsmith.adapter_files.model_card import adapter_card, merged_card
from tinsmith.adapter_files.servers import servers_of

DENSE: dict[str, Any] = {
    "base_model_name_or_path": "Qwen/Qwen3-8B",
    "r": 32,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "target_parameters": None,
}
EXPERTS = DENSE | {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}


def test_a_dense_adapter_is_taken_by_all() -> None:
    found = {server.name: server for server in servers_of(DENSE, "out")}
    assert all(server.takes for server in found.values())
    expected = "vllm serve Qwen/Qwen3-8B --enable-lora --max-lora-rank 32 --lora-modules mine=out"
    assert found["vLLM"].how == expected
    assert "--max-lora-rank" not in servers_of(DENSE | {"r": 8}, "out")[1].how
    assert "--max-lora-rank 64 " in servers_of(DENSE | {"r": 33}, "out")[1].how


@pytest.mark.parametrize(
    ("config", "why"),
    [(DENSE | {"target_modules": ["q_proj", "lm_head"]}, "output projection"), (EXPERTS, "experts")],
)
def test_what_vllm_and_sglang_do_not_load(config: dict[str, Any], why: str) -> None:
    peft, *others = servers_of(config, "out")
    assert peft.takes
    assert [server.takes for server in others] == [False, False]
    assert all(why in server.how for server in others)


def test_the_card_says_what_it_is() -> None:
    card = adapter_card("out", "tinker://r/weights/x", DENSE)
    assert card.startswith("---\nlibrary_name: peft\nbase_model: Qwen/Qwen3-8B\ntags:\n- lora\n")
    assert "rank 32, alpha 32, on attention, MLP." in card
    assert "- vLLM: `vllm serve" in card
    assert "vLLM and SGLang do not load it as a LoRA: it adapts experts" in adapter_card("out", "x", EXPERTS)
    # A folder of somebody's machine is no model of the hub.
    assert "base_model:" not in adapter_card("out", "x", DENSE | {"base_model_name_or_path": "/models/mine"})
    assert "library_name: transformers" in merged_card("out", "tinker://r/weights/x", "Qwen/Qwen3-8B")
