"""The shipped checkpoint: size, loading in plain transformers, and that it knows its letters."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen3ForCausalLM

from tinsmith import models
from tinsmith.cookbook.words import pseudo_words, words
from tiny import evaluate, mixture, train
from tiny.checkpoint import model_config
from tiny.example import Example, message
from tiny.train import Plan, Run


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(models.path(), dtype=torch.float32)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_files_are_small_and_complete() -> None:
    files = {file.name: file.stat().st_size for file in models.path().iterdir()}
    assert sum(files.values()) < 5_000_000
    assert set(files) >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "training.json",
    }


def test_weights_are_bf16_without_a_second_head() -> None:
    with safe_open(models.path() / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert {weights.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert "lm_head.weight" not in names


def test_config_is_what_the_script_builds(model: Qwen3ForCausalLM) -> None:
    expected = model_config()
    for field in ("vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "tie_word_embeddings"):
        assert getattr(model.config, field) == getattr(expected, field)
    assert model.config.vocab_size < 512
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 2_000_000


def test_generation_stops_at_the_end_of_a_turn_and_of_a_document() -> None:
    tokenizer = AutoTokenizer.from_pretrained(models.path())
    config = GenerationConfig.from_pretrained(models.path())
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    assert config.pad_token_id == tokenizer.pad_token_id


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name: got 'tinsmith-huge', expected one of tinsmith-tiny"):
        models.path("tinsmith-huge")


@pytest.mark.parametrize("skill", ["copy", "reverse", "drop_first", "append", "first_letter", "lookup"])
def test_held_out_accuracy(model: Qwen3ForCausalLM, skill: str) -> None:
    # Measured 88 to 100 % on 200 (docs/embedded-model.md); 40 leave some noise.
    assert evaluate.accuracy(model, evaluate.examples(skill, 40, seed=0), greedy=True) >= 0.8


def test_pig_latin_is_not_known_before_tuning(model: Qwen3ForCausalLM) -> None:
    cases = [
        Example("pig_latin", (message("user", f"translate: {word}"), message("assistant", mixture.pig_latin(word))))
        for word in [*words("held_out")[:40], *pseudo_words(40, "held_out", seed=1)]
    ]
    assert evaluate.accuracy(model, cases, greedy=True) < 0.05


def test_sums_leave_room_for_learning(model: Qwen3ForCausalLM) -> None:
    torch.manual_seed(0)
    cases = [e for skill in ("sum_1_digit", "sum_2_digits") for e in evaluate.examples(skill, 100, seed=0)]
    assert 0.15 < evaluate.accuracy(model, cases, greedy=False) < 0.55


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_was_cut_short_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.checkpoint, "model_config", lambda: _small_config())
    plan = Plan(steps=6, tokens_per_batch=200, pool_documents=30, first_lesson_pools=1, warmup=2)
    calm = Run(plan, tmp_path / "calm")
    calm.train()
    cut = Run(plan, tmp_path / "cut")
    cut.train_pool()
    cut.save()
    again = Run(plan, tmp_path / "cut")
    assert again.step == cut.step > 0
    again.train()
    assert again.step == calm.step
    for name, weight in calm.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_another_plan_does_not_continue_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.checkpoint, "model_config", lambda: _small_config())
    plan = Plan(steps=1)
    Run(plan, tmp_path).save()
    with pytest.raises(SystemExit, match="expected"):
        Run(replace(plan, seed=plan.seed + 1), tmp_path)
    assert asdict(plan)["seed"] != plan.seed + 1


def _small_config():
    config = model_config()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 32, 1
    config.layer_types = config.layer_types[:1]
    return config
