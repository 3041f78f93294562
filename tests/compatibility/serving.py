"""`tinsmith serve` on a data folder that somebody else has filled, and a raw client that knows nothing but HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.spawn import ServerProcess, free_port, tinsmith_command
from tests.support.live_server import KEY
from tinsmith.types.proto import tinsmith_pb2 as pb

BEFORE = Path(__file__).parent / "before"
BASE = BEFORE / "base"
MODEL = "compatibility/tiny"
VOCABULARY = 320
PROTOBUF = "application/x-protobuf"
ADAM = {"learning_rate": 5e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.01, "grad_clip_norm": 1.0}

# What was stored long ago must not look abandoned, and nothing of it may be forgotten while it is looked at.
_PATIENCE = {"TINSMITH_SESSION_TIMEOUT_S": "1e10", "TINSMITH_RESULT_RETENTION_S": "1e10"}
# A poll that is answered late would be answered twice, and two recordings would differ.
_LONG_POLLS = {"TINSMITH_LONG_POLL_S": "40"}


def server_on(data_dir: Path, folder: Path, *, key: str | None = None, **settings: str) -> ServerProcess:
    """Return a server, not yet started, of the tiny model on a data folder.

    Args:
        data_dir: the data folder.
        folder: for its log and its home.
        key: the first API key of a data folder that has none yet.
        settings: further environment variables.
    """
    port = free_port()
    command = tinsmith_command(port, data_dir, {MODEL: str(BASE)}, "--device", "cpu")
    env = {"TINSMITH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", **_PATIENCE, **_LONG_POLLS, **settings}
    return ServerProcess(command, port, folder / "serve.log", env if key is None else {**env, "TINSMITH_API_KEY": key})


class Raw:
    """Requests by hand.

    Args:
        url: of the service.
        key: an API key.
    """

    def __init__(self, url: str, key: str = KEY) -> None:
        self.http = httpx.Client(base_url=f"{url}/api/v1/", headers={"X-API-Key": key}, timeout=60.0)

    def post(self, path: str, body: Any) -> httpx.Response:
        """POST a JSON object, or the bytes of a protobuf message."""
        if isinstance(body, bytes):
            return self.http.post(path, content=body, headers={"Content-Type": PROTOBUF})
        return self.http.post(path, json=body)

    def answer(self, path: str, body: Any) -> dict[str, Any]:
        """POST and return the JSON that answers it."""
        found = self.post(path, body)
        assert found.status_code == 200, found.text
        return found.json()

    def submit(self, path: str, body: Any) -> str:
        """POST an operation and return its request id."""
        return self.answer(path, body)["request_id"]

    def outcome(self, request_id: str, seconds: float = 60.0) -> httpx.Response:
        """Poll until an operation has an outcome."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.http.post("retrieve_future", json={"request_id": request_id}, headers={"Accept": PROTOBUF})
            if found.status_code != 408:
                assert found.status_code == 200, found.text
                return found
            assert time.monotonic() < deadline, f"{request_id} has no outcome after {seconds} s"

    def done(self, path: str, body: Any) -> httpx.Response:
        """POST an operation and wait for its outcome."""
        return self.outcome(self.submit(path, body))


def tensor(values: Any) -> pb.Tensor:
    """Return a dense tensor message."""
    array = np.asarray(values)
    whole = array.dtype.kind in "iu"
    packed = array.astype("<i8" if whole else "<f4").tobytes()
    return pb.Tensor(dense=packed, dtype=pb.INT64 if whole else pb.FLOAT32, shape=array.shape)


def pass_body(model_id: str, seq_id: int, seed: int, *, loss_fn: str = "cross_entropy", **how: Any) -> bytes:
    """Return the body of a pass over random tokens.

    Args:
        model_id: the model.
        seq_id: its place in the model's order.
        seed: of the tokens.
        loss_fn: the policy losses get their inputs, too.
        how: `lengths` of the datums; `forward_only`; `first_token` instead of a random one; `logprobs` that all
            positions were sampled with.
    """
    rng = np.random.default_rng(seed)
    request = pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id, loss_fn=loss_fn, forward_only=how.get("forward_only", False)
    )
    for length in how.get("lengths", (12, 20)):
        tokens = rng.integers(0, VOCABULARY, length)
        tokens[0] = how.get("first_token", tokens[0])
        message = request.data.add()
        message.model_input.add().encoded_text.tokens = tokens.astype("<i4").tobytes()
        message.loss_fn_inputs["target_tokens"].CopyFrom(tensor(rng.integers(0, VOCABULARY, length)))
        if loss_fn == "cross_entropy":
            message.loss_fn_inputs["weights"].CopyFrom(tensor(rng.random(length, np.float32)))
        else:
            message.loss_fn_inputs["advantages"].CopyFrom(tensor(rng.normal(size=length).astype(np.float32)))
            logprobs = np.full(length, how.get("logprobs", -5.5), np.float32)
            message.loss_fn_inputs["logprobs"].CopyFrom(tensor(logprobs))
    return request.SerializeToString(deterministic=True)


def sample_body(sampler_id: str, seq_id: int, prompt: Sequence[int] = (1, 2, 3), **fields: Any) -> dict[str, Any]:
    """Return the body of a request for two samples."""
    return {
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
        "sampling_params": {"max_tokens": 6, "seed": 5, "temperature": 1.0, "stop": []},
        **fields,
    }
