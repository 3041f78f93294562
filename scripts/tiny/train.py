"""Pretraining: seeded, resumable, fp32 on the CPU.

Documents come in pools. A pool is drawn from (seed, pool number), sorted by length and cut into batches of a token
budget, so that little is padding; a step takes a few batches of different lengths. A run that is cut short starts again
at the last saved pool. Muon (Jordan et al., 2024) moves the matrices, AdamW the embedding and the norms: on two
processor cores the same accuracy comes after a fraction of the tokens that AdamW alone needs.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy

from tiny import checkpoint, evaluate, mixture
from tiny import tokenizer as tok
from tiny.render import render

Row = tuple[list[int], list[float]]
Batch = list[Row]


@dataclass(frozen=True)
class Plan:
    """What fixes a run. `tokens_per_batch` counts padding; only a row longer than that makes a larger batch."""

    seed: int = 7
    steps: int = 4500
    batches_per_step: int = 4
    tokens_per_batch: int = 640
    pool_documents: int = 1500
    first_lesson_pools: int = 8
    learning_rate: float = 4e-3
    final_fraction: float = 0.02
    warmup: int = 50
    clip: float = 1.0
    evaluate_every: int = 500


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_fraction` of the peak."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return plan.learning_rate * (plan.final_fraction + (1 - plan.final_fraction) * cosine)


def pool_batches(plan: Plan, pool: int) -> list[Batch]:
    """The batches of one pool, rows of a batch alike in length, batches in random order."""
    rng = Random(f"{plan.seed}/{pool}")
    draw = mixture.first_lesson if pool < plan.first_lesson_pools else mixture.draw
    documents = islice(mixture.stream(f"{plan.seed}/documents/{pool}", draw), plan.pool_documents)
    rows = [(ids[: tok.CONTEXT], weights[: tok.CONTEXT]) for ids, weights in (render(d, rng) for d in documents)]
    batches: list[Batch] = [[]]
    for row in sorted(rows, key=lambda row: len(row[0])):
        if batches[-1] and (len(batches[-1]) + 1) * len(row[0]) > plan.tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


def tensors(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids int64 [S, T] padded on the right, weights float32 [S, T] that are 0 on padding."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), tok.ID[tok.END_OF_TEXT])
    weights = torch.zeros(len(rows), longest)
    for i, (row_ids, row_weights) in enumerate(rows):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        weights[i, : len(row_weights)] = torch.tensor(row_weights)
    return ids, weights


def loss_sum(model: torch.nn.Module, rows: Batch) -> torch.Tensor:
    """Cross-entropy in nats, times weight, summed. Rows are padded on the right: the causal mask is mask enough."""
    ids, weights = tensors(rows)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def weight_of(batches: list[Batch]) -> float:
    """The weight of all tokens that are predicted; the first of a row is not."""
    return sum(sum(weights[1:]) for rows in batches for _, weights in rows)


def optimizers(model: torch.nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding and norms; both at the same rate."""
    named = dict(model.named_parameters())
    matrices = {name for name, weight in named.items() if weight.dim() == 2 and "embed" not in name}
    muon = torch.optim.Muon(
        [named[name] for name in named if name in matrices],
        lr=plan.learning_rate,
        momentum=0.95,
        weight_decay=0.01,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [weight for name, weight in named.items() if name not in matrices]
    return [muon, torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)]


class Run:
    """A training run whose whole state is model, optimizers, step and pool."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.model = checkpoint.new_model(plan.seed)
        self.optimizers = optimizers(self.model, plan)
        self.step = self.pool = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            self._load()

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _load(self) -> None:
        state = torch.load(self._state, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise SystemExit(f"{self._state}: got a run with {state['plan']}, expected {asdict(self.plan)}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.pool, self.seconds = state["step"], state["pool"], state["seconds"]
        self.log({"resumed_at_step": self.step})

    def save(self) -> None:
        """Write the state beside the old one, then swap: a run killed here still has the old one."""
        state = {
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "pool": self.pool,
            "seconds": self.seconds,
        }
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state)

    def log(self, record: dict[str, object]) -> None:
        line = json.dumps(record)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def train_step(self, batches: list[Batch]) -> float:
        """One update; returns the mean loss per weighted token, in nats."""
        total, loss = weight_of(batches), 0.0
        for rows in batches:
            part = loss_sum(self.model, rows) / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.plan, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss

    def train_pool(self) -> None:
        started, losses, tokens = time.perf_counter(), [], 0
        batches = pool_batches(self.plan, self.pool)
        size = self.plan.batches_per_step
        for start in range(0, len(batches), size):
            if self.step >= self.plan.steps:
                break
            taken = batches[start : start + size]
            losses.append(self.train_step(taken))
            tokens += sum(len(ids) for rows in taken for ids, _ in rows)
            if self.step % self.plan.evaluate_every == 0:
                self.log({"step": self.step, **evaluate.short_report(self.model, seed=self.plan.seed)})
        seconds = time.perf_counter() - started
        self.pool += 1
        self.seconds += seconds
        rate = round(tokens / seconds)
        loss = sum(losses) / len(losses)
        self.log({"step": self.step, "loss": round(loss, 4), "tokens/s": rate, "seconds": round(self.seconds)})

    def train(self) -> None:
        """Train to the end of the plan, saving after every pool."""
        while self.step < self.plan.steps:
            self.train_pool()
            self.save()

    def export(self, folder: Path) -> None:
        checkpoint.export(self.model.state_dict(), folder, {**asdict(self.plan), "steps_done": self.step})
