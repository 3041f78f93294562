"""Checkpoints: plain PEFT files, whole or absent, refused where they do not belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import FAMILIES, checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.peft_reference import load_reference, reference_logprobs
from tests.support.rows import make_row
from tinsmith.engine.checkpoints import whole_folders
from tinsmith.engine.checkpoints.whole_folders import write_folder
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput
from tinsmith.server.handlers.intake.limits import saved_bytes
from tinsmith.types.errors import Damaged, UserError
from tinsmith.types.names.paths import check_name
from tinsmith.types.params import AdamParams, LoraConfig

ADAM = AdamParams(learning_rate=1e-2, weight_decay=0.01)


def train(engine: Engine, model_id: str, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        engine.train_rows([make_row(model_id, "cross_entropy", 30, rng)])
        engine.optim_step(model_id, ADAM)


def check_logprobs(engine: Engine, model_id: str, reference: PeftModel) -> None:
    """Compare logprobs of random targets with the reference's."""
    row = make_row(model_id, "cross_entropy", 50, np.random.default_rng(1), backward=False)
    (output,) = engine.train_rows([row])
    assert isinstance(output, RowOutput)
    targets = torch.from_numpy(row.datum.loss_fn_inputs["target_tokens"].to_numpy())
    with torch.no_grad():
        (wanted,) = reference_logprobs(reference, [row.datum.model_input.to_ints()])
    wanted = wanted.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(output.logprobs), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.row(1, 217)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_adapter_loads_in_plain_peft(family: str, tied: bool, tmp_path: Path) -> None:
    base = checkpoint(family, tied)
    engine = load_engine(base)
    engine.create_model("a", LoraConfig(rank=6))
    train(engine, "a", 3)
    engine.save_sampler("a", tmp_path / "a")
    check_logprobs(engine, "a", load_reference(base, tmp_path / "a", torch.float32, trainable=False))


@pytest.mark.row(1, 217)
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys.*")
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("qwen3_moe", {"mlp_only_layers": [0, 1]}),
        ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2}),
    ],
    ids=["dense layers", "dense layers only", "shared experts"],
)
@pytest.mark.parametrize("train_attn", [True, False])
def test_dense_layers_beside_experts_load_in_plain_peft(
    family: str, config: dict[str, Any], train_attn: bool, tmp_path: Path
) -> None:
    base = make_checkpoint(tmp_path / "base", family, **config)
    engine = load_engine(base)
    engine.create_model("a", LoraConfig(rank=6, train_attn=train_attn, train_unembed=train_attn))
    randomise_adapter(engine, "a", 0)
    engine.save_sampler("a", tmp_path / "a")
    check_logprobs(engine, "a", load_reference(base, tmp_path / "a", torch.float32, trainable=False))


@pytest.mark.row(117)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_load_and_step_equals_never_having_stopped(family: str, tmp_path: Path) -> None:
    calm, engine = load_engine(checkpoint(family)), load_engine(checkpoint(family))
    lora = LoraConfig(rank=8, seed=5)
    for e in (calm, engine):
        e.create_model("a", lora)
        train(e, "a", 3)
    written = engine.save_state("a", tmp_path / "state")
    assert written == sum(f.stat().st_size for f in (tmp_path / "state").iterdir())
    assert written > 2.5 * engine.save_sampler("a", tmp_path / "sampler")
    fresh = load_engine(checkpoint(family), name=engine.info.name)
    fresh.load_state("b", tmp_path / "state", lora)
    train(calm, "a", 2, seed=9)
    train(fresh, "b", 2, seed=9)
    found, wanted = fresh.adapters.get("b"), calm.adapters.get("a")
    for name in ("master", "exp_avg", "exp_avg_sq"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.step == wanted.step == 5


@pytest.mark.row(117)
def test_load_without_optimizer_starts_it_anew(tmp_path: Path) -> None:
    engine = load_engine(checkpoint("qwen2"))
    lora = LoraConfig(rank=8)
    engine.create_model("a", lora)
    train(engine, "a", 2)
    for folder, save in (("state", engine.save_state), ("sampler", engine.save_sampler)):
        save("a", tmp_path / folder)
        engine.load_state(folder, tmp_path / folder, lora, optimizer=False)
        loaded = engine.adapters.get(folder)
        assert torch.equal(loaded.master, engine.adapters.get("a").master)
        assert loaded.step == 0
        assert not loaded.exp_avg.any()
    with pytest.raises(UserError, match="without an optimizer"):
        engine.load_state("x", tmp_path / "sampler", lora)
    assert "x" not in engine.adapters.model_ids()


def test_loading_into_a_living_model_replaces_weights_and_drops_gradients(tmp_path: Path) -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8))
    train(engine, "a", 1)
    engine.save_state("a", tmp_path / "s")
    saved = engine.adapters.get("a").master.clone()
    train(engine, "a", 1)
    engine.train_rows([make_row("a", "cross_entropy", 30, np.random.default_rng(0))])
    engine.load_state("a", tmp_path / "s", LoraConfig(rank=8))
    adapter = engine.adapters.get("a")
    assert torch.equal(adapter.master, saved)
    assert torch.equal(adapter.slot.flat, saved)
    assert not adapter.grad.any()
    assert adapter.step == 1


@pytest.mark.row(117)
def test_samplers_from_memory_and_from_disk_agree(tmp_path: Path) -> None:
    engine = load_engine(checkpoint("qwen3_moe"))
    engine.create_model("a", LoraConfig(rank=5))
    randomise_adapter(engine, "a", 0)
    engine.snapshot("a", "memory")
    engine.write_snapshot("memory", tmp_path / "s")
    engine.load_sampler("disk", tmp_path / "s")
    memory, disk = engine.snapshots.get("memory").slot, engine.snapshots.get("disk").slot
    assert memory is not None
    assert disk is not None
    assert torch.equal(memory.flat, disk.flat)
    engine.load_sampler("base", None)
    with pytest.raises(UserError, match="sampler with an adapter"):
        engine.write_snapshot("base", tmp_path / "t")


@pytest.fixture
def state(tmp_path: Path) -> tuple[Engine, Path]:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=8, seed=1))
    train(engine, "a", 1)
    engine.save_state("a", tmp_path / "state")
    return engine, tmp_path / "state"


def test_nothing_pickled_and_no_base_weights(state: tuple[Engine, Path]) -> None:
    _, folder = state
    names = {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json"}
    assert {f.name for f in folder.iterdir()} == names
    assert all(".lora_A." in k or ".lora_B." in k for k in load_file(folder / "adapter_model.safetensors"))


@pytest.mark.row(36)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_changes_nothing(state: tuple[Engine, Path], name: str, damage: str) -> None:
    engine, folder = state
    file = folder / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes(data[:-3] if damage == "cut" else data)
    if damage == "remove":
        file.unlink()
    before = engine.adapters.get("a").master.clone()
    with pytest.raises(Damaged, match=f"checkpoint state: got .*{name}"):
        engine.load_state("a", folder, LoraConfig(rank=8))
    with pytest.raises(Damaged, match=name):
        engine.load_state("new", folder, LoraConfig(rank=8))
    assert torch.equal(engine.adapters.get("a").master, before)
    assert engine.adapters.model_ids() == ["a"]


@pytest.mark.row(211)
@pytest.mark.parametrize(("before", "after"), [('"step": ', '"step": 7'), ('"rank": 8', '"rank": 4'), ("}", "")])
def test_a_changed_manifest_is_found(state: tuple[Engine, Path], before: str, after: str) -> None:
    engine, folder = state
    manifest = folder / "state.json"
    manifest.write_text(manifest.read_text().replace(before, after, 1))
    with pytest.raises(Damaged, match=r"checkpoint state: got .*state\.json"):
        engine.load_state("a", folder, LoraConfig(rank=8))


def test_a_manifest_of_before_has_no_checksum_of_its_own(state: tuple[Engine, Path]) -> None:
    engine, folder = state
    told = json.loads((folder / "state.json").read_text())
    del told["sha256"]
    (folder / "state.json").write_text(json.dumps(told))
    engine.load_state("a", folder, LoraConfig(rank=8))


@pytest.mark.row(36)
def test_other_base_and_other_shape_are_named(state: tuple[Engine, Path]) -> None:
    engine, folder = state
    same_shape = load_engine(checkpoint("llama", seed=1), name="other-llama")
    with pytest.raises(UserError, match=r"base model llama-untied-0 .*, expected one of other-llama"):
        same_shape.load_state("a", folder, LoraConfig(rank=8))
    with pytest.raises(UserError, match=r"base model llama-untied-0 .*, expected one of qwen3-untied-0"):
        load_engine(checkpoint("qwen3")).load_sampler("s", folder)
    with pytest.raises(UserError, match=r"got rank 8 on attn, mlp, unembed, expected rank 4 on attn, mlp, unembed"):
        engine.load_state("b", folder, LoraConfig(rank=4))
    with pytest.raises(UserError, match=r"got rank 8 on attn, mlp, unembed, expected rank 8 on attn, unembed"):
        engine.load_state("b", folder, LoraConfig(rank=8, train_mlp=False))
    with pytest.raises(UserError, match="does not exist"):
        engine.load_state("b", folder / "nowhere", LoraConfig(rank=8))
    assert engine.adapters.model_ids() == ["a"]


def test_one_base_in_another_dtype_or_under_another_name_is_the_same_base(state: tuple[Engine, Path]) -> None:
    engine, folder = state
    for dtype in ("bfloat16", "float64"):
        other = load_engine(checkpoint("llama"), dtype=dtype, name="alias")
        other.load_state("a", folder, LoraConfig(rank=8))
        loaded, saved = other.adapters.get("a").master, engine.adapters.get("a").master
        assert torch.equal(loaded.float(), saved.float())


def test_the_longest_folder_of_a_checkpoint_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / f"{check_name('x' * 200)}~{'0' * 8}"  # a name that was saved again gets a tail
    for content in (b"first", b"second"):
        write_folder(folder, {"file": content}, {})
    assert (folder / "file").read_bytes() == b"second"


def test_an_interrupted_save_leaves_the_old_folder(state: tuple[Engine, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, folder = state
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    train(engine, "a", 1)
    monkeypatch.setattr(whole_folders.os, "fsync", _no_space)
    with pytest.raises(OSError, match="no space"):
        engine.save_state("a", folder)
    monkeypatch.undo()
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["state"], "what was written would keep a full disk full"
    engine.save_state("a", folder)
    assert json.loads((folder / "state.json").read_text())["step"] == 2
    assert [p.name for p in folder.parent.iterdir()] == ["state"]


def _no_space(handle: int) -> None:
    raise OSError("no space left on device")


@pytest.mark.row(36, 217)
def test_what_is_no_adapter_of_this_base_is_refused(state: tuple[Engine, Path], tmp_path: Path) -> None:
    engine, folder = state
    foreign = tmp_path / "foreign"
    shutil.copytree(folder, foreign)
    (foreign / "state.json").unlink()
    weights = load_file(foreign / "adapter_model.safetensors")
    config = json.loads((foreign / "adapter_config.json").read_text())

    def refused(pattern: str) -> None:
        with pytest.raises(UserError, match=pattern):
            engine.load_sampler("s", foreign)

    (foreign / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    refused("use_dora: got True, expected it to be off")
    (foreign / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    refused(r"got \(8, \d+\), expected shape \(4, \d+\) \(rank 4\)")
    (foreign / "adapter_config.json").write_text("{")
    refused("expected PEFT's config of a LoRA")
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights | {"model.embed_tokens.weight": torch.zeros(2, 2)}, foreign / "adapter_model.safetensors")
    refused("got tensor model.embed_tokens.weight, expected only")
    weights.pop("base_model.model.lm_head.lora_A.weight")
    save_file(weights, foreign / "adapter_model.safetensors")
    refused("got only one of base_model.model.lm_head.lora_A.weight")
    (foreign / "adapter_model.safetensors").write_bytes(b"not safetensors")
    refused("no safetensors file")
    (foreign / "adapter_model.safetensors").unlink()
    refused("got no adapter_model.safetensors")
    engine.load_sampler("s", folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_a_save_is_known_before_it_is_made(family: str, tmp_path: Path) -> None:
    engine = load_engine(checkpoint(family))
    lora = LoraConfig(rank=64, train_unembed=False)
    engine.create_model("a", lora)
    sizes = {
        "weights": engine.save_state("a", tmp_path / "state"),
        "sampler_weights": engine.save_sampler("a", tmp_path / "weights"),
    }
    # The rest are names and shapes, which take as much in a model of any width.
    for kind, size in sizes.items():
        assert saved_bytes(engine.info, lora, kind) == pytest.approx(size, abs=10_000)
