"""An engine host in memory, small enough to be read at once, that keeps the contract of `types/engine_messages/`.

A model is one number: a forward_backward adds what it reads to a gradient that also depends on the weight, a step moves
the weight. So a lost, doubled or misordered operation shows in the number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tinsmith.adapter_files.manifest import read_file, read_manifest
from tinsmith.engine.checkpoints.whole_folders import write_folder
from tinsmith.scheduler.samples.sample_jobs import sample_seed
from tinsmith.types.codec import (
    decode_forward_backward_request,
    encode_forward_backward_output,
    encode_sample_response,
)
from tinsmith.types.engine_messages.host_events import Event, Failure, Flushed, LossCause, Lost, Ready, Result
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    ForwardBackward,
    LoadSampler,
    LoadState,
    Operation,
    OpKind,
    OptimStep,
    ReleaseModel,
    ReleaseSampler,
    Sample,
    SaveRecoveryPoint,
    SaveSampler,
    SaveState,
    Skip,
    TakeSnapshot,
)
from tinsmith.types.errors import RequestErrorCategory, StartupError, UserError
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.outputs import ForwardBackwardOutput, SampledSequence, SampleResponse
from tinsmith.types.requests import SampleRequest
from tinsmith.types.tensor import TensorData

PROTOBUF = "application/x-protobuf"


def tiny_info(name: str = "tiny") -> BaseModelInfo:
    """Facts of a base model that does not exist."""
    return BaseModelInfo(
        name=name,
        architecture="LlamaForCausalLM",
        model_type="llama",
        vocab_size=100,
        hidden_size=8,
        num_layers=1,
        context_length=64,
        eos_token_ids=[0],
        parameters=1000,
    )


@dataclass
class FakeModel:
    """One adapter."""

    weight: float = 1.0
    steps: int = 0
    gradient: float = 0.0
    dirty: bool = False
    step_error: str | None = None
    next_seq: int = 1
    waiting: dict[int, Operation] = field(default_factory=dict[int, Operation])
    points: dict[str, SaveRecoveryPoint] = field(default_factory=dict[str, SaveRecoveryPoint])


class FakeLink:
    """An `EngineLink` whose host can be held, killed and started again by a test.

    Args:
        models: the base models that it loads.
        broken: what goes wrong at the start, if something does.

    Attributes:
        holding: operations pile up and nothing runs.
        flushing: snapshots reach the disk at once.
        submitted: every operation, in the order of its submission in this life.
        ran: kind and seq_id or sampler of everything that took effect in this life.
        fail: op kinds that fail, with their message and category.
    """

    def __init__(self, models: list[BaseModelInfo] | None = None, broken: str | None = None) -> None:
        self.infos = models or [tiny_info()]
        self.broken = broken
        self.holding = False
        self.flushing = True
        self.alive = False
        self.lives = 0
        self.progress = 0
        self.submitted: list[Operation] = []
        self.ran: list[tuple[OpKind, int | str | None]] = []
        self.cancelled: list[str] = []
        self.fail: dict[OpKind, tuple[str, RequestErrorCategory]] = {}
        self.models: dict[str, FakeModel] = {}
        self.samplers: dict[str, float] = {}
        self._queue: list[Operation] = []
        self._seen: set[str] = set()
        self._unflushed: list[tuple[str, TakeSnapshot]] = []
        self._emit: Callable[[Event], None] | None = None

    # -- the link -----------------------------------------------------------------------------------------------------

    async def start(self, on_event: Callable[[Event], None]) -> None:
        if self.broken is not None:
            raise StartupError(self.broken)
        self._emit = on_event
        self.revive()

    def submit(self, op: Operation) -> None:
        if not self.alive or op.request_id in self._seen:
            return
        self._seen.add(op.request_id)
        self.submitted.append(op)
        self._queue.append(op)
        asyncio.get_running_loop().call_soon(self.pump)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        self._queue = [op for op in self._queue if op.request_id != request_id]

    def progressed(self) -> None:
        self.progress += 1

    async def close(self) -> None:
        self.alive = False

    # -- for tests ----------------------------------------------------------------------------------------------------

    def kill(self, reason: str = "killed", cause: LossCause = "killed", running: Sequence[str] = ()) -> None:
        """Lose everything in memory, as a killed process does, while it ran the operations with these ids."""
        self.alive = False
        for state in (self.models, self.samplers, self._queue, self._seen, self._unflushed, self.submitted, self.ran):
            state.clear()
        self.send(Lost(reason, cause, tuple(running)))

    def revive(self) -> None:
        """Come up, empty."""
        self.alive = True
        self.lives += 1
        self.send(Ready(self.infos))

    def release(self) -> None:
        """Run what was held."""
        self.holding = False
        self.pump()

    def flush(self) -> None:
        """Write the snapshots that are not on disk yet."""
        for request_id, snapshot in self._unflushed:
            self._write(snapshot.folder, {"weight": self.samplers[snapshot.sampler_id]})
            self.send(Flushed(request_id))
        self._unflushed = []

    def send(self, event: Event) -> None:
        """Send an event."""
        assert self._emit is not None
        self._emit(event)

    # -- the engine ---------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Run what can run."""
        if self.holding or not self.alive:
            return
        queue, self._queue = self._queue, []
        for op in queue:
            self._take(op)
        for model in list(self.models.values()):
            self._advance(model)

    def _take(self, op: Operation) -> None:
        match op.work:
            case Sample(sampler_id):
                self._answer(op, lambda: self._sample(op, sampler_id))
            case LoadSampler() as load:
                self._answer(op, lambda: self._load_sampler(load))
            case ReleaseSampler(sampler_id):
                self._answer(op, lambda: self._release_sampler(sampler_id))
            case ReleaseModel():
                self.models.pop(op.model_id or "", None)
                self._answer(op, lambda: b"{}")
            case CreateModel(lora):
                self._answer(op, lambda: self._create(op, FakeModel(weight=1.0 + (lora.seed or 0) % 7)))
            case LoadState() as load if op.seq_id is None:
                self._answer(op, lambda: self._create(op, replace(self._load(load), next_seq=load.next_seq)))
            case _ if op.model_id not in self.models:
                self.send(Failure(op.request_id, f"model_id: got {op.model_id!r}", RequestErrorCategory.USER))
            case SaveRecoveryPoint() as point:
                self.models[op.model_id].points[op.request_id] = point
            case _:
                self._place(op, self.models[op.model_id])

    def _place(self, op: Operation, model: FakeModel) -> None:
        assert op.seq_id is not None
        if op.seq_id >= model.next_seq:
            model.waiting[op.seq_id] = op

    def _advance(self, model: FakeModel) -> None:
        while True:
            for request_id, point in list(model.points.items()):
                if point.after_seq < model.next_seq and not model.dirty:
                    del model.points[request_id]
                    payload = {"size_bytes": self._save(model, point.folder), "seq_id": model.next_seq - 1}
                    self.send(Result(request_id, orjson.dumps(payload)))
            op = model.waiting.pop(model.next_seq, None)
            if op is None and any(later.replay for later in model.waiting.values()):
                model.step_error = f"seq_id {model.next_seq} never arrived"
                model.next_seq = min(model.waiting)
                continue
            if op is None:
                return
            model.next_seq += 1
            self._answer(op, partial(self._run, model, op))

    def _answer(self, op: Operation, run: Callable[[], bytes]) -> None:
        try:
            if op.kind in self.fail:
                message, category = self.fail[op.kind]
                if op.kind is OpKind.FORWARD_BACKWARD:
                    self.models[op.model_id or ""].step_error = message
                raise UserError(message) if category is RequestErrorCategory.USER else RuntimeError(message)
            payload = run()
        except UserError as error:
            self.send(Failure(op.request_id, error.message, RequestErrorCategory.USER))
        except Exception as error:
            self.send(Failure(op.request_id, str(error), RequestErrorCategory.SERVER))
        else:
            self.ran.append((op.kind, op.seq_id if op.seq_id is not None else getattr(op.work, "sampler_id", None)))
            media = PROTOBUF if op.kind in (OpKind.FORWARD_BACKWARD, OpKind.SAMPLE) else "application/json"
            self.send(Result(op.request_id, payload, media))
            if isinstance(op.work, TakeSnapshot):
                self._unflushed.append((op.request_id, op.work))
                if self.flushing:
                    self.flush()

    def _create(self, op: Operation, model: FakeModel) -> bytes:
        self.models[op.model_id or ""] = model
        return b"{}"

    def _load(self, load: LoadState) -> FakeModel:
        state = _read(Path(load.folder))
        return FakeModel(weight=state["weight"], steps=state["steps"] if load.optimizer else 0)

    def _run(self, model: FakeModel, op: Operation) -> bytes:
        match op.work:
            case ForwardBackward():
                return self._pass(model, op)
            case OptimStep(adam):
                return self._step(model, adam.learning_rate)
            case SaveState(folder) | SaveSampler(folder):
                return orjson.dumps({"size_bytes": self._save(model, folder)})
            case TakeSnapshot(sampler_id):
                self.samplers[sampler_id] = model.weight
            case LoadState() as load:
                loaded = self._load(load)
                model.weight, model.steps, model.gradient, model.dirty = loaded.weight, loaded.steps, 0.0, False
            case Skip() as skip:
                if skip.failed_forward_backward:
                    model.step_error = f"seq_id {op.seq_id} failed"
                if skip.failed_optim_step:
                    model.gradient, model.dirty, model.step_error = 0.0, False, None
            case _:
                raise ValueError(op.kind)
        return b"{}"

    def _pass(self, model: FakeModel, op: Operation) -> bytes:
        request = decode_forward_backward_request(op.read_body())
        outputs: list[dict[str, TensorData]] = []
        total = 0.0
        for datum in request.data:
            targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
            outputs.append({"logprobs": TensorData.from_numpy(-model.weight * (targets + 1).astype(np.float32) / 100)})
            total += float(targets.sum())
        if not request.forward_only:
            model.gradient += total * 0.01 + model.weight * 0.1
            model.dirty = True
        metrics = {"loss:sum": model.weight * total}
        return encode_forward_backward_output(ForwardBackwardOutput("ArrayRecord", outputs, metrics))

    def _step(self, model: FakeModel, learning_rate: float) -> bytes:
        error, gradient = model.step_error, model.gradient
        model.gradient, model.dirty, model.step_error = 0.0, False, None
        if error is not None:
            raise UserError(f"optim_step: {error}")
        model.steps += 1
        model.weight -= learning_rate * gradient / model.steps
        return orjson.dumps({"metrics": {"weight": model.weight, "steps": float(model.steps)}})

    def _save(self, model: FakeModel, folder: str) -> int:
        return self._write(folder, {"weight": model.weight, "steps": model.steps}, {"step": model.steps})

    def _write(self, folder: str, state: dict[str, Any], facts: dict[str, Any] | None = None) -> int:
        return write_folder(Path(folder), {"weights.json": json.dumps(state).encode()}, facts or {})

    def _load_sampler(self, load: LoadSampler) -> bytes:
        state = _read(Path(load.folder)) if load.folder is not None else {"weight": 0.0}
        self.samplers[load.sampler_id] = state["weight"]
        return b"{}"

    def _release_sampler(self, sampler_id: str) -> bytes:
        del self.samplers[sampler_id]
        self._unflushed = [waiting for waiting in self._unflushed if waiting[1].sampler_id != sampler_id]
        return b"{}"

    def _sample(self, op: Operation, sampler_id: str) -> bytes:
        request = SampleRequest.model_validate_json(op.read_body())
        weight = self.samplers[sampler_id]
        seed = sample_seed(request.sampling_params.seed, op.request_id)
        rng = np.random.default_rng([seed, int(abs(weight) * 1e6)])
        length = request.sampling_params.max_tokens or 4
        sequences = [
            SampledSequence("length", rng.integers(1, 100, length).tolist(), [-weight] * length)
            for _ in range(request.num_samples)
        ]
        prompt = np.full(sum(len(c.tokens or ()) for c in request.prompt.chunks), -weight, np.float32)
        prompt[0] = np.nan
        return encode_sample_response(
            SampleResponse(sequences=sequences, prompt_logprobs_np=prompt if request.prompt_logprobs else None)
        )


def _read(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"checkpoint {folder.name}: got nothing, expected a saved state")
    return json.loads(read_file(folder, "weights.json", manifest))
