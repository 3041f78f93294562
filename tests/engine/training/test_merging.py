"""A tenant's results do not depend on its neighbours, not even on neighbours that fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints import DENSE_FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import LOSS_CASES, make_row
from tinsmith.engine.adapters.slots import PassGradients, Slot
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model import attention
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.types.errors import UserError
from tinsmith.types.params import AdamParams, LoraConfig

RANKS = {"a": 8, "b": 32, "c": 5}


def make_engine(family: str = "qwen3", **settings: Any) -> Engine:
    engine = load_engine(checkpoint(family), **settings)
    for seed, (model_id, rank) in enumerate(RANKS.items()):
        engine.create_model(model_id, LoraConfig(rank=rank))
        randomise_adapter(engine, model_id, seed)
    return engine


def make_rows(seed: int = 0) -> list[TrainRow]:
    rng = np.random.default_rng(seed)
    cases = list(LOSS_CASES)
    return [make_row("abc"[i % 3], cases[i % len(cases)], n, rng) for i, n in enumerate((3, 40, 17, 9, 28, 5, 64))]


def losses(outputs: list[RowOutput | Exception]) -> np.ndarray:
    return np.array([o.loss if isinstance(o, RowOutput) else np.nan for o in outputs])


def difference(found: torch.Tensor | np.ndarray, wanted: torch.Tensor | np.ndarray) -> float:
    found, wanted = torch.as_tensor(found), torch.as_tensor(wanted)
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.row(2, 207)
@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_alone_equals_merged(family: str) -> None:
    merged, alone = make_engine(family), make_engine(family)
    rows = make_rows()
    outputs = merged.train_rows(rows)
    for model_id in RANKS:
        mine = [i for i, row in enumerate(rows) if row.model_id == model_id]
        own = alone.train_rows([rows[i] for i in mine])
        for i, output in zip(mine, own, strict=True):
            together = outputs[i]
            assert isinstance(together, RowOutput)
            assert isinstance(output, RowOutput)
            assert difference(together.logprobs, output.logprobs) <= 1e-6
            assert together.loss == pytest.approx(output.loss, rel=1e-5)
        a, b = merged.adapters.get(model_id), alone.adapters.get(model_id)
        for place in a.slot.pool.layout.places.values():
            assert difference(place.a(a.grad), place.a(b.grad)) <= 1e-6
            assert difference(place.b(a.grad), place.b(b.grad)) <= 1e-6


@pytest.mark.row(207)
def test_forty_tenants_in_one_pass_get_what_each_gets_alone() -> None:
    """Of a tensor's largest entry 1e-6, however many neighbours there are, on kernels whose sums keep an order.

    What is left is rounding, not a leak: in float64 the same comparison gives 1e-13. Of a gradient's own rounding in
    float32, up to 3e-6 of the largest entry of a tensor (q_proj and k_proj, whose gradients are small differences of
    large terms), merging changes a fifth at most, here. Kernels that choose their order of summation by the number of
    rows, as those for AVX-512 and AMX do, may change all of it: so the bound there is the rounding itself, 1e-5. The
    batch-invariant mode has no difference at all.
    """
    ranks = {f"m{i}": (8, 32, 5, 16)[i % 4] for i in range(40)}
    found = {}
    for dtype in ("float32", "float64"):
        merged, alone = (load_engine(checkpoint("llama"), dtype=dtype) for _ in range(2))
        for engine in (merged, alone):
            for seed, (model_id, rank) in enumerate(ranks.items()):
                engine.create_model(model_id, LoraConfig(rank=rank))
                randomise_adapter(engine, model_id, seed)
        rng, cases = np.random.default_rng(0), list(LOSS_CASES)
        rows = [make_row(f"m{i % 40}", cases[i * 7 % len(cases)], 3 + i * 5 % 48, rng) for i in range(80)]
        assert all(isinstance(output, RowOutput) for output in merged.train_rows(rows))
        worst = 0.0
        for model_id in ranks:
            alone.train_rows([row for row in rows if row.model_id == model_id])
            a, b = merged.adapters.get(model_id), alone.adapters.get(model_id)
            for place in a.slot.pool.layout.places.values():
                worst = max(worst, *(difference(part(a.grad), part(b.grad)) for part in (place.a, place.b)))
        found[dtype] = worst
    assert found["float64"] <= 1e-12
    assert found["float32"] <= (1e-6 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 1e-5)


def test_an_adapter_on_the_head_alone_costs_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    head, whole = (load_engine(checkpoint("qwen3"), dtype="float64") for _ in range(2))
    needed: list[bool] = []
    hidden = BaseModel.hidden

    def watched(self: BaseModel, *args: Any) -> torch.Tensor:
        found = hidden(self, *args)
        needed.append(found.requires_grad)
        return found

    monkeypatch.setattr(BaseModel, "hidden", watched)
    for engine, other in ((head, False), (whole, True)):
        engine.create_model("a", LoraConfig(rank=8, train_attn=other, train_mlp=other))
        for place in engine.adapters.get("a").slot.pool.layout.places.values():
            place.b(engine.adapters.get("a").master).fill_(0.01 if place.target.kind == "unembed" else 0)
        engine.adapters.get("a").publish()
        engine.train_rows([make_row("a", "cross_entropy", 20, np.random.default_rng(0))])
    assert needed == [False, True]
    a, b = (engine.adapters.get("a") for engine in (head, whole))
    place, same = (each.slot.pool.layout.places["lm_head"] for each in (a, b))
    assert a.grad.any()
    torch.testing.assert_close(place.b(a.grad), same.b(b.grad), rtol=1e-9, atol=1e-12)


def test_micro_batches_and_small_chunks_change_nothing() -> None:
    whole, cut = make_engine(), make_engine(max_tokens_per_pass=50)
    cut._chunk = 7
    rows = make_rows()
    assert difference(losses(cut.train_rows(rows)), losses(whole.train_rows(rows))) <= 1e-6
    for model_id in RANKS:
        found, wanted = cut.adapters.get(model_id).grad, whole.adapters.get(model_id).grad
        assert difference(found, wanted) <= 1e-6


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_recomputed_activations_change_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, recomputed = make_engine(family), make_engine(family, activation_checkpointing=True)
    calls = count_calls(monkeypatch)
    wanted = losses(plain.train_rows(make_rows()))
    once = len(calls)
    assert difference(losses(recomputed.train_rows(make_rows())), wanted) <= 1e-6
    assert len(calls) == 3 * once
    for model_id in RANKS:
        found, grad = recomputed.adapters.get(model_id).grad, plain.adapters.get(model_id).grad
        assert difference(found, grad) <= 1e-6


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows by one with every attention that is computed."""
    calls: list[None] = []

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(None)
        return packed_attention(*args, **options)

    monkeypatch.setattr(attention, "packed_attention", counted)
    return calls


def test_bfloat16_stays_near() -> None:
    wide, half = load_engine(checkpoint("qwen3_moe")), load_engine(checkpoint("qwen3_moe"), dtype="bfloat16")
    rows = [make_row("a", "cross_entropy", n, np.random.default_rng(n)) for n in (30, 50)]
    for engine in (wide, half):
        engine.create_model("a", LoraConfig(rank=8))
        randomise_adapter(engine, "a", 0)
    found, wanted = half.train_rows(rows), wide.train_rows(rows)
    assert difference(losses(found), losses(wanted)) <= 0.03
    a, b = half.adapters.get("a"), wide.adapters.get("a")
    assert a.grad.dtype == a.master.dtype == torch.float32
    assert a.slot.flat.dtype == torch.bfloat16
    assert all(isinstance(o, RowOutput) and o.logprobs.dtype == np.float32 for o in found)
    assert float((a.grad - b.grad).norm() / b.grad.norm()) <= 0.2


def test_forward_rows_leave_no_gradient() -> None:
    engine = make_engine()
    rows = make_rows()
    forward = [TrainRow(r.model_id, r.datum, r.loss_fn, r.loss_fn_config, r.model_id == "b") for r in rows]
    wanted = losses(engine.train_rows(rows))
    for model_id in RANKS:
        engine.clear_gradients(model_id)
    assert difference(losses(engine.train_rows(forward)), wanted) <= 1e-6
    assert not engine.adapters.get("a").grad.any()
    assert not engine.adapters.get("a").has_gradients
    assert engine.adapters.get("b").grad.any()


def test_gradients_add_up_until_the_step() -> None:
    engine = make_engine()
    rows = [r for r in make_rows() if r.model_id == "b"]
    engine.train_rows(rows)
    once = engine.adapters.get("b").grad.clone()
    engine.train_rows(rows)
    assert difference(engine.adapters.get("b").grad, 2 * once) <= 1e-6
    engine.optim_step("b", AdamParams())
    assert not engine.adapters.get("b").grad.any()


@pytest.mark.row(4)
def test_rows_without_weight_cost_nothing_and_change_nothing() -> None:
    engine = make_engine()
    rng = np.random.default_rng(0)
    rows = [
        make_row("a", "cross_entropy", 12, rng, weights=np.zeros(12, np.float32)),
        make_row("b", "cross_entropy_2d", 3, rng, target_tokens=np.zeros((3, 0), np.int64), weights=np.zeros((3, 0))),
    ]
    for some in (rows, rows[1:]):
        assert losses(engine.train_rows(some)).tolist() == [0.0] * len(some)
    assert not engine.adapters.get("a").grad.any()
    assert not engine.adapters.get("b").grad.any()


@pytest.mark.row(36)
def test_bad_rows_fail_alone() -> None:
    engine, calm = make_engine(), make_engine()
    good = make_rows()
    bad = [
        make_row("a", "cross_entropy", 4, np.random.default_rng(1), target_tokens=np.array([1, 2, 3, 99999])),
        make_row("a", "ppo", 4, np.random.default_rng(1), advantages=np.array([1, np.nan, 0, 0], np.float32)),
        make_row("a", "cross_entropy", 4, np.random.default_rng(1), weights=np.ones(3, np.float32)),
        make_row("nobody", "cross_entropy", 4, np.random.default_rng(1)),
        TrainRow("b", good[0].datum, "no_such_loss", {}, True),
        TrainRow("b", good[0].datum, "cross_entropy", {"no_such_key": 1.0}, True),
        make_row("c", "cross_entropy", 2000, np.random.default_rng(1)),
    ]
    outputs = engine.train_rows([*bad, *good])
    wanted = ("99999", "nan", "[3]", "nobody", "no_such_loss", "no_such_key", "context length 1024")
    for output, part in zip(outputs, wanted, strict=False):
        assert isinstance(output, UserError)
        assert part in output.message
    assert difference(losses(outputs[len(bad) :]), losses(calm.train_rows(good))) <= 1e-6
    for model_id in RANKS:
        found, calm_grad = engine.adapters.get(model_id).grad, calm.adapters.get(model_id).grad
        assert difference(found, calm_grad) <= 1e-6


@pytest.mark.row(36)
def test_a_failing_backward_leaves_no_partial_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calm = make_engine(), make_engine()
    rows = make_rows()
    guilty = engine.adapters.get("b").slot
    views = PassGradients.views

    def fail_late(self: PassGradients, slot: Slot, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if slot is guilty and name.startswith("model.layers.0."):
            raise MemoryError("out of memory")
        return views(self, slot, name)

    monkeypatch.setattr(PassGradients, "views", fail_late)
    outputs = engine.train_rows(rows)
    monkeypatch.undo()
    assert [isinstance(o, MemoryError) for o in outputs] == [r.model_id == "b" for r in rows]
    assert not engine.adapters.get("b").grad.any()
    calm.train_rows(rows)
    for model_id in ("a", "c"):
        assert difference(engine.adapters.get(model_id).grad, calm.adapters.get(model_id).grad) <= 1e-6
    engine.train_rows(rows)
    assert difference(engine.adapters.get("b").grad, calm.adapters.get("b").grad) <= 1e-6


def test_a_diverged_neighbour_disturbs_nobody() -> None:
    engine, calm = make_engine(), make_engine()
    engine.adapters.get("b").master.fill_(float("nan"))
    engine.adapters.get("b").publish()
    rows = make_rows()
    outputs = engine.train_rows(rows)
    found, wanted = losses(outputs), losses(calm.train_rows(rows))
    mine = np.array([r.model_id != "b" for r in rows])
    assert difference(found[mine], wanted[mine]) <= 1e-6
    for model_id in ("a", "c"):
        assert difference(engine.adapters.get(model_id).grad, calm.adapters.get(model_id).grad) <= 1e-6
    for row, output in zip(rows, outputs, strict=True):
        assert isinstance(output, UserError) == (row.model_id == "b")
        assert not isinstance(output, UserError) or "got a loss of nan, expected a finite number" in output.message
        assert not isinstance(output, UserError) or "weights that have diverged" in output.message
    assert not engine.adapters.get("b").grad.any()


ONES = np.ones(8, np.float32)
# Sound each by itself, together too large: of the loss, of its slope, of both.
INFINITE: dict[str, tuple[str, dict[str, Any]]] = {
    "a ratio": ("importance_sampling", {"logprobs": -200 * ONES, "advantages": ONES}),
    "a ratio that nothing bounds": ("ppo", {"logprobs": -200 * ONES, "advantages": -ONES}),
    "a row's ratio": ("gspo", {"logprobs": -200 * ONES, "advantages": -ONES}),
    "a square": ("dro", {"logprobs": 1e25 * ONES, "advantages": ONES}),
    "an advantage": ("ppo", {"logprobs": -6 * ONES, "advantages": 3e38 * ONES}),
    "weights": ("cross_entropy", {"weights": 3e38 * ONES}),
    "weights that cancel": ("cross_entropy", {"weights": 1e38 * ONES * (-1) ** np.arange(8, dtype=np.float32)}),
}


@pytest.mark.row(36)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("case", INFINITE)
def test_a_row_with_an_infinite_loss_fails_alone(case: str, exact: bool) -> None:
    loss_fn, inputs = INFINITE[case]
    engine, calm = (make_engine(batch_invariant=exact) for _ in range(2))
    good = make_rows()
    bad = make_row("b", loss_fn, 8, np.random.default_rng(2), **inputs)
    outputs = engine.train_rows([*good[:3], bad, *good[3:]])
    failed = outputs.pop(3)
    assert isinstance(failed, UserError)
    assert f"{loss_fn}: got a loss of " in failed.message
    wanted = calm.train_rows(good)
    assert difference(losses(outputs), losses(wanted)) <= 1e-6
    # The neighbours' gradients, and those of the other rows of its own model.
    for model_id in RANKS:
        found, calm_grad = engine.adapters.get(model_id).grad, calm.adapters.get(model_id).grad
        assert difference(found, calm_grad) <= 1e-6
        assert not exact or torch.equal(found, calm_grad)
        engine.optim_step(model_id, AdamParams())
