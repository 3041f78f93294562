"""An engine without a model, for tests of order, fairness and failures: it does arithmetic and keeps a diary.

What an operation does is written in its tokens: the first token of a row may hold one of the codes below. Weights are
the tuple of the gradients that optimizer steps have applied, so that equal weights mean equal work in equal order.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinsmith.engine.jobs import RowOutput, SampleJob, TrainRow
from tinsmith.engine.sharing import EVEN, PassKind, PassShare, Turn
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.outputs import SampledSequence, SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

# Added to a first token; what is below tells rows apart.
BAD_ROW = 100_000  # this row alone fails, by the request's fault
CRASH_PASS = 200_000  # the whole pass raises
HUNGRY = 300_000  # the pass runs out of memory if it has more than one row
BROKEN_DEVICE = 400_000  # every later call would fail


def _code(token: int) -> int:
    return token // 100_000 * 100_000


Weights = tuple[Any, ...]


class FakeClock:
    """Seconds that pass only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeModel:
    """An adapter: what was applied, what waits to be applied, and all that happened in order."""

    weights: Weights = ()
    gradients: list[int] = field(default_factory=list)
    diary: list[tuple[Any, ...]] = field(default_factory=list)


class FakeEngine:
    """See the module.

    Args:
        max_tokens_per_pass: token budget.
        clock: advanced by the work done, where given.
        token_s: seconds that a token of a pass takes.
        step_s: seconds that a step of the sampler takes.
    """

    def __init__(
        self,
        name: str = "base",
        max_tokens_per_pass: int = 16,
        clock: FakeClock | None = None,
        token_s: float = 1.0,
        step_s: float = 1.0,
    ) -> None:
        self.info = BaseModelInfo(
            name=name,
            architecture="FakeForCausalLM",
            model_type="fake",
            vocab_size=1_000_000,
            hidden_size=8,
            num_layers=1,
            context_length=64,
        )
        self.max_tokens_per_pass = max_tokens_per_pass
        self.clock = clock or FakeClock()
        self.models: dict[str, FakeModel] = {}
        self.removed: dict[str, FakeModel] = {}
        self.samplers: dict[str, Weights | None] = {}
        self.passes: list[list[TrainRow]] = []
        self.sampler = FakeSampler(self, step_s)
        self.write_hook: Callable[[str], None] = lambda sampler_id: None
        self._token_s = token_s

    # -- training -----------------------------------------------------------------------------------------------------

    def row_cost(self, datum: Datum) -> int:
        return datum.model_input.length

    def keep_reference(self, model_id: str, reference: str) -> None:
        self.models[model_id].diary.append(("keep_reference", reference))

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        firsts = [row.datum.model_input.to_ints()[0] for row in rows]
        self.suffer(firsts)
        codes = [_code(first) for first in firsts]
        self.clock.now += self._token_s * sum(self.row_cost(row.datum) for row in rows)
        if BROKEN_DEVICE in codes:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if CRASH_PASS in codes:
            raise ZeroDivisionError("the pass crashed")
        if HUNGRY in codes and len(rows) > 1:
            raise MemoryError("too many rows")
        self.passes.append(list(rows))
        return [self._row(row) for row in rows]

    def suffer(self, firsts: Sequence[int]) -> None:
        """Told the first token of everything in a pass or a step of the sampler; a process of its own may die of it."""

    def _row(self, row: TrainRow) -> RowOutput | Exception:
        model = self.models[row.model_id]
        tokens = row.datum.model_input.to_ints()
        if _code(tokens[0]) == BAD_ROW:
            return invalid("loss_fn_inputs", tokens[0], "anything else")
        if row.backward:
            model.gradients.append(tokens[0])
        model.diary.append(("row", tokens[0], row.backward, len(model.weights)))
        return RowOutput(np.full(len(tokens), -float(tokens[0]), np.float32), loss=float(tokens[0]))

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, float]:
        model = self.models[model_id]
        model.weights = (*model.weights, tuple(model.gradients))
        model.diary.append(("step", model.weights, adam.learning_rate))
        model.gradients.clear()
        return {"steps:unique": float(len(model.weights))}

    def clear_gradients(self, model_id: str) -> None:
        model = self.models[model_id]
        model.gradients.clear()
        model.diary.append(("clear",))

    # -- models and files ---------------------------------------------------------------------------------------------

    def create_model(self, model_id: str, lora: LoraConfig) -> None:
        if lora.rank > 256:
            raise invalid("rank", lora.rank, "1 to 256")
        self.models[model_id] = FakeModel()

    def load_state(self, model_id: str, folder: str, lora: LoraConfig, optimizer: bool = True) -> None:
        if not Path(folder, "state").exists():
            raise UserError(f"checkpoint {folder}: got nothing, expected a state")
        model = self.models.setdefault(model_id, FakeModel())
        model.weights = ast.literal_eval(Path(folder, "state").read_text())
        model.gradients.clear()
        model.diary.append(("load", model.weights, optimizer))

    def save_state(self, model_id: str, folder: str) -> int:
        model = self.models[model_id]
        model.diary.append(("save_state", folder, model.weights))
        return _write(folder, model.weights)

    def save_sampler(self, model_id: str, folder: str) -> int:
        model = self.models[model_id]
        model.diary.append(("save_sampler", folder, model.weights))
        return _write(folder, model.weights)

    def remove_model(self, model_id: str) -> None:
        self.removed[model_id] = self.models.pop(model_id)

    # -- samplers -----------------------------------------------------------------------------------------------------

    def snapshot(self, model_id: str, sampler_id: str) -> None:
        model = self.models[model_id]
        model.diary.append(("snapshot", sampler_id, model.weights))
        self.samplers[sampler_id] = model.weights

    def write_snapshot(self, sampler_id: str, folder: str) -> int:
        self.write_hook(sampler_id)
        return _write(folder, self.samplers[sampler_id])

    def figures(self) -> dict[str, float]:
        return {"adapter_bytes": float(len(self.models))}

    def load_sampler(self, sampler_id: str, folder: str | None) -> None:
        if folder is None:
            self.samplers[sampler_id] = None
        elif not Path(folder, "state").exists():
            raise UserError(f"checkpoint {folder}: got nothing, expected weights")
        else:
            self.samplers[sampler_id] = ast.literal_eval(Path(folder, "state").read_text())

    def release_sampler(self, sampler_id: str) -> None:
        del self.samplers[sampler_id]


class FakeSampler:
    """One token per request and step, up to eight requests at once; tokens follow from weights, seed and position.

    A request whose prompt holds `CRASH_PASS` makes every step that it is part of raise; with `HUNGRY` a step of more
    than one request ends all of its requests with a MemoryError.
    """

    def __init__(self, engine: FakeEngine, step_s: float) -> None:
        self._engine = engine
        self._step_s = step_s
        self._jobs: dict[str, tuple[SampleJob, Weights | None, list[int]]] = {}
        self.added: list[str] = []
        self.last: PassShare | None = None
        self.on_step: Callable[[Iterable[str]], None] = lambda ids: None

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def add(self, job: SampleJob) -> None:
        if _code(job.prompt[0]) == BAD_ROW:
            raise invalid("prompt[0]", job.prompt[0], "anything else")
        self._jobs[job.request_id] = (job, self._engine.samplers[job.sampler_id], [])
        self.added.append(job.request_id)

    def cancel(self, request_id: str) -> None:
        self._jobs.pop(request_id, None)

    def step(self, turn: Turn = EVEN) -> list[tuple[str, SampleResponse | Exception]]:
        self._engine.clock.now += self._step_s
        batch = sorted(self._jobs.values(), key=lambda job: job[0].owner != turn.leader)[:8]
        self.on_step([job.request_id for job, _, _ in batch])
        self._engine.suffer([job.prompt[0] for job, _, _ in batch])
        self.last = PassShare(turn, PassKind.DECODE, 8)
        for job, _, _ in batch:
            self.last.take(job.owner, 1)
        prompts = [_code(job.prompt[0]) for job, _, _ in batch]
        if CRASH_PASS in prompts:
            raise ZeroDivisionError("the step crashed")
        if HUNGRY in prompts and len(batch) > 1:
            for job, _, _ in batch:
                del self._jobs[job.request_id]
            return [(job.request_id, MemoryError("too many requests")) for job, _, _ in batch]
        finished: list[tuple[str, SampleResponse | Exception]] = []
        for job, weights, tokens in batch:
            tokens.append(fake_token(weights, job.params.seed or 0, len(tokens)))
            if len(tokens) == (job.params.max_tokens or 1):
                del self._jobs[job.request_id]
                sequence = SampledSequence("length", tokens, [0.0] * len(tokens))
                finished.append((job.request_id, SampleResponse([sequence] * job.num_samples)))
        return finished


def fake_token(weights: Weights | None, seed: int, position: int) -> int:
    """The token that a sampler with these weights draws."""
    digest = hashlib.sha256(repr((weights, seed, position)).encode()).digest()
    return int.from_bytes(digest[:2], "big") % 10_000


def _write(folder: str, weights: Weights | None) -> int:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder, "state").write_text(repr(weights))
