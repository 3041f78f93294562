"""A service that speaks the protocol and computes nothing: the floor under every number of `benchmarks.service`.

Requests are decoded and answers encoded, as any service must; logprobs are constants and every sample is a run of the
same token. What the official SDK costs by itself is what is measured against it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinsmith.types.codec import (
    decode_forward_backward_request,
    encode_forward_backward_output,
    encode_sample_response,
)
from tinsmith.types.compression import zstd_decompress
from tinsmith.types.names.http_names import PROTOBUF
from tinsmith.types.outputs import ForwardBackwardOutput, SampledSequence, SampleResponse
from tinsmith.types.tensor import TensorData

LOGPROB = -1.0
_LARGEST_BODY = 1 << 30


class NoopService:
    """The state of the service: counters, models, and results that wait to be fetched."""

    def __init__(self, model: str, vocab_size: int, context_length: int) -> None:
        self._model = model
        self._token = vocab_size - 1
        self._context_length = context_length
        self._numbers = itertools.count(1)
        self._results: dict[str, Response] = {}

    def routes(self) -> list[Route]:
        """Return every route that a training and sampling client needs."""
        post: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "client/config": self._empty,
            "client/dynamic_config": self._empty,
            "create_session": self._create_session,
            "session_heartbeat": self._heartbeat,
            "telemetry": self._telemetry,
            "create_model": self._create_model,
            "get_info": self._get_info,
            "forward_backward": self._forward_backward,
            "optim_step": self._optim_step,
            "save_weights": self._save_weights,
            "save_weights_for_sampler": self._save_weights_for_sampler,
            "create_sampling_session": self._create_sampling_session,
            "asample": self._asample,
            "retrieve_future": self._retrieve_future,
            "sessions/{session_id}/finish": self._empty,
        }
        routes = [Route(f"/api/v1/{path}", handler, methods=["POST"]) for path, handler in post.items()]
        routes.append(Route("/healthz", self._health))
        routes.append(Route("/api/v1/get_server_capabilities", self._capabilities))
        return routes

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _empty(self, request: Request) -> Response:
        return JSONResponse({})

    async def _heartbeat(self, request: Request) -> Response:
        return JSONResponse({"type": "session_heartbeat"})

    async def _telemetry(self, request: Request) -> Response:
        return JSONResponse({"status": "accepted"})

    async def _capabilities(self, request: Request) -> Response:
        model = {"model_name": self._model, "max_context_length": self._context_length}
        return JSONResponse({"supported_models": [model]})

    async def _create_session(self, request: Request) -> Response:
        return JSONResponse({"session_id": f"s{next(self._numbers)}"})

    async def _create_model(self, request: Request) -> Response:
        body = await request.json()
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        return self._promise({"type": "create_model", "model_id": model_id})

    async def _get_info(self, request: Request) -> Response:
        model_id = (await request.json())["model_id"]
        data = {"arch": "noop", "model_name": self._model, "tokenizer_id": self._model}
        return JSONResponse({"model_id": model_id, "model_data": data, "is_lora": True, "model_name": self._model})

    async def _forward_backward(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "zstd":
            body = zstd_decompress(body, _LARGEST_BODY)
        decoded = decode_forward_backward_request(body)
        shapes = [datum.loss_fn_inputs["target_tokens"].shape for datum in decoded.data]
        outputs = [{"logprobs": TensorData.from_numpy(np.full(shape, LOGPROB, np.float32))} for shape in shapes]
        tokens = sum(int(np.prod(shape)) for shape in shapes)
        output = ForwardBackwardOutput("ArrayRecord", outputs, {"loss:sum": -LOGPROB * tokens})
        return self._promise(encode_forward_backward_output(output))

    async def _optim_step(self, request: Request) -> Response:
        return self._promise({"metrics": {"grad_norm": 0.0}})

    async def _save_weights(self, request: Request) -> Response:
        body = await request.json()
        return self._promise({"path": f"tinker://{body['model_id']}/weights/{body['path']}", "type": "save_weights"})

    async def _save_weights_for_sampler(self, request: Request) -> Response:
        body = await request.json()
        answer: dict[str, Any] = {"type": "save_weights_for_sampler"}
        if body.get("path"):
            answer["path"] = f"tinker://{body['model_id']}/sampler_weights/{body['path']}"
        else:
            answer["sampling_session_id"] = f"{body['model_id']}:sample:{body['sampling_session_seq_id']}"
        return self._promise(answer)

    async def _create_sampling_session(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse({"sampling_session_id": f"{body['session_id']}:sample:{body['sampling_session_seq_id']}"})

    async def _asample(self, request: Request) -> Response:
        body = await request.json()
        prompt = sum(len(chunk["tokens"]) for chunk in body["prompt"]["chunks"])
        length = body["sampling_params"].get("max_tokens") or 1
        tokens, logprobs = [self._token] * length, [LOGPROB] * length
        sequence = SampledSequence(stop_reason="length", tokens=tokens, logprobs=logprobs)
        sequences = [sequence] * body.get("num_samples", 1)
        prompt_logprobs = None
        if body.get("prompt_logprobs"):
            prompt_logprobs = np.full(prompt, LOGPROB, np.float32)
            prompt_logprobs[0] = np.nan
        response = SampleResponse(sequences=sequences, prompt_logprobs_np=prompt_logprobs)
        ids = [f"q{next(self._numbers)}" for _ in sequences]
        return self._promise(encode_sample_response(response), sample_sequence_ids=ids)

    async def _retrieve_future(self, request: Request) -> Response:
        request_id = (await request.json())["request_id"]
        result = self._results.pop(request_id, None)
        return result or JSONResponse({"detail": f"request_id: got {request_id!r}, expected a live id"}, 404)

    def _promise(self, result: dict[str, Any] | bytes, **fields: Any) -> Response:
        request_id = f"r{next(self._numbers)}"
        json_result = isinstance(result, dict)
        self._results[request_id] = JSONResponse(result) if json_result else Response(result, media_type=PROTOBUF)
        return JSONResponse({"request_id": request_id, **fields})


def make_app(model: str, vocab_size: int, context_length: int = 1024) -> Starlette:
    """Return the no-op service as an ASGI app that claims to serve one model."""
    return Starlette(routes=NoopService(model, vocab_size, context_length).routes())


def main() -> None:
    """Serve on the loopback address until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--model", default="tinsmith-tiny")
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--context-length", type=int, default=1024)
    args = parser.parse_args()
    app = make_app(args.model, args.vocab_size, args.context_length)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
