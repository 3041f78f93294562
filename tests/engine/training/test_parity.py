"""The engine's losses and gradients equal those of plain transformers and PEFT in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.peft_reference import load_reference, reference_gradients, reference_logprobs
from tests.support.rows import LOSS_CASES, make_row
from tinsmith.engine.checkpoints.peft_layout import export_tensors
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.params import LoraConfig

# Ranks of several buckets, one of them no power of two; one adapter leaves modules out.
ADAPTERS = {
    "r8": LoraConfig(rank=8),
    "r4": LoraConfig(rank=4),
    "r24": LoraConfig(rank=24, train_mlp=False),
    "head": LoraConfig(rank=3, train_attn=False),
}
TOLERANCE = 1e-9


def reference_loss(case: str, logprobs: Tensor, row: TrainRow) -> Tensor:
    """The formulas of the protocol reference, written out naively for one row."""
    inputs = {k: torch.from_numpy(v.to_numpy().copy()) for k, v in row.datum.loss_fn_inputs.items()}
    targets = inputs["target_tokens"].reshape(len(logprobs), -1)
    lp = logprobs.gather(-1, targets).reshape(inputs["target_tokens"].shape)
    if case.startswith("cross_entropy"):
        return -(inputs["weights"].double() * lp).sum()
    q, advantage = inputs["logprobs"].double(), inputs["advantages"].double()
    ratio = (lp - q).exp()
    low, high = (float(LOSS_CASES[case].get(f"clip_{side}_threshold", 0)) for side in ("low", "high"))
    if case == "importance_sampling":
        return -(ratio * advantage).sum()
    if case == "ppo":
        return -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage).sum()
    if case == "cispo":
        return -(ratio.clamp(low, high).detach() * lp * advantage).sum()
    on = advantage != 0
    if case == "gspo":
        masked = inputs["sequence_ratio_mask"] != 0
        s = (lp.detach() - q)[masked].mean().exp() * (lp - lp.detach()).exp()
        return -torch.minimum(s * advantage, s.clamp(low, high) * advantage).sum()
    if case == "stable_reinforce":
        penalty = torch.where(
            ratio < high, ratio - 1 - (lp - q), high - 1 - (lp - q) + high * ((lp - q) - np.log(high))
        )
        kl_coeff = float(LOSS_CASES[case]["kl_coeff"])
        return (-ratio.clamp(max=high).detach() * lp * advantage + kl_coeff * penalty)[on].sum()
    assert case == "dro"
    return -((lp * advantage - 0.5 * float(LOSS_CASES[case]["beta"]) * (lp - q) ** 2)[on]).sum()


def make_rows(case: str) -> list[TrainRow]:
    rng = np.random.default_rng(7)
    lengths = (5, 33, 1, 12, 60, 7, 20, 2)
    return [make_row(list(ADAPTERS)[i % len(ADAPTERS)], case, n, rng) for i, n in enumerate(lengths)]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-300))


# The last one's adapters leave the output projection out, whose gradient then comes with the forward pass.
@pytest.fixture(scope="module", params=[*FAMILIES, f"{FAMILIES[0]}, no head"])
def engine_and_base(request: pytest.FixtureRequest) -> tuple[Engine, Path]:
    family, _, no_head = request.param.partition(", ")
    tied = family == "qwen3"
    base = checkpoint(family, tied)
    engine = load_engine(base, dtype="float64")
    for seed, (model_id, lora) in enumerate(ADAPTERS.items()):
        engine.create_model(model_id, lora.model_copy(update={"train_unembed": not no_head}))
        randomise_adapter(engine, model_id, seed)
    return engine, base


@pytest.mark.row(1, 4, 12, 62, 203, 206)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
@pytest.mark.parametrize("case", LOSS_CASES)
def test_losses_and_gradients_equal_peft(engine_and_base: tuple[Engine, Path], case: str, tmp_path: Path) -> None:
    engine, base = engine_and_base
    rows = make_rows(case)
    outputs = engine.train_rows(rows)
    for model_id in ADAPTERS:
        engine.save_sampler(model_id, tmp_path / model_id)
        reference = load_reference(base, tmp_path / model_id, torch.float64)
        mine = [i for i, row in enumerate(rows) if row.model_id == model_id]
        logprobs = reference_logprobs(reference, [rows[i].datum.model_input.to_ints() for i in mine])
        losses = [reference_loss(case, lp, rows[i]) for lp, i in zip(logprobs, mine, strict=True)]
        torch.stack(losses).sum().backward()
        for i, wanted, lp in zip(mine, losses, logprobs, strict=True):
            output = outputs[i]
            assert isinstance(output, RowOutput), output
            assert output.loss == pytest.approx(wanted.item(), rel=TOLERANCE)
            targets = torch.from_numpy(rows[i].datum.loss_fn_inputs["target_tokens"].to_numpy())
            wanted_lp = lp.detach().gather(-1, targets.reshape(len(lp), -1)).reshape(targets.shape)
            assert relative(torch.from_numpy(output.logprobs), wanted_lp) <= TOLERANCE
        adapter = engine.adapters.get(model_id)
        found = export_tensors(adapter.grad, adapter.slot.pool.layout, adapter.slot.rank)
        wanted_gradients = reference_gradients(reference)
        assert found.keys() == wanted_gradients.keys()
        for name, gradient in wanted_gradients.items():
            assert relative(found[name], gradient) <= TOLERANCE, name
        engine.clear_gradients(model_id)
