"""Learning rates and renderers by model name, folder and config."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint, make_tokenizer
from tinsmith import models
from tinsmith.cookbook import model_info, notices
from tinsmith.cookbook.model_info import get_recommended_renderer_name
from tinsmith.cookbook.renderers import get_renderer, renderer_names
from tinsmith.cookbook.utils import check_plan, get_lr
from tinsmith.types.errors import UserError
from tinsmith.types.learning_rate import learning_rate
from tinsmith.types.registry import EMBEDDED_MODEL, LINEUP


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
    assert prompt == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.row(67, 118)
def test_unusual_plans_are_warned_about_with_number_and_threshold(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        check_plan("Qwen/Qwen3-8B", 4e-4, 100)
        check_plan("a name that only the service knows", 1.0, 100)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        for _ in range(2):
            check_plan("Qwen/Qwen3-8B", 5e-3, 99)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "steps: 99 are fewer than 100",
        "learning_rate: 0.005 is more than 10 times off get_lr's 0.000472979",
    ]


def test_a_plan_for_a_name_of_the_service_does_not_ask_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(model_info, "_hub_config", asked.append)
    check_plan("my/llama", 1.0, 100)
    assert not asked
