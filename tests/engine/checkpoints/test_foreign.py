"""Adapters that PEFT made, fitted onto a base model: the same outputs, and refusals by name of what is no LoRA here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.adapters import make_foreign
from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine
from tests.support.peft_reference import load_reference, reference_logprobs
from tests.support.rows import make_row
from tinsmith.engine.checkpoints.merged import merge
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams, LoraConfig

_PEFT = ("ignore:.*tie_word_embeddings", "ignore:The following (rank|alpha)_pattern", "ignore:Setting `save_embedding")
pytestmark = [pytest.mark.row(217), pytest.mark.filterwarnings(*_PEFT)]

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MADE_BY_PEFT = [
    ("llama", {"target_modules": "all-linear", "lora_alpha": 20}, 4),
    ("qwen2", {"target_modules": r".*layers\.1.*(q_proj|up_proj)", "use_rslora": True}, 4),
    ("qwen2", {"target_modules": ["k_proj", "o_proj"], "layers_to_transform": [1], "init_lora_weights": "gaussian"}, 4),
    (
        "qwen3",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 9, r".*\.down_proj": 2},
            "alpha_pattern": {"v_proj": 3, r"model.layers.\d+.mlp.down_proj": 64},
        },
        9,
    ),
    ("qwen3", {"target_modules": ["q_proj", "lm_head"]}, 4),
    ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}, 8),
    ("qwen3_moe", {"target_modules": [], "target_parameters": EXPERTS[:1], "r": 1}, 1),
    ("qwen3_moe", {"target_modules": ["v_proj"], "target_parameters": EXPERTS[1:], "r": 3}, 6),
    # PEFT doubles the rank of the fused halves.
    ("qwen3_moe", {"target_modules": ["gate_proj", "up_proj", "down_proj", "k_proj"]}, 16),
]


def outputs(engine: Engine, model_id: str) -> tuple[torch.Tensor, Any]:
    row = make_row(model_id, "cross_entropy", 50, np.random.default_rng(1), backward=False)
    (output,) = engine.train_rows([row])
    assert isinstance(output, RowOutput), output
    return torch.from_numpy(output.logprobs), row


@pytest.mark.parametrize(("family", "options", "rank"), MADE_BY_PEFT)
def test_peft_and_the_engine_agree(family: str, options: dict[str, Any], rank: int, tmp_path: Path) -> None:
    base = checkpoint(family, tied="lm_head" in options["target_modules"])
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        folder = tmp_path / str(dtype)
        reference = make_foreign(base, folder, dtype, **options)
        engine = load_engine(base, dtype=str(dtype).removeprefix("torch."))
        lora = engine.folders.read(folder, optimizer=False).lora
        assert lora.rank == rank
        engine.load_state("a", folder, lora, optimizer=False)
        found, row = outputs(engine, "a")
        targets = torch.from_numpy(row.datum.loss_fn_inputs["target_tokens"].to_numpy())
        with torch.no_grad():
            (wanted,) = reference_logprobs(reference, [row.datum.model_input.to_ints()])
        wanted = wanted.gather(-1, targets[:, None])[:, 0].to(found.dtype)
        scale = max(1.0, float(wanted.abs().max()))
        assert float((found - wanted).abs().max()) <= tolerance * scale
        # And back: what is saved is PEFT's again, with our own scaling.
        engine.save_sampler("a", tmp_path / f"back-{dtype}")
        back = load_reference(base, tmp_path / f"back-{dtype}", dtype, trainable=False)
        with torch.no_grad():
            (again,) = reference_logprobs(back, [row.datum.model_input.to_ints()])
        again = again.gather(-1, targets[:, None])[:, 0].to(found.dtype)
        assert float((found - again).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("projections", [("gate_proj", "up_proj", "down_proj"), ("down_proj",)], ids=["all", "down"])
def test_experts_that_have_each_their_own_adapter(projections: tuple[str, ...], tmp_path: Path) -> None:
    """As PEFT wrote them before the experts of a layer were fused; PEFT itself fuses them when it loads them."""
    base = checkpoint("qwen3_moe")
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for expert in range(4):
            for projection in projections:
                name = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{projection}"
                wide, high = (32, 64) if projection == "down_proj" else (64, 32)
                weights[f"{name}.lora_A.weight"] = torch.randn(3, wide, generator=generator) * 0.2
                weights[f"{name}.lora_B.weight"] = torch.randn(high, 3, generator=generator) * 0.2
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5, "use_rslora": False}
    config |= {"target_modules": list(projections), "base_model_name_or_path": str(base), "bias": "none"}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    engine = load_engine(base)
    lora = engine.folders.read(tmp_path, optimizer=False).lora
    assert lora == LoraConfig(rank=6 * 2 if "up_proj" in projections else 6, train_attn=False, train_unembed=False)
    engine.load_state("a", tmp_path, lora, optimizer=False)
    found, row = outputs(engine, "a")
    targets = torch.from_numpy(row.datum.loss_fn_inputs["target_tokens"].to_numpy())
    tokens = [row.datum.model_input.to_ints()]
    whole = merge(tmp_path, base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32, experts_implementation="eager")
    for reference in (load_reference(base, tmp_path, torch.float32, trainable=False), merged):
        with torch.no_grad():
            (wanted,) = reference_logprobs(reference, tokens)
        torch.testing.assert_close(found, wanted.gather(-1, targets[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_training_goes_on_with_what_the_adapter_has(tmp_path: Path) -> None:
    base = checkpoint("qwen2")
    make_foreign(base, tmp_path / "foreign", target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2})
    engine = load_engine(base)
    engine.load_state(
        "a", tmp_path / "foreign", LoraConfig(rank=4, train_mlp=False, train_unembed=False), optimizer=False
    )
    engine.save_sampler("a", tmp_path / "before")
    for seed in range(2):
        engine.train_rows([make_row("a", "cross_entropy", 30, np.random.default_rng(seed))])
        engine.optim_step("a", AdamParams(learning_rate=1e-2, weight_decay=0.1))
    engine.save_sampler("a", tmp_path / "after")
    before, after = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("before", "after"))
    for name, weight in after.items():
        if "q_proj" in name or "v_proj" in name:
            assert not torch.equal(weight, before[name]), name
        else:
            assert not weight.any(), name
        if "v_proj" in name:
            assert not (weight[2:] if "lora_A" in name else weight[:, 2:]).any()


def test_an_adapter_of_ours_comes_back_bit_by_bit(tmp_path: Path) -> None:
    base = checkpoint("qwen3_moe", tied=True)
    engine = load_engine(base)
    engine.create_model("a", LoraConfig(rank=7, seed=1))
    for seed in range(2):
        engine.train_rows([make_row("a", "cross_entropy", 30, np.random.default_rng(seed))])
        engine.optim_step("a", AdamParams(learning_rate=1e-2))
    engine.save_sampler("a", tmp_path / "a")
    (tmp_path / "a" / "state.json").unlink()
    engine.load_state("b", tmp_path / "a", LoraConfig(rank=7), optimizer=False)
    assert torch.equal(engine.adapters.get("a").master, engine.adapters.get("b").master)


def test_half_precision_and_bare_names_are_taken(tmp_path: Path) -> None:
    base = checkpoint("llama")
    make_foreign(base, tmp_path, target_modules="all-linear")
    file = tmp_path / "adapter_model.safetensors"
    weights = {k.removeprefix("base_model.model."): v.to(torch.bfloat16) for k, v in load_file(file).items()}
    save_file(weights, file)
    engine = load_engine(base)
    saved = engine.folders.read(tmp_path, optimizer=False)
    assert {t.dtype for t in saved.tensors.values()} == {torch.float32}
    name = "model.layers.0.mlp.up_proj.lora_A.weight"
    assert torch.equal(saved.tensors[f"base_model.model.{name}"], weights[name].float())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    base = checkpoint("llama")
    folder = tmp_path_factory.mktemp("sound")
    make_foreign(base, folder, target_modules=["q_proj"])
    return load_engine(base), folder


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("peft_type", "IA3", "peft_type: got 'IA3', expected LORA"),
        ("use_dora", True, "use_dora: got True, expected it to be off"),
        ("modules_to_save", ["embed_tokens"], r"modules_to_save: got \['embed_tokens'\], expected it to be off"),
        ("trainable_token_indices", [1], "trainable_token_indices: got .*, expected it to be off"),
        ("lora_bias", True, "lora_bias: got True"),
        ("bias", "all", "bias: got 'all', expected none"),
        ("layer_replication", [[0, 2]], "layer_replication: got"),
        ("an_option_of_next_year", 3, "an_option_of_next_year: got 3, expected it to be off"),
        ("init_lora_weights", "pissa", "init_lora_weights: got 'pissa', expected first weights that leave the base"),
        ("r", 0, "r: got 0, expected a whole number from 1"),
        ("r", "4", "r: got '4', expected a whole number"),
        ("lora_alpha", None, "lora_alpha: got None, expected a number above 0"),
        ("rank_pattern", {"(a+)+b": 4}, r"rank_pattern: got '\(a\+\)\+b', expected names of weights"),
        ("rank_pattern", {".*.*.*x": 4}, "rank_pattern: got .*, expected names of weights"),
        ("rank_pattern", {"q_proj": -1}, "rank_pattern.q_proj: got -1, expected a whole number"),
        ("alpha_pattern", [1], r"alpha_pattern: got \[1\], expected at most 4096 patterns"),
        ("target_parameters", "x", "target_parameters: got 'x', expected a list of names"),
        ("rank_pattern", {"q_proj": 5}, r"q_proj.lora_A.weight: got \(4, 64\), expected shape \(5, 64\) \(rank 5\)"),
    ],
)
def test_a_config_that_is_not_computed_is_named(
    option: str, value: object, pattern: str, sound: tuple[Engine, Path], tmp_path: Path
) -> None:
    engine, folder = sound
    config = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {option: value}))
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    with pytest.raises(UserError, match=f"adapter.*: {pattern}|adapter: .*{pattern}"):
        engine.load_sampler("s", tmp_path)


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"lm_head.base_layer.weight": (320, 64)}, "lm_head.base_layer.weight, expected only weights that the base"),
        ({"model.norm.weight": (64,)}, "got tensor model.norm.weight, expected only lora_A and lora_B"),
        ({"model.layers.0.self_attn.q_proj.lora_magnitude_vector": (64,)}, "lora_magnitude_vector, expected only"),
        ({"model.embed_tokens.lora_embedding_A": (4, 320)}, "lora_embedding_A, expected only lora_A and lora_B"),
        ({"model.layers.7.mlp.up_proj.lora_B.weight": (96, 4)}, "got only one of .*up_proj.lora_A.weight and"),
        (
            {f"model.layers.7.mlp.up_proj.lora_{x}.weight": s for x, s in (("A", (4, 64)), ("B", (96, 4)))},
            "got tensor model.layers.7.mlp.up_proj.lora_A.weight, expected only weights of this base",
        ),
        (
            {f"model.layers.0.mlp.up_proj.lora_{x}.weight": s for x, s in (("A", (4, 32)), ("B", (96, 4)))},
            "mlp.up_proj: got '32 inputs and 96 outputs', expected 64 inputs and 96 outputs as in the base",
        ),
        (
            {f"model.layers.0.mlp.gate.lora_{x}.weight": s for x, s in (("A", (4, 64)), ("B", (4, 4)))},
            "got a LoRA of model.layers.0.mlp.gate, expected only q, k, v, o",
        ),
        (
            {
                f"model.layers.0.mlp.experts.{'9' * 5000}.up_proj.lora_{x}.weight": s
                for x, s in (("A", (4, 64)), ("B", (96, 4)))
            },
            r"got tensor model.layers.0.mlp.experts.9+.up_proj.lora_A.weight, expected only weights of this base",
        ),
        (
            {f"model.layers.0.mlp.experts.lora_{x}.weight": s for x, s in (("A", (16, 64)), ("B", (32, 16)))},
            "target_parameters .*, expected them to name model.layers.0.mlp.experts.gate_up_proj",
        ),
    ],
)
def test_tensors_that_are_no_lora_of_the_base_are_named(
    change: dict[str, tuple[int, ...]], pattern: str, sound: tuple[Engine, Path], tmp_path: Path
) -> None:
    engine, folder = sound
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    extra = {name: torch.zeros(shape) for name, shape in change.items()}
    save_file(load_file(folder / "adapter_model.safetensors") | extra, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=pattern):
        engine.load_sampler("s", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_adapter_that_diverged_is_refused(value: float, sound: tuple[Engine, Path], tmp_path: Path) -> None:
    engine, folder = sound
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "adapter_model.safetensors")
    name = max(tensors)
    tensors[name][-1, -1] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"adapter: got tensor {name} with values that are NaN or infinite"):
        engine.load_sampler("s", tmp_path)
