"""Losses over pairs, their gradients and metrics equal those of plain transformers and PEFT in float64."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from peft import PeftModel
from torch import Tensor

from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.examples import examples
from tests.support.pairs import float64_throughout, make_pair, pair_rows
from tests.support.peft_reference import load_reference, reference_gradients, reference_logprobs
from tinsmith.engine.checkpoints.peft_layout import export_tensors
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ForwardContext
from tinsmith.types.params import LoraConfig

TOLERANCE = 1e-9
ADAPTERS = {"r8": LoraConfig(rank=8), "r3": LoraConfig(rank=3, train_unembed=False)}

# Loss, options, and whether the reference is a saved adapter.
CASES = {
    "dpo": ("dpo", {"dpo_beta": 0.3}, False),
    "dpo_saved": ("dpo", {"dpo_beta": 0.1}, True),
    "dpo_smoothed": ("dpo", {"label_smoothing": 0.2, "nll_coeff": 0.7}, True),
    "ipo": ("ipo", {"ipo_beta": 0.2}, True),
    "simpo": ("simpo", {"simpo_beta": 2.5, "simpo_gamma": 0.8}, False),
}


@pytest.fixture(scope="module", params=[(f, f == "qwen3") for f in FAMILIES], ids=lambda p: p[0])
def engine_and_base(request: pytest.FixtureRequest) -> tuple[Engine, Path]:
    base = checkpoint(*request.param)
    engine = load_engine(base, dtype="float64")
    for seed, (model_id, lora) in enumerate(ADAPTERS.items()):
        engine.create_model(model_id, lora)
        randomise_adapter(engine, model_id, seed)
    return engine, base


def target_sums(model: PeftModel, rows: list[TrainRow]) -> tuple[Tensor, Tensor]:
    """Return the weighted sum and mean of the target logprobs of each row."""
    sums, means = [], []
    logprobs = reference_logprobs(model, [row.datum.model_input.to_ints() for row in rows])
    for row, lp in zip(rows, logprobs, strict=True):
        inputs = {k: torch.from_numpy(v.to_numpy().copy()) for k, v in row.datum.loss_fn_inputs.items()}
        picked = lp.gather(-1, inputs["target_tokens"][:, None])[:, 0]
        sums.append((picked * inputs["weights"]).sum())
        means.append(sums[-1] / inputs["weights"].sum())
    return torch.stack(sums), torch.stack(means)


def naive(case: str, policy: tuple[Tensor, Tensor], ref: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and rewards of each pair, as the papers have them."""
    loss_fn, config, _ = CASES[case]
    sums, means = policy
    if loss_fn == "simpo":
        chosen, rejected = config["simpo_beta"] * means[0::2], config["simpo_beta"] * means[1::2]
        return -torch.log(torch.sigmoid(chosen - rejected - config["simpo_gamma"])), chosen, rejected
    beta = config.get(f"{loss_fn}_beta", 0.1)
    ratios = means - ref[1] if loss_fn == "ipo" else sums - ref[0]
    h = ratios[0::2] - ratios[1::2]
    if loss_fn == "ipo":
        return (h - 1 / (2 * beta)) ** 2, beta * ratios[0::2], beta * ratios[1::2]
    share = config.get("label_smoothing", 0.0)
    loss = -(1 - share) * torch.log(torch.sigmoid(beta * h)) - share * torch.log(torch.sigmoid(-beta * h))
    return loss - config.get("nll_coeff", 0.0) * means[0::2], beta * ratios[0::2], beta * ratios[1::2]


@pytest.mark.row(90, 91, 95, 203)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
@pytest.mark.parametrize("case", CASES)
def test_losses_over_pairs_equal_their_formulas(
    engine_and_base: tuple[Engine, Path], case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    float64_throughout(monkeypatch)
    engine, base = engine_and_base
    loss_fn, config, saved_reference = CASES[case]
    rng = np.random.default_rng(5)
    lengths = [(4, 6, 9), (20, 1, 3), (1, 12, 2), (33, 8, 8)]
    rows: list[TrainRow] = []
    for i, pair in enumerate(lengths):
        model_id = list(ADAPTERS)[i % 2]
        named = str(tmp_path / f"{model_id}-reference") if saved_reference else None
        rows += pair_rows(model_id, make_pair(rng, *pair), loss_fn, reference=named, **config)
    if saved_reference:
        for seed, model_id in enumerate(ADAPTERS):
            engine.create_model("other", LoraConfig(rank=5))
            randomise_adapter(engine, "other", 50 + seed)
            engine.save_sampler("other", tmp_path / f"{model_id}-reference")
            engine.remove_model("other")
    outputs = engine.train_rows(rows)
    for model_id in ADAPTERS:
        engine.save_sampler(model_id, tmp_path / model_id)
        mine = [row for row in rows if row.model_id == model_id]
        policy = load_reference(base, tmp_path / model_id, torch.float64)
        with torch.no_grad():
            if saved_reference:
                ref_model = load_reference(base, tmp_path / f"{model_id}-reference", torch.float64, trainable=False)
                ref = target_sums(ref_model, mine)
            else:
                with policy.disable_adapter():
                    ref = target_sums(policy, mine)
        losses, chosen, rejected = naive(case, target_sums(policy, mine), ref)
        losses.sum().backward()
        found = [o for row, o in zip(rows, outputs, strict=True) if row.model_id == model_id]
        assert all(isinstance(o, RowOutput) for o in found), found
        assert [o.loss for o in found[0::2]] == pytest.approx(losses.tolist(), rel=TOLERANCE)
        assert [o.loss for o in found[1::2]] == [0.0] * len(losses)
        for i, output in enumerate(found):
            c, r = chosen[i // 2].item(), rejected[i // 2].item()
            wanted = {"accuracy": float(c > r), "margin": c - r, "chosen_reward": c, "rejected_reward": r}
            assert output.metrics == pytest.approx({f"{k}:mean": v for k, v in wanted.items()}, rel=TOLERANCE)
            if loss_fn == "simpo":
                assert output.ref_logprobs is None
            else:
                weights = mine[i].datum.loss_fn_inputs["weights"].to_numpy()
                assert (output.ref_logprobs * weights).sum() == pytest.approx(ref[0][i].item(), rel=TOLERANCE)
        adapter = engine.adapters.get(model_id)
        gradients = export_tensors(adapter.grad, adapter.slot.pool.layout, adapter.slot.rank)
        wanted_gradients = reference_gradients(policy)
        assert gradients.keys() == wanted_gradients.keys()
        for name, gradient in wanted_gradients.items():
            difference = (gradients[name] - gradient).norm() / gradient.norm().clamp_min(1e-300)
            assert difference <= TOLERANCE, name
        engine.clear_gradients(model_id)


@st.composite
def _pairs(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    return draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3))


@pytest.mark.row(90)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_prompt_that_is_computed_once_counts_as_two(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch)
    engine = load_engine(checkpoint(family), dtype="float64")
    engine.create_model("a", LoraConfig(rank=4))
    randomise_adapter(engine, "a", 1)
    tokens: list[int] = []
    hidden = BaseModel.hidden

    def counted(self: BaseModel, input_ids: Tensor, context: ForwardContext) -> Tensor:
        tokens.append(input_ids.numel())
        return hidden(self, input_ids, context)

    def run(rows: list[TrainRow]) -> tuple[list[RowOutput], Tensor, int]:
        tokens.clear()
        outputs = [output for output in engine.train_rows(rows) if isinstance(output, RowOutput)]
        gradient = engine.adapters.get("a").grad.clone()
        engine.clear_gradients("a")
        return outputs, gradient, tokens[-1]

    monkeypatch.setattr(BaseModel, "hidden", counted)

    @examples(12)
    @given(_pairs(), st.integers(0, 99))
    def check(lengths: list[tuple[int, int, int]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = [row for pair in lengths for row in pair_rows("a", make_pair(rng, *pair))]
        shared, gradient, once = run(rows)
        # Their reference logprobs are to be computed anew, too.
        engine.reference_logprobs._kept.clear()
        with monkeypatch.context() as patch:
            patch.setattr("tinsmith.engine.engine.share_prompt", lambda unit: unit)
            whole, wanted, twice = run(rows)
        # All of a prompt but its last token, whose target each row has for itself.
        assert twice - once == sum(prompt - 1 for prompt, _, _ in lengths)
        for one, other in zip(shared, whole, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=TOLERANCE)
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=TOLERANCE)
            np.testing.assert_allclose(one.ref_logprobs, other.ref_logprobs, rtol=TOLERANCE)
        assert float((gradient - wanted).norm() / wanted.norm()) <= TOLERANCE

    check()
