"""Operations in the form in which a service hands them over, and a host that is driven by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.scheduler.host import EngineHost
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response, encode_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.host_events import Event, Failure, Flushed, Result, Stats
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    ForwardBackward,
    LoadSampler,
    Operation,
    OptimStep,
    Sample,
    Work,
)
from tinsmith.types.outputs import ForwardBackwardOutput, SampleResponse
from tinsmith.types.params import AdamParams, LoraConfig

_ids = itertools.count()


def operation(work: Work, model_id: str | None = None, seq_id: int | None = None, **fields: Any) -> Operation:
    """Make an operation with a fresh id, on the engine `base` unless said."""
    fields.setdefault("request_id", f"op-{next(_ids)}")
    fields.setdefault("base_model", "base")
    return Operation(work=work, model_id=model_id, seq_id=seq_id, **fields)


def create(model_id: str, rank: int = 8, **fields: Any) -> Operation:
    """CREATE_MODEL."""
    return operation(CreateModel(LoraConfig(rank=rank, seed=0)), model_id, **fields)


def forward_backward(
    model_id: str,
    seq_id: int,
    rows: Sequence[int | Sequence[int]],
    length: int = 2,
    forward_only: bool = False,
    **fields: Any,
) -> Operation:
    """FORWARD_BACKWARD of rows that are given by their tokens, or by their first token and a common length."""
    tokens = [[row, *[1] * (length - 1)] if isinstance(row, int) else list(row) for row in rows]
    return training(
        model_id, seq_id, [Datum(tokens=t, targets=t, weights=[1.0] * len(t)) for t in tokens], forward_only, **fields
    )


def training(model_id: str, seq_id: int, data: Sequence[Datum], forward_only: bool = False, **fields: Any) -> Operation:
    """FORWARD_BACKWARD of datums, with the loss `cross_entropy`."""
    body = encode_forward_backward_request(model_id, seq_id, data, "cross_entropy", None, forward_only)
    return operation(ForwardBackward(), model_id, seq_id, body=body, **fields)


def preferences(
    model_id: str,
    seq_id: int,
    rows: Sequence[int],
    length: int = 2,
    forward_only: bool = False,
    reference: str | None = None,
    **fields: Any,
) -> Operation:
    """FORWARD_BACKWARD of pairs, whose rows in turn are given by their first token and a common length."""
    data = [Datum(tokens=[row, *[1] * (length - 1)], targets=[row] * length, weights=[1.0] * length) for row in rows]
    body = encode_forward_backward_request(model_id, seq_id, data, "dpo", None, forward_only)
    return operation(ForwardBackward(reference), model_id, seq_id, body=body, **fields)


def optim(model_id: str, seq_id: int, learning_rate: float = 1e-4, **fields: Any) -> Operation:
    """OPTIM_STEP."""
    return operation(OptimStep(AdamParams(learning_rate=learning_rate)), model_id, seq_id, **fields)


def sample(sampler_id: str, prompt: Sequence[int] = (5,), max_tokens: int = 1, **fields: Any) -> Operation:
    """SAMPLE; `num_samples`, `seed` and other fields of the request may be given."""
    own = {k: fields.pop(k) for k in ("request_id", "base_model", "owner", "company") if k in fields}
    params = {"max_tokens": max_tokens, **{k: fields.pop(k) for k in ("seed", "temperature") if k in fields}}
    request = {
        "sampling_session_id": "s",
        "seq_id": 0,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
        "sampling_params": params,
        **fields,
    }
    return operation(Sample(sampler_id), body=json.dumps(request).encode(), **own)


def load_sampler(sampler_id: str, folder: str | None = None, **fields: Any) -> Operation:
    """LOAD_SAMPLER; without a folder, of the base model."""
    return operation(LoadSampler(sampler_id, folder), **fields)


class Driven:
    """A host without a thread: what it emits is kept, and it works only when told to."""

    def __init__(self, *engines: HostedEngine, clock: Callable[[], float] | None = None, **settings: Any) -> None:
        self.events: list[Event] = []
        self.submitted: list[Operation] = []
        self.begun: list[list[str]] = []
        kwargs: dict[str, Any] = {} if clock is None else {"clock": clock}
        by_name = {engine.info.name: engine for engine in engines}
        self.host = EngineHost(by_name, self.events.append, Settings(**settings), begin=self._begin, **kwargs)

    def _begin(self, ids: Iterable[str]) -> None:
        self.begun.append(list(ids))

    def submit(self, *ops: Operation) -> None:
        """Hand operations over."""
        self.submitted += ops
        for op in ops:
            self.host.submit(op)

    def run(self, *ops: Operation) -> None:
        """Hand operations over and work until there is nothing left to do."""
        self.submit(*ops)
        while self.host.poll():
            pass
        self.host.rest()

    def outcomes(self, op: Operation) -> list[Result | Failure]:
        """Return all answers to an operation."""
        return [e for e in self.events if isinstance(e, Result | Failure) and e.request_id == op.request_id]

    def outcome(self, op: Operation) -> Result | Failure:
        """Return the one answer to an operation."""
        found = self.outcomes(op)
        assert len(found) == 1, f"{op}: {found}"
        return found[0]

    def payload(self, op: Operation) -> Any:
        """Return the decoded JSON of an operation's result."""
        return json.loads(self.result(op).payload)

    def result(self, op: Operation) -> Result:
        """Return an operation's result; it must not have failed."""
        found = self.outcome(op)
        assert isinstance(found, Result), found
        return found

    def output(self, op: Operation) -> ForwardBackwardOutput:
        """Return the decoded result of a forward_backward."""
        return decode_forward_backward_output(self.result(op).payload)

    def response(self, op: Operation) -> SampleResponse:
        """Return the decoded result of a sample."""
        return decode_sample_response(self.result(op).payload)

    def failure(self, op: Operation) -> Failure:
        """Return an operation's failure; it must have failed."""
        found = self.outcome(op)
        assert isinstance(found, Failure), found
        return found

    def flushed(self) -> list[str]:
        """Return the ids of the snapshots that are on disk."""
        return [e.request_id for e in self.events if isinstance(e, Flushed)]

    def stats(self) -> list[dict[str, float]]:
        """Return all stats."""
        return [e.values for e in self.events if isinstance(e, Stats)]
