"""What one session of the load does: it trains, samples from a snapshot, polls for results and sends heartbeats."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load.figures import Figures
from benchmarks.load.http_client import HttpClient
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.model_input import ModelInput
from tinsmith.types.names.http_names import API_PREFIX, PROTOBUF
from tinsmith.types.proto import tinsmith_pb2 as pb

_RETRY_S = 1.0


@dataclass(frozen=True)
class Work:
    """What every session asks for.

    Attributes:
        model: name of the base model; token ids are drawn below `vocab_size`.
        rank: of every session's adapter.
        datums, length: of a forward_backward; tokens.
        max_tokens, num_samples: of a sampling request.
        heartbeat_s: seconds between the heartbeats of a session.
    """

    model: str
    vocab_size: int
    rank: int = 8
    datums: int = 1
    length: int = 32
    max_tokens: int = 16
    heartbeat_s: float = 5.0
    num_samples: int = 1


class User:
    """One session with one adapter and one snapshot to sample from.

    Attributes:
        figures: where times go; the phases of a run have one each.
    """

    def __init__(self, http: HttpClient, work: Work, figures: Figures, number: int) -> None:
        self._http = http
        self._work = work
        self._random = random.Random(number)
        self.figures = figures
        self._seq = 0
        self._samples = 0
        self._lanes: list[asyncio.Task[None]] = []
        self._beating: asyncio.Task[None] | None = None
        self.going = True

    # -- what it does -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the session, make its adapter and take a snapshot of it."""
        answer = await self._call("create_session", {"tags": [], "sdk_version": "load"})
        self.session = answer["session_id"]
        lora = {"rank": self._work.rank}
        model = {"session_id": self.session, "model_seq_id": 0, "base_model": self._work.model, "lora_config": lora}
        made = await self._call("create_model", model)
        self._model = made["model_id"]
        await self._poll(made["request_id"])
        fields = {"model_id": self._model, "seq_id": self._next(1), "sampling_session_seq_id": 0}
        snapshot = await self._call("save_weights_for_sampler", fields)
        self._sampler = json.loads(await self._poll(snapshot["request_id"]))["sampling_session_id"]
        self._prepare()
        self._beating = asyncio.create_task(self._beat())

    def begin(self, in_flight: int) -> None:
        """Keep so many futures in flight, training and sampling, until `finish`."""
        # A step is two futures. About two of five futures belong to samples, as in reinforcement learning.
        steps = in_flight * 2 // 5 if in_flight != 3 else 1
        lanes: list[Coroutine[Any, Any, None]] = [self._train() for _ in range(steps)]
        lanes += [self._sample() for _ in range(in_flight - 2 * steps)]
        self._lanes = [asyncio.create_task(lane) for lane in lanes]

    async def finish(self) -> None:
        """Wait for what is in flight, and end the session."""
        self.going = False
        await asyncio.gather(*self._lanes)
        if self._beating is not None:
            self._beating.cancel()
        await self._call(f"sessions/{self.session}/finish", {"reason": {"type": "success"}})

    async def _train(self) -> None:
        await self._over_and_over(self.step)

    async def step(self) -> None:
        """Take one training step."""
        # Both places at once: other lanes of this session take theirs in between.
        seq = self._next(2)
        with self.figures.timed("whole step"):
            ids = await asyncio.gather(self._submit(self._batch(seq)), self._submit(self._optim(seq + 1)))
            if self._random.random() < 0.5:
                await asyncio.gather(*map(self._poll, ids))
            else:
                await self._poll(ids[1])
                # What comes before it in the order is settled by now.
                with self.figures.timed("settled poll"):
                    await self._poll(ids[0])
        self.figures.done["training steps"] += 1

    async def _sample(self) -> None:
        await self._over_and_over(self.sample)

    async def _over_and_over(self, work: Callable[[], Awaitable[None]]) -> None:
        while self.going:
            try:
                await work()
            except (OSError, RuntimeError) as error:
                # Counted, and on: the load must not thin out because of it.
                self.figures.fault(f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RETRY_S)

    async def sample(self) -> None:
        """Draw one sample."""
        self._samples += 1
        with self.figures.timed("whole sample"):
            fields = self._sample_fields + f',"seq_id":{self._samples}}}'
            await self._poll(await self._submit(self._post("asample", fields.encode())))
        self.figures.done["samples"] += 1

    async def _beat(self) -> None:
        request = self._post("session_heartbeat", json.dumps({"session_id": self.session}).encode())
        await asyncio.sleep(self._random.random() * self._work.heartbeat_s)
        while True:
            await self.beat(request)
            await asyncio.sleep(self._work.heartbeat_s)

    async def beat(self, request: bytes | None = None) -> None:
        """Send one heartbeat."""
        request = request or self._post("session_heartbeat", json.dumps({"session_id": self.session}).encode())
        with self.figures.timed("heartbeat"):
            answer = await self._http.exchange(request)
        if answer.status != 200:
            self.figures.fault(f"heartbeat: {answer.status} {answer.body.decode()}")

    # -- requests -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the bodies of which only a number changes."""
        rng = np.random.default_rng(self._random.getrandbits(32))
        rows = rng.integers(0, self._work.vocab_size, (self._work.datums, self._work.length + 1))
        inputs = [{"target_tokens": row[1:], "weights": np.ones(len(row) - 1, np.float32)} for row in rows]
        data = [
            Datum(model_input=ModelInput.from_ints(row[:-1].tolist()), loss_fn_inputs=fields)
            for row, fields in zip(rows, inputs, strict=True)
        ]
        self._pass_body = encode_forward_backward_request(self._model, 1, data, "cross_entropy")
        prompt = {"chunks": [{"type": "encoded_text", "tokens": rows[0, :16].tolist()}]}
        params = {"max_tokens": self._work.max_tokens, "temperature": 1.0}
        sample = {"sampling_session_id": self._sampler, "prompt": prompt, "sampling_params": params}
        sample["num_samples"] = self._work.num_samples
        self._sample_fields = json.dumps(sample)[:-1]

    def _batch(self, seq: int) -> bytes:
        # Of a field that comes twice the last one counts.
        body = self._pass_body + pb.ForwardBackwardRequest(seq_id=seq).SerializeToString()
        return self._http.request("POST", f"{API_PREFIX}/forward_backward", body, PROTOBUF)

    def _optim(self, seq: int) -> bytes:
        fields = {"model_id": self._model, "seq_id": seq, "adam_params": {"learning_rate": 1e-4}}
        return self._post("optim_step", json.dumps(fields).encode())

    def _post(self, path: str, body: bytes) -> bytes:
        return self._http.request("POST", f"{API_PREFIX}/{path}", body)

    def _next(self, count: int) -> int:
        first, self._seq = self._seq + 1, self._seq + count
        return first

    async def _submit(self, request: bytes) -> str:
        """Submit an operation until it is taken; return its future's id."""
        while True:
            with self.figures.timed("submit"):
                answer = await self._http.exchange(request)
            if answer.status == 200:
                return json.loads(answer.body)["request_id"]
            if answer.status not in (429, 503):
                raise RuntimeError(f"submit: {answer.status} {answer.body.decode()}")
            self.figures.back_pressure += 1
            await asyncio.sleep(_RETRY_S)

    async def _poll(self, request_id: str) -> bytes:
        """Wait for a result."""
        request = self._post("retrieve_future", json.dumps({"request_id": request_id}).encode())
        while True:
            answer = await self._http.exchange(request)
            if answer.status == 200:
                break
            if answer.status != 408:
                raise RuntimeError(f"poll: {answer.status} {answer.body.decode()}")
        if b'"error"' in answer.body[:200]:
            self.figures.fault(answer.body.decode())
        return answer.body

    async def _call(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http.exchange(self._post(path, json.dumps(fields).encode()))
        if answer.status not in (200, 204):
            raise RuntimeError(f"{path}: {answer.status} {answer.body.decode()}")
        return json.loads(answer.body or b"{}")
