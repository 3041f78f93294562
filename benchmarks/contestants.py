"""The two sides of `benchmarks.engine`: our engine, and the loop one would write with plain transformers + PEFT.

Both start from the same checkpoint and the same adapter weights and compute the same loss, which is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampleJob, TrainRow
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.params import AdamParams, LoraConfig, SamplingParams

ADAM = AdamParams(learning_rate=1e-4)
Batch = Sequence[Sequence[int]]
# Rows of a batch of `generate` that is refilled only when all of them have ended.
STATIC = 16
# Fills rows that have ended; no prompt of a benchmark holds it, and a sample of it would go uncounted once in V tokens.
_PAD = 0


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


@dataclass(frozen=True)
class Request:
    """One of many samples with lengths of their own.

    Attributes:
        prompt: token ids.
        max_tokens: at most so many are sampled.
        stop: ids that end it; they count.
        adapter: number of the adapter that it is drawn from.
        samples: completions of the prompt.
    """

    prompt: Sequence[int]
    max_tokens: int
    stop: tuple[int, ...] = ()
    adapter: int = 0
    samples: int = 1


class Contestant(Protocol):
    """One side."""

    system: str

    def train(self, batches: dict[str, Batch]) -> dict[str, float]:
        """One optimizer step of each adapter on its batch of sequences; return each one's summed loss."""
        ...

    def sample(self, prompts: Batch, samples: int, max_tokens: int) -> int:
        """Sample at temperature 1, never stopping early; return the number of tokens."""
        ...

    def sample_requests(self, requests: Sequence[Request]) -> int:
        """Sample at temperature 1 what ends at different times; return the number of tokens that were asked for."""
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
            self._engine.load_sampler(f"sampler of {name}", job.folder(name))
        self._samplers = [f"sampler of {name}" for name in job.names]

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
        return self.sample_requests([Request(prompt, max_tokens, samples=samples) for prompt in prompts])

    def sample_requests(self, requests: Sequence[Request]) -> int:
        """All requests at once."""
        for number, request in enumerate(requests):
            self._samples += 1
            params = SamplingParams(max_tokens=request.max_tokens, seed=number, stop=list(request.stop))
            job = SampleJob(
                request_id=f"job{self._samples}",
                sampler_id=self._samplers[request.adapter],
                prompt=list(request.prompt),
                num_samples=request.samples,
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
            pad_token_id=_PAD,
        )
        return int(out.shape[0] * (out.shape[1] - ids.shape[1]))

    @torch.no_grad()
    def sample_requests(self, requests: Sequence[Request]) -> int:
        """`generate` on static batches of 16 in the order of the requests; each batch runs until its last row ends."""
        return sum(self._static_batch(requests[i : i + STATIC]) for i in range(0, len(requests), STATIC))

    def _static_batch(self, requests: Sequence[Request]) -> int:
        ids, mask = self._padded([request.prompt for request in requests])
        # Prompts end where the samples begin, so the padding goes to the left.
        shifts = [ids.shape[1] - len(request.prompt) for request in requests]
        ids, mask = (torch.stack([row.roll(n) for row, n in zip(x, shifts, strict=True)]) for x in (ids, mask))
        limits = torch.tensor([ids.shape[1] + request.max_tokens for request in requests], device=self._device)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=max(request.max_tokens for request in requests),
            eos_token_id=list(requests[0].stop) or None,
            stopping_criteria=StoppingCriteriaList([_OwnLimits(limits)]),
            pad_token_id=_PAD,
        )
        return int((out[:, ids.shape[1] :] != _PAD).sum())


class _OwnLimits(StoppingCriteria):
    """Ends each row of a batch at a length of its own: a call of `generate` has one limit for all of them."""

    def __init__(self, limits: Tensor) -> None:
        self._limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """Return which rows are done, [rows]."""
        return input_ids.shape[1] >= self._limits
