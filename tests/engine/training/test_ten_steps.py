"""Ten optimizer steps of merged adapters equal those of a plain transformers + PEFT loop of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.training.test_parity import reference_loss, relative
from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.peft_reference import load_reference, reference_gradients, reference_logprobs
from tests.support.rows import LOSS_CASES, make_row
from tinsmith.engine.checkpoints.peft_layout import export_tensors
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig

STEPS = 10
ADAPTERS = {
    "r8": LoraConfig(rank=8),
    "r24": LoraConfig(rank=24, train_mlp=False, train_unembed=False),
    "r3": LoraConfig(rank=3, train_attn=False),
}
# Each with options of its own, so that one tenant's would show in another's weights.
ADAM = {
    "r8": AdamParams(learning_rate=1e-3, beta2=0.999, eps=1e-8),
    "r24": AdamParams(learning_rate=3e-3, beta1=0.8, eps=1e-6, weight_decay=0.1),
    "r3": AdamParams(learning_rate=1e-2, eps=1e-6, grad_clip_norm=0.5),
}
# Distance from float64: of losses (relative) and gradients (of their norm) at every step, and of what ten steps changed
# (of its norm). A step divides by the root of the second moment, which magnifies the rounding of small gradients.
BOUNDS = {"float64": (1e-9, 1e-9, 1e-9), "float32": (1e-4, 1e-3, 1e-3), "bfloat16": (0.1, 0.3, 0.3)}
# How far a logprob may be off; most in bfloat16 after steps of a learning rate of 1e-2.
NEAR = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 0.2}


def rows_of(step: int) -> list[TrainRow]:
    """Rows of all adapters, each with another loss at every step."""
    rng = np.random.default_rng(step)
    cases = list(LOSS_CASES)
    models = list(ADAPTERS)
    return [
        make_row(models[i % 3], cases[(step + i % 3 * 3) % len(cases)], n, rng)
        for i, n in enumerate((5, 33, 12, 40, 7, 20))
    ]


def away_from_bounds(row: TrainRow, case: str, logprobs: torch.Tensor, margin: float) -> TrainRow:
    """The row without positions whose ratio is so near a bound that rounding decides whether they have a gradient."""
    if case not in ("ppo", "gspo"):
        return row
    inputs = {name: data.to_numpy() for name, data in row.datum.loss_fn_inputs.items()}
    targets = torch.from_numpy(inputs["target_tokens"])
    log_ratio = logprobs.detach().gather(-1, targets[:, None])[:, 0].numpy() - inputs["logprobs"]
    if case == "gspo":
        log_ratio = np.full_like(log_ratio, log_ratio[inputs["sequence_ratio_mask"] != 0].mean())
    bounds = [np.log(LOSS_CASES[case][f"clip_{side}_threshold"]) for side in ("low", "high")]
    near = np.min([np.abs(log_ratio - bound) for bound in bounds], 0) < margin
    fields = {**inputs, "advantages": np.where(near, 0, inputs["advantages"]).astype(np.float32)}
    return replace(row, datum=Datum(row.datum.model_input, fields))


@pytest.mark.row(206)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:The following rank_pattern keys.*")
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("qwen3", d) for d in BOUNDS]
    + [pytest.param(f, "float64", marks=pytest.mark.slow) for f in FAMILIES if f != "qwen3"],
)
def test_ten_steps_equal_peft(family: str, dtype: str, tmp_path: Path) -> None:
    base = checkpoint(family)
    engine = load_engine(base, dtype=dtype)
    references, optimizers, firsts = {}, {}, {}
    for seed, (model_id, lora) in enumerate(ADAPTERS.items()):
        engine.create_model(model_id, lora)
        randomise_adapter(engine, model_id, seed)
        engine.save_sampler(model_id, tmp_path / model_id)
        references[model_id] = load_reference(base, tmp_path / model_id, torch.float64)
        adapter, adam = engine.adapters.get(model_id), ADAM[model_id]
        firsts[model_id] = export_tensors(adapter.master, adapter.slot.pool.layout, adapter.slot.rank)
        # The saved weights are in compute dtype; both sides begin with the master's.
        for name, weight in references[model_id].named_parameters():
            if weight.requires_grad:
                weight.data.copy_(firsts[model_id][name.replace(".default.", ".")])
        optimizers[model_id] = torch.optim.AdamW(
            [p for p in references[model_id].parameters() if p.requires_grad],
            lr=adam.learning_rate,
            betas=(adam.beta1, adam.beta2),
            eps=adam.eps,
            weight_decay=adam.weight_decay,
        )
    loss_bound, gradient_bound, update_bound = BOUNDS[dtype]
    for step in range(STEPS):
        rows = rows_of(step)
        places = {m: [i for i, row in enumerate(rows) if row.model_id == m] for m in references}
        # All rows of an adapter at one step have one loss.
        cases = {m: list(LOSS_CASES)[(step + mine[0] % 3 * 3) % len(LOSS_CASES)] for m, mine in places.items()}
        of_references = {
            m: reference_logprobs(reference, [rows[i].datum.model_input.to_ints() for i in places[m]])
            for m, reference in references.items()
        }
        for m, mine in places.items():
            for i, lp in zip(mine, of_references[m], strict=True):
                rows[i] = away_from_bounds(rows[i], cases[m], lp, NEAR[dtype])
        outputs = engine.train_rows(rows)
        for model_id, reference in references.items():
            adapter, layout = engine.adapters.get(model_id), engine.adapters.get(model_id).slot.pool.layout
            mine, case, logprobs = places[model_id], cases[model_id], of_references[model_id]
            losses = [reference_loss(case, lp, rows[i]) for lp, i in zip(logprobs, mine, strict=True)]
            torch.stack(losses).sum().backward()
            found_loss = sum(o.loss for i in mine if isinstance(o := outputs[i], RowOutput))
            scale = sum(abs(loss.item()) for loss in losses)
            assert abs(found_loss - sum(loss.item() for loss in losses)) <= loss_bound * scale
            found = export_tensors(adapter.grad, layout, adapter.slot.rank)
            together = [
                torch.cat([g[n].flatten().double() for n in sorted(g)]) for g in (found, reference_gradients(reference))
            ]
            assert relative(*together) <= gradient_bound, (step, model_id)
            if ADAM[model_id].grad_clip_norm:
                torch.nn.utils.clip_grad_norm_(reference.parameters(), ADAM[model_id].grad_clip_norm)
            optimizers[model_id].step()
            optimizers[model_id].zero_grad()
            engine.optim_step(model_id, ADAM[model_id])
    for model_id, reference in references.items():
        adapter = engine.adapters.get(model_id)
        moved = export_tensors(adapter.master, adapter.slot.pool.layout, adapter.slot.rank)
        wanted = {n.replace(".default.", "."): p.detach() for n, p in reference.named_parameters() if p.requires_grad}
        assert moved.keys() == wanted.keys()
        first = firsts[model_id]
        updates = [torch.cat([(w[n] - first[n]).flatten().double() for n in sorted(wanted)]) for w in (moved, wanted)]
        assert relative(*updates) <= update_bound, model_id
