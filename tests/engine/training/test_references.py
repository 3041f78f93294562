"""References: what pairs are measured against, how long it is held, and that its logprobs are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.checkpoints import checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.pairs import make_pair, pair_rows
from tests.support.rows import make_row
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams, LoraConfig

LORA = LoraConfig(rank=8)
ADAM = AdamParams(learning_rate=1e-2)


def make_engine(**settings: int) -> Engine:
    engine = load_engine(checkpoint("qwen3"), **settings)
    engine.create_model("a", LORA)
    randomise_adapter(engine, "a", 0)
    return engine


def save_reference(engine: Engine, folder: Path, seed: int = 7, rank: int = 5) -> str:
    engine.create_model("other", LoraConfig(rank=rank))
    randomise_adapter(engine, "other", seed)
    engine.save_sampler("other", folder)
    engine.remove_model("other")
    return str(folder)


def make_pairs(count: int, seed: int = 0) -> list[Datum]:
    rng = np.random.default_rng(seed)
    return [one for _ in range(count) for one in make_pair(rng, *rng.integers(2, 12, 3))]


def ran(engine: Engine, rows: Sequence[TrainRow]) -> list[RowOutput]:
    outputs = engine.train_rows(rows)
    failed = [output for output in outputs if not isinstance(output, RowOutput)]
    assert not failed, failed
    return [output for output in outputs if isinstance(output, RowOutput)]


def refs(outputs: Sequence[RowOutput]) -> list[list[float]]:
    return [output.ref_logprobs.tolist() for output in outputs if output.ref_logprobs is not None]


@pytest.mark.row(90)
def test_reference_logprobs_are_computed_once_and_are_the_same_to_the_last_bit() -> None:
    engine, fresh = make_engine(), make_engine(max_tokens_per_pass=30)
    data = make_pairs(4)
    rows = pair_rows("a", data)
    wanted = refs(ran(engine, rows))
    assert engine.reference_logprobs.computed == len(rows)
    engine.optim_step("a", ADAM)
    assert refs(ran(engine, rows)) == wanted
    assert engine.reference_logprobs.computed == len(rows)
    # Neither on the neighbours, nor on how a pass is cut, nor on the order of pairs.
    for i in (2, 0, 3, 1):
        row = make_row("a", "ppo", 9, np.random.default_rng(i))
        found = fresh.train_rows([row, *rows[2 * i : 2 * i + 2]])
        assert refs([o for o in found if isinstance(o, RowOutput)]) == wanted[2 * i : 2 * i + 2]


def test_what_is_kept_is_bounded() -> None:
    engine = make_engine()
    engine.reference_logprobs._limit = 1500
    for seed in range(6):
        ran(engine, pair_rows("a", make_pairs(1, seed)))
    assert engine.reference_logprobs._bytes <= 1500
    assert 0 < len(engine.reference_logprobs._kept) < 6


@pytest.mark.row(90)
def test_a_pair_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = make_engine(), make_engine(max_tokens_per_pass=16)
    rows = [*pair_rows("a", make_pairs(5)), make_row("a", "ppo", 11, np.random.default_rng(0))]
    found, wanted = ran(cut, rows), ran(whole, rows)
    assert [o.loss for o in found] == pytest.approx([o.loss for o in wanted], rel=1e-5, abs=1e-6)
    grads = [engine.adapters.get("a").grad for engine in (cut, whole)]
    assert float((grads[0] - grads[1]).abs().max()) <= 1e-5 * float(grads[1].abs().max())


@pytest.mark.row(36, 90)
def test_a_bad_pair_fails_alone() -> None:
    engine = make_engine()
    good = make_pairs(2)
    outputs = engine.train_rows(pair_rows("a", [*good[:2], good[0], good[0], *good[2:]]))
    assert [isinstance(output, UserError) for output in outputs] == [False] * 2 + [True] * 2 + [False] * 2
    assert str(outputs[2]).startswith("data[1]: got 'the completion of data[0] once more'")
    (odd,) = engine.train_rows(pair_rows("a", good[:1]))
    assert "chosen and rejected in turn" in str(odd)


@pytest.mark.row(90)
def test_a_run_goes_on_with_the_reference_that_it_was_given(tmp_path: Path) -> None:
    engine = make_engine()
    named = save_reference(engine, tmp_path / "reference")
    data = make_pairs(2)
    base = refs(ran(engine, pair_rows("a", data)))
    other = refs(ran(engine, pair_rows("a", data, reference=named)))
    assert np.abs(np.array(other[0]) - np.array(base[0])).max() > 1e-3
    # Named by a row alone it is not the run's.
    assert refs(ran(engine, pair_rows("a", data))) == base
    engine.keep_reference("a", named)
    assert refs(ran(engine, pair_rows("a", data))) == other
    assert refs(ran(engine, pair_rows("a", data, reference="base"))) == base
    engine.keep_reference("a", "base")
    assert refs(ran(engine, pair_rows("a", data))) == base


@pytest.mark.row(90, 217)
def test_a_state_holds_its_reference(tmp_path: Path) -> None:
    engine = make_engine()
    named = save_reference(engine, tmp_path / "reference")
    engine.keep_reference("a", named)
    data = make_pairs(2)
    ran(engine, pair_rows("a", data))
    engine.optim_step("a", ADAM)
    engine.save_state("a", tmp_path / "state")
    wanted = ran(engine, pair_rows("a", data, backward=False))
    for file in Path(named).iterdir():
        file.unlink()

    later = load_engine(checkpoint("qwen3"))
    later.load_state("b", tmp_path / "state", LORA)
    found = ran(later, pair_rows("b", data, backward=False))
    assert [(o.loss, o.metrics) for o in found] == [(o.loss, o.metrics) for o in wanted]
    assert refs(found) == refs(wanted)
    # And the state of a run that went on from it, whose weights alone are loaded.
    later.save_state("b", tmp_path / "again")
    later.load_state("c", tmp_path / "again", LORA, optimizer=False)
    assert refs(ran(later, pair_rows("c", data))) == refs(wanted)
    # A state without one measures against the base.
    later.create_model("d", LORA)
    later.save_state("d", tmp_path / "plain")
    later.load_state("c", tmp_path / "plain", LORA)
    assert refs(ran(later, pair_rows("c", data))) == refs(ran(later, pair_rows("d", data)))


@pytest.mark.row(90)
def test_memory_of_references_comes_back(tmp_path: Path) -> None:
    engine = make_engine()
    names = [save_reference(engine, tmp_path / str(i), seed=i, rank=9 + i) for i in range(3)]
    data, before = make_pairs(1), engine.adapters.used
    for name in names:
        ran(engine, pair_rows("a", data, reference=name))
        engine.keep_reference("a", name)
    one = engine.adapters.used
    for name in names:
        ran(engine, pair_rows("a", data, reference=name))
        engine.keep_reference("a", name)
    assert engine.adapters.used == one > before
    engine.keep_reference("a", "base")
    ran(engine, pair_rows("a", data, reference="base"))
    assert engine.adapters.used == before
    engine.keep_reference("a", names[0])
    engine.remove_model("a")
    assert engine.adapters.used == 0


@pytest.mark.row(36, 90)
def test_references_that_cannot_be_loaded_fail_their_pairs_alone(tmp_path: Path) -> None:
    engine = make_engine()
    stranger = load_engine(make_checkpoint(tmp_path / "base", "qwen3", seed=5))
    named = save_reference(stranger, tmp_path / "stranger")
    data = make_pairs(1)
    rows = [
        *pair_rows("a", data, reference=named),
        *pair_rows("a", data, reference=str(tmp_path / "nowhere")),
        *pair_rows("a", data),
    ]
    outputs = engine.train_rows(rows)
    assert [isinstance(output, UserError) for output in outputs] == [True] * 4 + [False] * 2
    assert "checkpoint of base model" in str(outputs[0])
    assert "does not exist" in str(outputs[2])

    tight = make_engine(adapter_mb=1, host_adapter_mb=0)
    big = save_reference(load_engine(checkpoint("qwen3")), tmp_path / "big", rank=128)
    failed, *_ = tight.train_rows(pair_rows("a", data, reference=big))
    assert "TINSMITH_ADAPTER_MB" in str(failed)
    ran(tight, pair_rows("a", data))


def test_a_reference_gives_way_and_comes_back(tmp_path: Path) -> None:
    tight, roomy = make_engine(), make_engine()
    slot = tight.adapters.get("a").slot
    tight.memory.budget = slot.pool.slot_bytes + slot.state_bytes
    named, data = save_reference(roomy, tmp_path / "reference"), make_pairs(3)
    rows = pair_rows("a", data, reference=named)
    outputs = [refs(ran(engine, rows)) for engine in (tight, roomy)]
    assert outputs[0] == outputs[1]
    tight.keep_reference("a", named)
    roomy.keep_reference("a", named)
    for engine, place in ((tight, "tight"), (roomy, "roomy")):
        engine.optim_step("a", ADAM)
        engine.save_state("a", tmp_path / place)
    assert tight.memory.moves > 1
    for name in ("optimizer.safetensors", "reference_model.safetensors"):
        found = [load_file(tmp_path / place / name) for place in ("tight", "roomy")]
        assert all(torch.equal(tensor, found[0][key]) for key, tensor in found[1].items())
