"""The two sides of `benchmarks.engine`: our engine, and the loop one would write with plain transformers + PEFT.

Both start from the same checkpoint and the same adapter weights and compute the same loss, which is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams

ADAM = AdamParams(learning_rate=1e-4)
Batch = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Job:
    """What both sides work on.

    Attributes:
        model: folder or hub id of the base model.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: of the base model and the computation.
        rank: of every adapter.
        adapters: how many there are.
        scratch: folder for the adapters that start both sides.
    """

    model: str
    device: str
    dtype: str
    rank: int
    adapters: int
    scratch: Path

    @property
    def names(self) -> list[str]:
        """The adapters' names."""
        return [f"adapter{i}" for i in range(self.adapters)]

    def folder(self, name: str) -> Path:
        """Where an adapter's first weights lie."""
        return self.scratch / name


class Contestant(Protocol):
    """One side."""

    system: str

    def train(self, batches: dict[str, Batch]) -> dict[str, float]:
        """One optimizer step of each adapter on its batch of sequences; return each one's summed loss."""
        ...

    def sample(self, prompts: Batch, samples: int, max_tokens: int) -> int:
        """Sample at temperature 1, never stopping early; return the number of tokens."""
        ...


class TinsmithEngine:
    """The engine by itself: no service, no scheduler."""

    def __init__(self, job: Job, *, batch_invariant: bool = False) -> None:
        self.system = "batch_invariant" if batch_invariant else "tinsmith engine"
        settings = Settings(max_decode_batch=512, batch_invariant=batch_invariant)
        self._engine = Engine.load("benchmark", job.model, job.device, job.dtype, settings)
        self._samples = 0
        for seed, name in enumerate(job.names):
            self._engine.create_model(name, LoraConfig(rank=job.rank, seed=seed))
            self._engine.save_sampler(name, job.folder(name))
        self._engine.load_sampler("sampler", job.folder(job.names[0]))

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._engine.info.vocab_size

    def train(self, batches: dict[str, Batch]) -> dict[str, float]:
        """All adapters in one packed pass, then a step of each."""
        rows = [
            TrainRow(name, Datum(tokens=ids[:-1], targets=list(ids[1:])), "cross_entropy", {}, True)
            for name, batch in batches.items()
            for ids in batch
        ]
        losses = dict.fromkeys(batches, 0.0)
        for row, output in zip(rows, self._engine.train_rows(rows), strict=True):
            if isinstance(output, Exception):
                raise output
            losses[row.model_id] += output.loss
        for name in batches:
            self._engine.optim_step(name, ADAM)
        return losses

    def sample(self, prompts: Batch, samples: int, max_tokens: int) -> int:
        """All prompts at once."""
        for number, prompt in enumerate(prompts):
            self._samples += 1
            params = SamplingParams(max_tokens=max_tokens, seed=number, stop=[])
            job = SampleJob(
                request_id=f"job{self._samples}",
                sampler_id="sampler",
                prompt=list(prompt),
                num_samples=samples,
                params=params,
            )
            self._engine.sampler.add(job)
        tokens = 0
        while self._engine.sampler.has_work:
            for _, response in self._engine.sampler.step():
                if isinstance(response, Exception):
                    raise response
                tokens += sum(len(sequence.tokens) for sequence in response.sequences)
        return tokens


class TransformersPeft:
    """The usual loop: one padded batch, cross entropy on the logits, AdamW; adapters take turns."""

    system = "transformers + PEFT"

    def __init__(self, job: Job) -> None:
        self._device = torch.device(job.device)
        base = AutoModelForCausalLM.from_pretrained(
            job.model, dtype=getattr(torch, job.dtype), attn_implementation="sdpa"
        ).to(self._device)
        first, *others = job.names
        self._model = PeftModel.from_pretrained(base, job.folder(first), adapter_name=first, is_trainable=True)
        for name in others:
            self._model.load_adapter(job.folder(name), name, is_trainable=True)
        self._optimizers = {name: self._optimizer(name) for name in job.names}
        self._model.set_adapter(first)
        self._first = first

    def _optimizer(self, name: str) -> torch.optim.AdamW:
        self._model.set_adapter(name)
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        betas = (ADAM.beta1, ADAM.beta2)
        return torch.optim.AdamW(parameters, ADAM.learning_rate, betas, ADAM.eps, ADAM.weight_decay)

    def train(self, batches: dict[str, Batch]) -> dict[str, float]:
        """A step of each adapter, one after another."""
        losses = {}
        for name, batch in batches.items():
            if len(self._optimizers) > 1:
                self._model.set_adapter(name)
            ids, mask = self._padded(batch)
            logits = self._model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1]).logits
            targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            loss.backward()
            self._optimizers[name].step()
            self._optimizers[name].zero_grad()
            losses[name] = loss.item()
        return losses

    def _padded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids and mask, both [sequences, longest]; padding on the right."""
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros((len(batch), longest), np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)

    @torch.no_grad()
    def sample(self, prompts: Batch, samples: int, max_tokens: int) -> int:
        """`generate` on one batch of prompts of equal length, with its KV cache."""
        self._model.set_adapter(self._first)
        ids, mask = self._padded(prompts)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=samples,
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            pad_token_id=0,
        )
        return int(out.shape[0] * (out.shape[1] - ids.shape[1]))
