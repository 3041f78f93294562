"""Merged export: plain transformers gives the logits of base and adapter, and nothing is written by halves."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter

from tests.support.adapters import make_foreign
from tests.support.checkpoints import FAMILIES, SHAPE, checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.peft_reference import load_reference
from tinsmith.engine.checkpoints import merged
from tinsmith.engine.checkpoints.merged import merge
from tinsmith.types.errors import UserError
from tinsmith.types.params import LoraConfig

IDS = torch.randint(SHAPE.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
# What PEFT says of models that share embeddings, of experts' ranks and scalings, and of adapters on the head.
_PEFT = ("ignore:.*tie_word_embeddings", "ignore:The following (rank|alpha)_pattern", "ignore:Setting `save_embedding")
pytestmark = [pytest.mark.filterwarnings(*_PEFT), pytest.mark.row(217)]


def make_adapter(base: Path, folder: Path, **lora: Any) -> Path:
    """Save a random adapter of ours."""
    engine = load_engine(base)
    engine.create_model("a", LoraConfig(**({"rank": 6} | lora)))
    randomise_adapter(engine, "a", 0)
    engine.save_sampler("a", folder)
    (folder / "state.json").unlink()  # as it arrives at a user's
    return folder


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=IDS).logits


def load_merged(folder: Path, dtype: torch.dtype) -> Any:
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", experts_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] | report["unexpected_keys"] | report["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_has_the_logits_of_base_and_adapter(family: str, tied: bool, tmp_path: Path) -> None:
    base = checkpoint(family, tied)
    adapter = make_adapter(base, tmp_path / "adapter")
    for dtype, name, tolerance in ((torch.float64, "fp64", 1e-9), (torch.float32, None, 1e-5)):
        wanted = logits(load_reference(base, adapter, dtype, trainable=False))
        folder = merge(adapter, base, tmp_path / str(name), name)
        found = load_merged(folder, dtype)
        torch.testing.assert_close(logits(found), wanted, rtol=tolerance, atol=tolerance)
        plain = logits(load_merged(base, dtype))
        assert (logits(found) - plain).abs().max() > 0.1, "an adapter that does nothing would show nothing"
        assert not found.config.tie_word_embeddings
    stored = load_file(tmp_path / "fp64" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float64}
    assert json.loads((tmp_path / "fp64" / "config.json").read_text())["dtype"] == "float64"


def test_a_tied_model_whose_head_is_not_adapted_stays_tied(tmp_path: Path) -> None:
    base = checkpoint("qwen3", True)
    adapter = make_adapter(base, tmp_path / "adapter", train_unembed=False)
    found = load_merged(merge(adapter, base, tmp_path / "out"), torch.float32)
    assert found.config.tie_word_embeddings
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    wanted = logits(load_reference(base, adapter, torch.float32, trainable=False))
    torch.testing.assert_close(logits(found), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_a_sharded_base_is_written_shard_by_shard(family: str, tmp_path: Path) -> None:
    base = tmp_path / "sharded"
    source = checkpoint(family, True)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(base, max_shard_size="60KB")
    for path in source.iterdir():
        if not (base / path.name).exists() and path.suffix != ".safetensors":
            shutil.copyfile(path, base / path.name)
    adapter = make_adapter(base, tmp_path / "adapter")
    told: list[tuple[int, int]] = []
    out = merge(adapter, base, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    shards = sorted(p.name for p in base.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(p.name for p in out.glob("*.safetensors")) == shards
    index = json.loads((out / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        with safe_open(out / file, "pt") as opened:
            assert opened.get_slice(name).get_dtype() == "BF16"
    assert "lm_head.weight" in index["weight_map"]
    assert told == sorted(told)
    assert told[-1] == (index["metadata"]["total_size"],) * 2
    wanted = logits(load_reference(base, adapter, torch.float64, trainable=False))
    full = load_merged(merge(adapter, base, tmp_path / "fp64", "fp64"), torch.float64)
    torch.testing.assert_close(logits(full), wanted, rtol=1e-9, atol=1e-9)
    # Stored in bfloat16, every weight is that of float64 rounded once.
    rounded = load_merged(out, torch.bfloat16).state_dict()
    for name, weight in full.state_dict().items():
        torch.testing.assert_close(rounded[name], weight.to(torch.bfloat16), rtol=0.0079, atol=1e-6)


def test_experts_that_are_fused_on_disk_and_dense_layers_between_them(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "qwen3_moe", mlp_only_layers=[0])
    adapter = make_adapter(base, tmp_path / "adapter")
    weights = load_file(base / "model.safetensors")
    module = "model.layers.1.mlp.experts"
    per = {p: [weights.pop(f"{module}.{e}.{p}_proj.weight") for e in range(4)] for p in ("gate", "up", "down")}
    weights[f"{module}.gate_up_proj"] = torch.cat([torch.stack(per["gate"]), torch.stack(per["up"])], 1)
    weights[f"{module}.down_proj"] = torch.stack(per["down"])
    wanted = logits(load_reference(base, adapter, torch.float32, trainable=False))
    split = load_merged(merge(adapter, base, tmp_path / "split"), torch.float32)
    torch.testing.assert_close(logits(split), wanted, rtol=1e-5, atol=1e-5)
    fused = tmp_path / "fused"
    shutil.copytree(base, fused)
    save_file(weights, fused / "model.safetensors")
    found = load_merged(merge(adapter, fused, tmp_path / "out"), torch.float32)
    torch.testing.assert_close(logits(found), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "phimoe"])
@pytest.mark.parametrize("bare", [False, True], ids=["", "without model."])
def test_a_base_whose_files_name_weights_in_their_own_way(family: str, bare: bool, tmp_path: Path) -> None:
    experts = {"num_experts": SHAPE.experts, "num_experts_per_tok": SHAPE.experts_per_token}
    base = make_checkpoint(tmp_path / "base", family, sliding_window=None, **experts)
    weights = load_file(base / "model.safetensors")
    if bare:
        save_file({k.removeprefix("model."): v for k, v in weights.items()}, base / "model.safetensors")
    adapter = make_adapter(base, tmp_path / "adapter")
    found = load_merged(merge(adapter, base, tmp_path / "out", "fp64"), torch.float64)
    wanted = logits(load_reference(base, adapter, torch.float64, trainable=False))
    torch.testing.assert_close(logits(found), wanted, rtol=1e-9, atol=1e-9)
    # Under the names that `save_pretrained` gives, which other programs know the architecture by.
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()


def test_a_decoder_that_was_saved_alone_becomes_the_whole_model(tmp_path: Path) -> None:
    source, base = checkpoint("llama", True), tmp_path / "base"
    shutil.copytree(source, base)
    AutoModel.from_pretrained(source).save_pretrained(base)
    assert "layers.0.mlp.up_proj.weight" in load_file(base / "model.safetensors")
    assert json.loads((base / "config.json").read_text())["architectures"] == ["LlamaModel"]
    adapter = make_adapter(base, tmp_path / "adapter")
    found = load_merged(merge(adapter, base, tmp_path / "out", "fp64"), torch.float64)
    wanted = logits(load_reference(source, adapter, torch.float64, trainable=False))
    torch.testing.assert_close(logits(found), wanted, rtol=1e-9, atol=1e-9)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_what_cannot_be_followed_is_said_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A base with queries, keys and values in one tensor on disk, which `transformers` cuts when it loads it."""

    def rules(name: str) -> list[Any] | None:
        targets = [f".self_attn.{p}_proj.weight" for p in "qkv"]
        fused = WeightConverter([".self_attn.qkv.weight"], targets, [Chunk(dim=0)])
        return [fused] if name == "llama" else given(name)

    given = conversion_mapping.get_checkpoint_conversion_mapping
    monkeypatch.setattr(conversion_mapping, "get_checkpoint_conversion_mapping", rules)
    base = make_checkpoint(tmp_path / "base", "llama", num_key_value_heads=4)
    assert "model.layers.0.self_attn.qkv.weight" in load_file(base / "model.safetensors")
    adapter = make_adapter(base, tmp_path / "adapter")
    assert "adapters cannot be merged into its files: model.layers.0.self_attn.qkv.weight and its like" in caplog.text
    with pytest.raises(UserError, match=r"base: got files in which .*qkv.weight and its like become .* by Chunk"):
        merge(adapter, base, tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {"target_modules": "all-linear", "lora_alpha": 20, "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", "lm_head"], "rank_pattern": {"layers.0.self_attn.q_proj": 7}}),
        ("qwen3_moe", {"target_modules": "all-linear", "alpha_pattern": {r".*\.down_proj": 5}}),
    ],
    ids=["rslora", "rank pattern and head", "mixture with router"],
)
def test_an_adapter_made_by_peft_is_merged(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    base = checkpoint(family)
    reference = make_foreign(base, tmp_path / "adapter", torch.float64, **options)
    found = load_merged(merge(tmp_path / "adapter", base, tmp_path / "out", "fp64"), torch.float64)
    torch.testing.assert_close(logits(found), logits(reference), rtol=1e-9, atol=1e-9)


def test_what_belongs_to_the_model_comes_along(tmp_path: Path) -> None:
    base = checkpoint("qwen3")
    out = merge(make_adapter(base, tmp_path / "adapter"), base, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in base.iterdir())
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    turn = [{"role": "user", "content": "hello"}]
    ours, theirs = (AutoTokenizer.from_pretrained(f).apply_chat_template(turn) for f in (out, base))
    assert ours == theirs


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = checkpoint("llama")
    return make_adapter(base, tmp_path / "adapter"), base


def test_a_folder_that_holds_something_is_left_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(UserError, match=r"folder: got '.*out', expected an empty folder"):
        merge(*pair, out)
    assert [p.name for p in out.iterdir()] == ["precious"]
    with pytest.raises(UserError, match=r"expected a folder that can be written \((File exists|Not a directory)\)"):
        merge(*pair, out / "precious" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"link', expected a folder that can be written \(Not a directory\)"):
        merge(*pair, tmp_path / "link")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "link", "out"]
    with pytest.raises(UserError, match="dtype: got 'int8', expected one of fp32, bf16"):
        merge(*pair, tmp_path / "new", "int8")
    (out / "precious").unlink()
    assert (merge(*pair, out) / "config.json").is_file()


def test_a_fault_in_the_middle_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"folder: got '.*out', expected a folder that can be written \(No space left"):
        merge(*pair, tmp_path / "out", progress=fail)
    assert sorted(tmp_path.iterdir()) == before
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(merged.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"with 1000 bytes free', expected \d+ bytes for the merged model"):
        merge(*pair, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.row(36)
def test_a_base_that_does_not_fit_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    adapter, base = pair

    def refused(pattern: str, other: Path, of: Path = adapter) -> None:
        with pytest.raises(UserError, match=pattern):
            merge(of, other, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    wide = make_checkpoint(tmp_path / "wide", "llama", hidden_size=128)
    refused(r"base: lm_head.weight: got \(320, 128\), expected shape \(320, 64\)", wide)
    other = r"base: got .*llama-untied-1 \(weights \w{12}\), expected the base model .* trained on: llama-untied-0 \("
    refused(other, checkpoint("llama", seed=1))
    short = make_checkpoint(tmp_path / "short", "llama", num_hidden_layers=1)
    refused(r"base: got no tensor model.layers.1.mlp.down_proj.weight, expected the one that .*lora_A", short)
    moe = make_adapter(checkpoint("qwen3_moe"), tmp_path / "moe")
    refused(r"base: got no tensor model.layers.0.mlp.experts.(gate_up|down)_proj", base, moe)
    many = make_checkpoint(tmp_path / "many", "qwen3_moe", num_experts=6)
    refused(r"base: got tensor .*experts.4.gate_proj.weight, expected 4 experts", many, moe)
    refused(r"adapter: got '.*', expected a PEFT folder with adapter_config.json", base, base)
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    refused(r"adapter: got tensor base_model.* with values that are NaN or infinite, expected finite ones", base)
    quantised = tmp_path / "quantised"
    shutil.copytree(base, quantised)
    config = json.loads((base / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    refused("base: got .*, expected weights that are not quantised", quantised)
    (quantised / "config.json").write_text(json.dumps(config))
    (quantised / "model.safetensors").unlink()
    refused(r"base: .*: got no weights, expected model\.safetensors or", quantised)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        weights | {"base_model.model.lm_head.base_layer.weight": torch.zeros(320, 64)},
        adapter / "adapter_model.safetensors",
    )
    refused("got tensor base_model.model.lm_head.base_layer.weight other than the base's", base)
