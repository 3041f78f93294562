"""Learning rates and renderers by model name, folder and config."""

from __future__ import annotations

import json
import logging
import math
import socket
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import FAMILIES, checkpoint, make_tokenizer
from tinsmith import hub, models
from tinsmith.cookbook import notices
from tinsmith.cookbook.hyperparam_utils import (
    get_full_finetune_lr_multiplier,
    get_full_finetune_param_count,
    get_lora_lr_multiplier,
    get_lora_lr_over_full_finetune_lr,
    get_lora_param_count,
    lr_for_batch,
)
from tinsmith.cookbook.model_info import get_model_attributes, get_recommended_renderer_name
from tinsmith.cookbook.renderers import get_renderer, renderer_names
from tinsmith.cookbook.utils import get_lr, recommended_lr
from tinsmith.engine.adapters.layouts import Layout, bucket_of, targets_for
from tinsmith.engine.checkpoints.peft_layout import export_tensors
from tinsmith.engine.model.loading.base_loading import load_base_model
from tinsmith.types.errors import UserError
from tinsmith.types.facts.learning_rate import learning_rate
from tinsmith.types.facts.lineup import EMBEDDED_MODEL, LINEUP
from tinsmith.types.params import LoraConfig


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.mark.row(66)
def test_learning_rates_of_the_course() -> None:
    assert get_lr("meta-llama/Llama-3.1-8B") == pytest.approx(2.856415e-4, rel=1e-6)
    assert get_lr("Qwen/Qwen3-8B") == pytest.approx(4.729791e-4, rel=1e-6)
    assert get_lr("Qwen/Qwen3-8B", is_lora=False) == pytest.approx(4.729791e-5, rel=1e-6)


@pytest.mark.row(3, 66)
@pytest.mark.parametrize(("family", "formula"), [("llama", "llama"), ("qwen2", "qwen"), ("qwen3_moe", "qwen")])
def test_the_learning_rate_of_a_folder_comes_from_its_config(family: str, formula: str) -> None:
    folder = checkpoint(family)
    assert get_lr(str(folder)) == learning_rate(formula, 64)  # pyright: ignore[reportArgumentType]
    assert get_lr(str(folder), is_lora=False) == pytest.approx(get_lr(str(folder)) / 10)


def test_a_nested_text_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 2000, "model_type": "llama"}}))
    assert get_lr(str(tmp_path)) == pytest.approx(5e-4)


def test_models_without_a_hidden_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="hidden_size: got None"):
        get_lr(str(tmp_path))
    with pytest.raises(UserError, match="model_name: got 'nobody/nothing'"):
        get_lr("nobody/nothing")


@pytest.mark.row(66)
def test_families_that_nobody_measured_get_a_rate_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        assert get_lr("openai/gpt-oss-20b") == get_lr("openai/gpt-oss-120b") == learning_rate("qwen", 2880)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "get_lr: no learning rate was measured for models of type 'gpt_oss'"
    ]


def test_recipes_take_the_formula_and_what_was_measured_for_the_embedded_model() -> None:
    assert recommended_lr("Qwen/Qwen3-8B") == get_lr("Qwen/Qwen3-8B")
    assert recommended_lr(EMBEDDED_MODEL) == 4e-3


@pytest.mark.row(81)
def test_rates_go_with_the_square_root_of_the_batch() -> None:
    assert lr_for_batch(1e-4, 128) == pytest.approx(1e-4)
    assert lr_for_batch(1e-4, 512) == pytest.approx(2e-4)
    assert lr_for_batch(1e-4, 32, tuned_at=8) == pytest.approx(2e-4)
    with pytest.raises(UserError, match="batch_size: got 0, expected at least 1"):
        lr_for_batch(1e-4, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [1, 4, 24])
def test_the_adapters_parameters_are_counted_as_the_engine_has_them(family: str, rank: int) -> None:
    folder = checkpoint(family)
    base = load_base_model("x", str(folder), torch.device("cpu"), torch.float32)
    for switches in ({}, {"train_mlp": False}, {"train_attn": False, "train_unembed": False}):
        layout = Layout(targets_for(base.targets, LoraConfig(rank=rank, **switches)), bucket_of(rank))
        tensors = export_tensors(torch.zeros(layout.size), layout, rank)
        count = sum(tensor.numel() for tensor in tensors.values())
        assert get_lora_param_count(str(folder), rank, **switches) == count


def test_adapters_that_are_not_counted_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "model_type": "deepseek_v3"}))
    with pytest.raises(UserError, match=r"model_type: got 'deepseek_v3', expected one of llama"):
        get_lora_param_count(str(tmp_path))
    with pytest.raises(UserError, match="lora_config: got 'nothing to train'"):
        get_lora_param_count(EMBEDDED_MODEL, train_mlp=False, train_attn=False, train_unembed=False)


def test_multipliers_of_full_fine_tuning_go_with_the_parameters() -> None:
    folder = checkpoint("qwen3")
    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert get_full_finetune_param_count(str(folder)) == count
    assert get_full_finetune_lr_multiplier(str(folder)) == pytest.approx(1 / math.sqrt(count))
    assert get_lora_lr_over_full_finetune_lr(str(folder)) == 10.0
    assert get_lora_lr_multiplier(str(folder)) == pytest.approx(10 / math.sqrt(count))
    assert get_full_finetune_param_count("Qwen/Qwen3-8B") == pytest.approx(8.19e9)
    with pytest.raises(UserError, match="lora_alpha: got 16, expected 32"):
        get_lora_lr_over_full_finetune_lr(str(folder), 16)


@pytest.mark.row(50)
def test_what_a_config_says_of_a_model(tmp_path: Path) -> None:
    dense, experts = get_model_attributes(str(checkpoint("llama"))), get_model_attributes(str(checkpoint("qwen3_moe")))
    assert (dense.model_type, dense.hidden_size, dense.context_length, dense.is_moe) == ("llama", 64, 1024, False)
    assert (experts.model_type, experts.is_moe, experts.kind) == ("qwen3_moe", True, None)
    thinker = get_model_attributes("moonshotai/Kimi-K2-Thinking")
    assert (thinker.kind, thinker.is_moe, thinker.context_length) == ("reasoning", True, 262144)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"a checkpoint whose config\.json is JSON"):
        get_model_attributes(str(tmp_path))
    with pytest.raises(UserError, match=r"expected a folder with a config\.json"):
        get_model_attributes(str(tmp_path.parent))


@pytest.mark.row(50, 58)
def test_a_hub_that_does_not_answer_is_asked_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"  # nobody listens
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub, "_failed", None)
        began = time.monotonic()
        with pytest.raises(UserError, match=rf"got 'nobody/nothing'.*{endpoint} cannot be reached .*local cache"):
            get_lr("nobody/nothing")
        assert time.monotonic() - began < 5
        assert hub.unreachable() == hub.unreachable() is not None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"is not asked \(HF_HUB_OFFLINE=1\)"):
        get_lr("nobody/nothing")


def test_the_lineup_says_of_the_embedded_model_what_its_config_says() -> None:
    config = json.loads((models.path(EMBEDDED_MODEL) / "config.json").read_text())
    facts = LINEUP[EMBEDDED_MODEL]
    assert (facts.hidden_size, facts.context_length) == (config["hidden_size"], config["max_position_embeddings"])


@pytest.mark.row(47)
@pytest.mark.parametrize(
    ("model", "renderer"),
    [
        ("tinsmith-tiny", "tinsmith_tiny"),
        ("meta-llama/Llama-3.1-8B", "role_colon"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-8B-Base", "role_colon"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_instruct"),
        ("Qwen/Qwen3.5-27B", "qwen3_5"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v3_1"),
        ("openai/gpt-oss-20b", "gpt_oss_medium_reasoning"),
        ("moonshotai/Kimi-K2-Thinking", "kimi_k2"),
    ],
)
def test_models_of_the_lineup_have_their_familys_renderer(model: str, renderer: str) -> None:
    assert get_recommended_renderer_name(model) == renderer


@pytest.mark.row(47)
def test_every_model_of_the_lineup_has_a_renderer() -> None:
    assert {get_recommended_renderer_name(name) for name in LINEUP} <= set(renderer_names())


@pytest.mark.row(50)
def test_folders_and_unknown_names_fall_back_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        for _ in range(2):
            assert get_recommended_renderer_name(str(checkpoint("qwen3"))) == "chat_template"
        assert get_recommended_renderer_name(str(tmp_path)) == "role_colon"
        assert get_recommended_renderer_name("nobody/nothing") == "role_colon"
        assert get_recommended_renderer_name("nobody/something", make_tokenizer("llama")) == "chat_template"
        unmarked = make_tokenizer("qwen3")
        unmarked.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        assert get_recommended_renderer_name("nobody/somewhere", unmarked) == "role_colon"
    assert len(caplog.records) == 5
    assert "no control token after an answer" in caplog.records[-1].message
    assert "its tokenizer's own chat template is used" in caplog.records[0].message
    tokenizer = make_tokenizer("llama")
    messages = [{"role": "user", "content": "hi"}]
    prompt = get_renderer("chat_template", tokenizer).build_generation_prompt(messages).to_ints()
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == tokenizer.encode(str(text), add_special_tokens=False)
