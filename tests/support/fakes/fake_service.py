"""A service without a model, in memory: speaks the protocol, keeps a log of what it executed, and misbehaves on demand.

It is the client's `httpx` transport, so that a test holds both ends. Models learn nothing: a model's "weights" are the
number of steps it took, and logprobs and samples are functions of the tokens and that number.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tinsmith.types.codec import (
    decode_forward_backward_request,
    encode_forward_backward_output,
    encode_sample_response,
)
from tinsmith.types.compression import zstd_decompress
from tinsmith.types.datum import Datum
from tinsmith.types.outputs import ForwardBackwardOutput, SampledSequence, SampleResponse
from tinsmith.types.tensor import TensorData

Answer = tuple[int, bytes, str]
BASE_MODEL = "tinsmith-tiny"


def reply(body: object, status: int = 200) -> Answer:
    return status, json.dumps(body).encode(), "application/json"


def logprobs_of(datum: Datum, steps: int) -> np.ndarray:
    """The fake model's logprobs: of the shape of target_tokens, float32."""
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    position = np.arange(targets.shape[0]).reshape(-1, *[1] * (targets.ndim - 1))
    return (-0.1 * (1 + targets % 7) - 0.01 * position - 0.001 * steps).astype(np.float32)


def loss_of(datum: Datum, steps: int) -> float:
    weights = datum.loss_fn_inputs.get("weights")
    logprobs = logprobs_of(datum, steps)
    return float(-(logprobs * (weights.to_numpy() if weights is not None else 1.0)).sum())


@dataclass
class Model:
    """One model: what was posted and not yet executed, and what was executed, in order."""

    base_model: str
    rank: int
    next_seq: int = 1
    waiting: dict[int, tuple[str, str, Any]] = field(default_factory=dict)
    requests: dict[int, str] = field(default_factory=dict)
    log: list[tuple[int, str, Any]] = field(default_factory=list)
    steps: int = 0
    failed_backward: bool = False


class FakeService(httpx.AsyncBaseTransport):
    """The service.

    Attributes:
        config: fields of the client config.
        network: called before (`"request"`) and after (`"response"`) every exchange; may sleep or raise.
        intercept: sees every request first and may answer it.
        seen: (method, path, headers) of every request that arrived.
    """

    def __init__(self, seed: int = 0, **config: Any) -> None:
        self.random = random.Random(seed)
        self.config = config
        self.network: Callable[[str, httpx.Request], Awaitable[None]] | None = None
        self.intercept: Callable[[httpx.Request], Answer | None] | None = None
        self.seen: list[tuple[str, str, httpx.Headers]] = []
        self.sessions: dict[str, str] = {}
        self.models: dict[str, Model] = {}
        self.samplers: dict[str, tuple[str, str | None, int]] = {}
        self.sampled: list[tuple[str, int, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self.results: dict[str, asyncio.Future[Answer]] = {}
        self.promises: dict[tuple[Any, ...], str] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.tokenizer: tuple[int, dict[str, Any], str | None] | None = None

    # -- transport ----------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.network is not None:
            await self.network("request", request)
        await request.aread()
        path = request.url.path.removeprefix("/api/v1/")
        self.seen.append((request.method, path, request.headers))
        answer = self.intercept(request) if self.intercept is not None else None
        if answer is None:
            answer = await self._route(request, path)
        if self.network is not None:
            await self.network("response", request)
        status, body, media = answer
        headers = {"content-type": media}
        if status == 200 and path == "tokenizer" and self.tokenizer is not None and self.tokenizer[2]:
            headers["etag"] = self.tokenizer[2]
        return httpx.Response(status, content=body, headers=headers, request=request)

    async def _route(self, request: httpx.Request, path: str) -> Answer:
        if path == "forward_backward":
            return self._forward_backward(request)
        body = json.loads(request.content) if request.content else dict(request.url.params)
        handler = getattr(self, f"_{path.replace('/', '_')}", None)
        if handler is not None:
            found = handler(body)
            return await found if asyncio.iscoroutine(found) else found
        if path.startswith("sessions/") and path.endswith("/finish"):
            self.sessions[path.split("/")[1]] = body["reason"]["type"]
            return reply({})
        if path.startswith("samplers/") and path.endswith("/close"):
            del self.samplers[path.split("/")[1]]
            return 204, b"", "application/json"
        if path.startswith("samplers/"):
            model, saved, _ = self.samplers[path.split("/")[1]]
            return reply({"sampler_id": path.split("/")[1], "base_model": model, "model_path": saved})
        return reply({"detail": f"no such path: {path}"}, 404)

    # -- sessions and models ------------------------------------------------------------------------------------------

    def _client_config(self, body: dict[str, Any]) -> Answer:
        return reply(self.config)

    def _client_dynamic_config(self, body: dict[str, Any]) -> Answer:
        return reply({"sample_cancel_enabled": True})

    def _create_session(self, body: dict[str, Any]) -> Answer:
        session_id = f"s-{len(self.sessions)}"
        self.sessions[session_id] = "active"
        return reply({"session_id": session_id})

    def _session_heartbeat(self, body: dict[str, Any]) -> Answer:
        return reply({"type": "session_heartbeat"})

    def _create_model(self, body: dict[str, Any]) -> Answer:
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        if body["base_model"] != BASE_MODEL:
            return self._promise(
                (model_id,), reply({"error": f"base_model: got {body['base_model']!r}", "category": "user"})
            )
        self.models.setdefault(model_id, Model(body["base_model"], body["lora_config"]["rank"]))
        return self._promise((model_id,), reply({"type": "create_model", "model_id": model_id}))

    def _get_info(self, body: dict[str, Any]) -> Answer:
        model = self.models[body["model_id"]]
        data = {"arch": "qwen3", "model_name": model.base_model, "hidden_size": 192}
        return reply({"model_id": body["model_id"], "model_data": data, "lora_rank": model.rank})

    def _get_server_capabilities(self, body: dict[str, Any]) -> Answer:
        model = {"model_name": BASE_MODEL, "max_context_length": 1024, "kind": "instruct"}
        return reply({"supported_models": [model], "losses": ["cross_entropy"]})

    def _tokenizer(self, body: dict[str, Any]) -> Answer:
        if self.tokenizer is None:
            return reply({"detail": f"model: got {body['model']!r}"}, 404)
        status, answer, _ = self.tokenizer
        return reply(answer, status)

    # -- futures ------------------------------------------------------------------------------------------------------

    def _promise(self, key: tuple[Any, ...], answer: Answer | None = None, **fields: Any) -> Answer:
        """Promise a result; the same key gets the same promise."""
        request_id = self.promises.setdefault(key, f"r-{len(self.promises)}")
        future = self.results.setdefault(request_id, asyncio.get_running_loop().create_future())
        if answer is not None and not future.done():
            future.set_result(answer)
        return reply({"request_id": request_id, **fields})

    async def _retrieve_future(self, body: dict[str, Any]) -> Answer:
        if body["request_id"] not in self.results:
            return reply({"detail": "no such request"}, 404)
        future = self.results[body["request_id"]]
        await asyncio.wait([future], timeout=0.05)
        if not future.done():
            return reply({"type": "try_again", "request_id": body["request_id"], "queue_state": "active"}, 408)
        return future.result()

    def _cancel_future(self, body: dict[str, Any]) -> Answer:
        self.cancelled.append(body["request_id"])
        return reply({})

    # -- training -----------------------------------------------------------------------------------------------------

    def _forward_backward(self, request: httpx.Request) -> Answer:
        content = request.content
        if request.headers.get("content-encoding") == "zstd":
            content = zstd_decompress(content, 10**8)
        decoded = decode_forward_backward_request(content)
        kind = "forward" if decoded.forward_only else "forward_backward"
        return self._accept(decoded.model_id, decoded.seq_id, kind, decoded)

    def _optim_step(self, body: dict[str, Any]) -> Answer:
        return self._accept(body["model_id"], body["seq_id"], "optim_step", body)

    def _save_weights(self, body: dict[str, Any]) -> Answer:
        return self._accept(body["model_id"], body["seq_id"], "save_weights", body)

    def _save_weights_for_sampler(self, body: dict[str, Any]) -> Answer:
        return self._accept(body["model_id"], body["seq_id"], "save_weights_for_sampler", body)

    def _load_weights(self, body: dict[str, Any]) -> Answer:
        if "seq_id" in body:
            return self._accept(body["model_id"], body["seq_id"], "load_weights", body)
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        self.models.setdefault(model_id, Model(BASE_MODEL, 32)).log.append((0, "load_weights", body))
        return self._promise((model_id,), reply({"path": body["path"], "model_id": model_id}))

    def _accept(self, model_id: str, seq: int, kind: str, body: Any) -> Answer:
        model = self.models[model_id]
        answer = self._promise((model_id, seq))
        request_id = json.loads(answer[1])["request_id"]
        if seq not in model.requests:
            model.requests[seq] = request_id
            model.waiting[seq] = (kind, request_id, body)
            asyncio.get_running_loop().create_task(self._execute(model_id))
        return answer

    async def _execute(self, model_id: str) -> None:
        """Execute whatever is next in the model's order."""
        model = self.models[model_id]
        await self.hold.wait()
        while model.next_seq in model.waiting:
            kind, request_id, body = model.waiting.pop(model.next_seq)
            model.log.append((model.next_seq, kind, body))
            model.next_seq += 1
            self.results[request_id].set_result(self._run(model_id, model, kind, body))

    def _run(self, model_id: str, model: Model, kind: str, body: Any) -> Answer:
        if kind in ("forward", "forward_backward"):
            return self._outputs(model, kind, body)
        if kind == "optim_step":
            failed, model.failed_backward = model.failed_backward, False
            if failed:
                return reply({"error": "a forward_backward before this step failed", "category": "user"})
            model.steps += 1
            return reply({"metrics": {"grad_norm": 0.5}})
        if kind == "save_weights":
            return reply({"path": f"tinker://{model_id}/weights/{body['path']}"})
        if kind == "load_weights":
            return reply({"path": body["path"]})
        if "path" in body:
            return reply({"path": f"tinker://{model_id}/sampler_weights/{body['path']}"})
        sampler_id = f"{model_id.split(':')[0]}:sample:{body['sampling_session_seq_id']}"
        self.samplers[sampler_id] = (model.base_model, None, model.steps)
        return reply({"sampling_session_id": sampler_id})

    def _outputs(self, model: Model, kind: str, request: Any) -> Answer:
        if not request.data:
            model.failed_backward |= kind == "forward_backward"
            return reply({"error": "data: got 0 datums, expected at least one datum", "category": "user"})
        outputs = [{"logprobs": TensorData.from_numpy(logprobs_of(d, model.steps))} for d in request.data]
        metrics = {
            "loss:sum": sum(loss_of(d, model.steps) for d in request.data),
            "length:mean": float(np.mean([d.model_input.length for d in request.data])),
            "length:max": float(max(d.model_input.length for d in request.data)),
        }
        message = encode_forward_backward_output(ForwardBackwardOutput("ArrayRecord", outputs, metrics))
        return 200, message, "application/x-protobuf"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def _create_sampling_session(self, body: dict[str, Any]) -> Answer:
        sampler_id = f"{body['session_id']}:sample:{body['sampling_session_seq_id']}"
        self.samplers[sampler_id] = (body.get("base_model", BASE_MODEL), body.get("model_path"), 0)
        return reply({"sampling_session_id": sampler_id})

    def _asample(self, body: dict[str, Any]) -> Answer:
        sampler_id, seq = body["sampling_session_id"], body["seq_id"]
        steps = self.samplers[sampler_id][2]
        if (sampler_id, seq) not in self.promises:
            self.sampled.append((sampler_id, seq, body))
        ids = [f"{sampler_id}/{seq}/{n}" for n in range(body["num_samples"])]
        return self._promise((sampler_id, seq), self._completions(body, steps), sample_sequence_ids=ids)

    def _completions(self, body: dict[str, Any], steps: int) -> Answer:
        prompt = [t for chunk in body["prompt"]["chunks"] for t in chunk["tokens"]]
        length = body["sampling_params"].get("max_tokens", 4)
        sequences = []
        for n in range(body["num_samples"]):
            tokens = [(prompt[-1] + steps + n + i) % 200 + 10 for i in range(length)]
            sequences.append(SampledSequence("length", tokens, [-0.5] * length))
        scores = np.full(len(prompt), -1.0, np.float32)
        scores[0] = np.nan
        response = SampleResponse(sequences, prompt_logprobs_np=scores if body["prompt_logprobs"] else None)
        return 200, encode_sample_response(response), "application/x-protobuf"
