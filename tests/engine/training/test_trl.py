"""Losses over pairs equal TRL's own on the same checkpoint, adapters and texts; so do the pairs that texts become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.pairs import pair_rows
from tests.support.peft_reference import load_reference, reference_gradients
from tinsmith import get_tokenizer
from tinsmith.client.training.preference_pairs import read_batch, render
from tinsmith.engine.checkpoints.peft_layout import export_tensors
from tinsmith.engine.jobs import RowOutput
from tinsmith.types.params import LoraConfig

# TRL takes its logprobs in float32, whatever the model computes in.
TOLERANCE = 1e-5
TEXTS = [
    {"prompt": "2+2=", "chosen": "4", "rejected": "five"},
    {"prompt": "The sky is ", "chosen": "blue today.", "rejected": "a lie."},
    {"prompt": "Name a colour: ", "chosen": "red", "rejected": "seventeen"},
]
CHATS = [
    {
        "prompt": [{"role": "user", "content": f"Say {word}."}],
        "chosen": [{"role": "assistant", "content": word}],
        "rejected": [{"role": "assistant", "content": f"I would rather not say {word}."}],
    }
    for word in ("yes", "no")
]


def trl_trainer(model: Any, base: Path, rows: list[dict[str, Any]], folder: Path, **options: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    return DPOTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )


# Slow for the sake of TRL's import alone.
@pytest.mark.slow
@pytest.mark.row(90, 203)
@pytest.mark.parametrize(
    ("family", "loss_fn", "beta", "rows"),
    [("llama", "dpo", 0.3, TEXTS), ("qwen3", "dpo", 0.1, CHATS), ("llama", "ipo", 0.2, TEXTS)],
    ids=["texts", "chats", "ipo"],
)
def test_loss_gradient_and_metrics_equal_trl(
    family: str, loss_fn: str, beta: float, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    base = checkpoint(family)
    engine = load_engine(base, dtype="float64")
    for seed, name in enumerate(("policy", "reference")):
        engine.create_model(name, LoraConfig(rank=4, train_unembed=False))
        randomise_adapter(engine, name, seed)
        engine.save_sampler(name, tmp_path / name)

    # TRL takes the adapter that it is given for the reference; after that the policy's weights are put in its place.
    model = load_reference(base, tmp_path / "reference", torch.float64)
    loss_type = {"dpo": "sigmoid", "ipo": "ipo"}[loss_fn]
    trainer = trl_trainer(model, base, rows, tmp_path / "trl", beta=beta, loss_type=[loss_type], max_length=None)
    set_peft_model_state_dict(trainer.model, load_file(tmp_path / "policy" / "adapter_model.safetensors"))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    told = {name: sum(values) / len(values) for name, values in trainer._metrics["eval"].items()}

    data = render(read_batch(rows, loss_fn), get_tokenizer(str(base)))  # type: ignore[arg-type]
    reference = str(tmp_path / "reference")
    outputs = engine.train_rows(pair_rows("policy", data, loss_fn, reference=reference, **{f"{loss_fn}_beta": beta}))
    assert all(isinstance(output, RowOutput) for output in outputs), outputs
    assert sum(output.loss for output in outputs) / len(rows) == pytest.approx(loss.item(), rel=TOLERANCE)
    if loss_fn == "dpo":
        for ours, theirs in (("chosen_reward", "chosen"), ("margin", "margins"), ("accuracy", "accuracies")):
            mean = sum(output.metrics[f"{ours}:mean"] for output in outputs) / len(outputs)
            assert mean == pytest.approx(told[f"rewards/{theirs}"], rel=TOLERANCE)
    adapter = engine.adapters.get("policy")
    found = export_tensors(adapter.grad, adapter.slot.pool.layout, adapter.slot.rank)
    wanted = reference_gradients(trainer.model)
    for name, gradient in found.items():
        # TRL has the mean over the pairs.
        difference = (gradient - len(rows) * wanted[name]).norm() / gradient.norm()
        assert difference <= TOLERANCE, name
