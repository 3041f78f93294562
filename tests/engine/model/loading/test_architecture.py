"""What the engine cannot compute exactly is refused at load, by name; what it can is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import SHAPE, checkpoint, make_checkpoint
from tests.support.engines import load_engine
from tinsmith.engine.engine import Engine
from tinsmith.settings import Settings
from tinsmith.types.errors import UserError

ROPE = {"rope_theta": 10000.0}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "sliding window": ("mistral", {"sliding_window": 16}, r"Mistral.* a sliding window of 16 tokens"),
    "some sliding layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        r"Qwen2ForCausalLM with layers of type sliding_attention",
    ),
    "soft caps": ("gemma2", {}, "Gemma2ForCausalLM with layers of type sliding_attention"),
    "soft caps only": (
        "gemma2",
        {"layer_types": ["full_attention"] * 2, "attn_logit_softcapping": 5.0},
        r"Gemma2ForCausalLM \(Gemma2Attention asks its attention for softcap\)",
    ),
    "sinks": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        "GptOssForCausalLM with layers of type sliding_attention",
    ),
    "state space": ("mamba", {"state_size": 4}, "MambaForCausalLM"),
    "scaled logits": ("granite", {"logits_scaling": 8.0}, "GraniteForCausalLM, which mixes tokens or scales logits"),
    "dynamic rope": (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}},
        r"LlamaForCausalLM with rotary embedding of type dynamic",
    ),
    "long rope": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "longrope",
                "factor": 2.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 512,
            }
        },
        r"LlamaForCausalLM with rotary embedding of type longrope",
    ),
    "other projections": ("gpt_neox", {}, r"GPTNeoXForCausalLM without k_proj, o_proj, q_proj, v_proj"),
}
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": None}),
    "linear rope": ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "dense and sparse layers": ("qwen3_moe", {"mlp_only_layers": [0]}),
    "olmo2": ("olmo2", {}),
}


@pytest.mark.row(36)
@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    family, config, message = REFUSED[case]
    folder = make_checkpoint(tmp_path / family, family, **config)
    with pytest.raises(UserError, match=rf"base model {family}: (config\.json: )?got architecture {message}"):
        load_engine(folder)


@pytest.mark.row(12)
@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str, tmp_path: Path) -> None:
    family, config = ACCEPTED[case]
    info = load_engine(make_checkpoint(tmp_path / family, family, **config)).info
    assert info.model_type == family
    assert info.vocab_size == SHAPE.vocab_size


def test_token_mixing_outside_of_attention_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = AutoModelForCausalLM.from_pretrained

    class Smear(nn.Module):
        """Lets every token see the one before it, across sequences in a packed stream."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.roll(x, 1, dims=1)

    def load_smeared(*args: Any, **kwargs: Any) -> Any:
        model, report = load(*args, **kwargs)
        model.model.layers[1].mlp = nn.Sequential(Smear(), model.model.layers[1].mlp)
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_smeared)
    with pytest.raises(UserError, match="LlamaForCausalLM, which mixes tokens"):
        load_engine(checkpoint("llama"))


@pytest.mark.row(36)
def test_quantised_and_foreign_configs(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "q", "llama")
    config = json.loads((folder / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "fp8"}}
    (folder / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UserError, match="LlamaForCausalLM with quantised weights"):
        load_engine(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    with pytest.raises(UserError, match=r"T5Model \(model_type 't5'\), which is no causal language model"):
        load_engine(folder)
    own_code = {**config, "model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(own_code))
    with pytest.raises(UserError, match="model_type: got 'own', expected an architecture that `transformers` knows"):
        load_engine(folder)


@pytest.mark.row(36)
def test_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json: got no such file"):
        load_engine(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected a folder with config\.json and safetensors"):
        load_engine(tmp_path / "absent")
    with pytest.raises(UserError, match="base model x: got org/absent"):
        Engine.load("x", "org/absent", "cpu", "float32", Settings())


@pytest.mark.row(36)
def test_devices_and_dtypes() -> None:
    folder = str(checkpoint("llama"))
    for device in ("tpu", "cuda:99", "cuda:x", ""):
        with pytest.raises(UserError, match=f"device: got '{device}'"):
            Engine.load("x", folder, device, "float32", Settings())
    with pytest.raises(UserError, match="dtype: got 'int8', expected auto, float32, bfloat16"):
        Engine.load("x", folder, "cpu", "int8", Settings())


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "llama")
    engine = load_engine(folder)
    assert engine.tokenizer is not None
    assert engine.tokenizer.decode(engine.tokenizer.encode("abc").ids) == "abc"
    (folder / "tokenizer.json").unlink()
    assert load_engine(folder).tokenizer is None
