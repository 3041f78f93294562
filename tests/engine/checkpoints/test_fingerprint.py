"""Fingerprints of bases: loaded or on disk, in any dtype and any number of shards, one base has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import FAMILIES, checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tinsmith.engine.checkpoints.base_folder import BaseFolder
from tinsmith.engine.checkpoints.fingerprint import fingerprint, fingerprint_of_folder, weights_digest
from tinsmith.types.errors import UserError
from tinsmith.types.params import LoraConfig

pytestmark = pytest.mark.row(217)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_has_the_fingerprint_of_the_model_that_it_becomes(family: str, tied: bool, tmp_path: Path) -> None:
    base = checkpoint(family, tied)
    wanted = fingerprint(load_engine(base).base)
    assert fingerprint_of_folder(BaseFolder.open(base)) == wanted
    other = make_checkpoint(tmp_path / "other", family, tied=tied, seed=1)
    assert fingerprint_of_folder(BaseFolder.open(other)) == fingerprint(load_engine(other).base) != wanted
    halved = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    halved.save_pretrained(tmp_path / "halved", max_shard_size="60KB")
    assert len(list((tmp_path / "halved").glob("*.safetensors"))) > 1
    assert fingerprint_of_folder(BaseFolder.open(tmp_path / "halved")) == wanted


def test_one_expert_or_one_layer_makes_another_base(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "qwen3_moe", mlp_only_layers=[0])
    before = fingerprint_of_folder(BaseFolder.open(base))
    assert before == fingerprint(load_engine(base).base)
    weights = load_file(base / "model.safetensors")
    for name in ("layers.1.mlp.experts.3.up_proj.weight", "layers.0.mlp.down_proj.weight"):
        changed = {k: v.flip(0) if k.endswith(name) else v for k, v in weights.items()}
        save_file(changed, base / "model.safetensors")
        assert fingerprint_of_folder(BaseFolder.open(base)) != before


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_stored_names_other_than_the_modules_make_no_other_base(family: str, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", family, sliding_window=None)
    wanted = fingerprint(load_engine(base).base)
    weights = load_file(base / "model.safetensors")
    save_file({k.removeprefix("model."): v for k, v in weights.items()}, base / "model.safetensors")
    assert fingerprint_of_folder(BaseFolder.open(base)) == wanted == fingerprint(load_engine(base).base)


def test_an_adapter_that_comes_back_knows_its_base(tmp_path: Path) -> None:
    engine = load_engine(checkpoint("llama"))
    engine.create_model("a", LoraConfig(rank=4))
    randomise_adapter(engine, "a", 0)
    engine.save_sampler("a", tmp_path / "a")
    (tmp_path / "a" / "state.json").unlink()
    engine.load_sampler("s", tmp_path / "a")
    twin = load_engine(checkpoint("llama", seed=1))
    with pytest.raises(UserError, match=r"adapter: got .* base model llama-untied-0 .*, expected one of llama"):
        twin.load_sampler("s", tmp_path / "a")


def test_a_digest_of_all_weights_sees_every_number_and_no_dtype() -> None:
    base = checkpoint(FAMILIES[0], False)
    engine = load_engine(base)
    wanted = weights_digest(engine.base)
    assert wanted == weights_digest(load_engine(base, dtype="bfloat16").base)
    for weight in [*engine.base.decoder.parameters(), *engine.base.head.parameters()]:
        flat = weight.data.view(-1)
        for place in (0, len(flat) // 2, len(flat) - 1):
            before = flat[place].clone()
            flat[place] = before + 1
            assert weights_digest(engine.base) != wanted
            flat[place] = before
    assert weights_digest(engine.base) == wanted
