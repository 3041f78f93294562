"""A raw client for what the official SDK would not send: it builds bodies by hand and follows the future to its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from tests.support.checkpoints import SHAPE
from tests.support.live_server import LLAMA, LiveServer
from tinsmith.types.proto import tinsmith_pb2 as pb

TOKENS = [5, 6, 7, 8]


@dataclass(frozen=True)
class Answer:
    """How a request ended.

    Attributes:
        status: of the HTTP answer, or of the poll that brought the outcome.
        category: of a failed future; None where the request itself was refused.
        message: `detail` or `error`.
    """

    status: int
    category: str | None
    message: str


def tensor(values: Any, dtype: int | None = None, shape: Sequence[int] | None = None) -> pb.Tensor:
    """Make a tensor message, whole numbers as INT64 and others as FLOAT32 unless told otherwise."""
    array = np.asarray(values)
    whole = array.dtype.kind in "iu"
    dtype = dtype if dtype is not None else (pb.INT64 if whole else pb.FLOAT32)
    packed = array.astype("<i8" if dtype == pb.INT64 else "<f4").tobytes()
    return pb.Tensor(dense=packed, dtype=dtype, shape=array.shape if shape is None else shape)


def datum(tokens: Sequence[int] = TOKENS, **inputs: Any) -> pb.Datum:
    """Make a datum message; targets are the tokens themselves unless given, and an input of None is left out."""
    message = pb.Datum()
    message.model_input.add().encoded_text.tokens = np.asarray(tokens, "<i4").tobytes()
    for key, value in ({"target_tokens": list(tokens)} | inputs).items():
        if value is not None:
            message.loss_fn_inputs[key].CopyFrom(value if isinstance(value, pb.Tensor) else tensor(value))
    return message


class Door:
    """One session of a raw client, with a model of its own that counts its sequence numbers."""

    def __init__(self, server: LiveServer) -> None:
        self.http = server.http()
        self.http.headers["Accept"] = "application/json"  # results in JSON, too
        self.session_id = self._json("create_session", {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"})[
            "session_id"
        ]
        self._models = 0
        self._samplers = 0
        self._samples = 0
        self._seq: dict[str, int] = {}
        self.model_id = self.new_model()
        self.sampler_id = self.new_sampler(base_model=LLAMA)["sampling_session_id"]
        self.state = self.outcome("save_weights", self.ordered(path="state")).json()["path"]
        self.sampler_path = self.outcome("save_weights_for_sampler", self.ordered(path="sampler")).json()["path"]

    def close(self) -> None:
        """Finish the session."""
        self.post(f"sessions/{self.session_id}/finish", {"reason": {"type": "success"}, "detail": None})
        self.http.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST a JSON body (NaN allowed) or bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(f"/api/v1/{path}", content=content, headers=headers)

    def _json(self, path: str, body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ordered(self, **fields: Any) -> dict[str, Any]:
        """Return the body of the model's next ordered operation."""
        return {"model_id": self.model_id, "seq_id": self.next_seq(), **fields}

    def next_seq(self) -> int:
        """Count one place further in the model's order."""
        self._seq[self.model_id] = self._seq.get(self.model_id, 0) + 1
        return self._seq[self.model_id]

    def create_model(self, base_model: str = LLAMA, optimizer: str = "adamw", **lora: Any) -> httpx.Response:
        """Ask for a model; return the last answer of its future."""
        self._models += 1
        config = {"rank": 4, "seed": 0, "train_unembed": True, "train_mlp": True, "train_attn": True} | lora
        body = {"session_id": self.session_id, "model_seq_id": self._models, "base_model": base_model}
        return self.outcome("create_model", body | {"lora_config": config, "optimizer_config": {"type": optimizer}})

    def new_model(self) -> str:
        """Create a model and return its id."""
        return self.create_model().json()["model_id"]

    def load(self, path: str, **fields: Any) -> httpx.Response:
        """Ask for a model from a checkpoint."""
        self._models += 1
        body = {"session_id": self.session_id, "model_seq_id": self._models, "path": path, "optimizer": True}
        return self.outcome("load_weights", body | fields)

    def new_sampler(self, **fields: Any) -> dict[str, Any]:
        """Create a sampling session."""
        return self.create_sampler(**fields).json()

    def create_sampler(self, **fields: Any) -> httpx.Response:
        """Ask for a sampling session."""
        self._samplers += 1
        body = {"session_id": self.session_id, "sampling_session_seq_id": self._samplers, **fields}
        return self.post("create_sampling_session", body)

    def train(self, *data: pb.Datum, loss_fn: str = "cross_entropy", **config: Any) -> httpx.Response:
        """Send a forward_backward; return the last answer of its future."""
        return self.outcome("forward_backward", self.training_body(*data, loss_fn=loss_fn, **config))

    def pairs(self, *data: pb.Datum, **config: Any) -> httpx.Response:
        """Send preference pairs; return the last answer of their future."""
        return self.train(*data, loss_fn="dpo", **config)

    def training_body(
        self, *data: pb.Datum, loss_fn: str = "cross_entropy", model_id: str | None = None, **config: Any
    ) -> bytes:
        """Return the bytes of a forward_backward at the model's next place."""
        request = pb.ForwardBackwardRequest(
            model_id=model_id or self.model_id,
            seq_id=1 if model_id else self.next_seq(),
            data=data,
            loss_fn=loss_fn,
        )
        for key, value in config.items():
            if isinstance(value, str):
                request.loss_fn_config_v2[key].text = value
            else:
                request.loss_fn_config_v2[key].number = value
        return request.SerializeToString()

    def step(self, **adam: Any) -> httpx.Response:
        """Send an optim_step."""
        return self.outcome("optim_step", self.ordered(adam_params={"learning_rate": 1e-4} | adam))

    def sample(self, prompt: Sequence[int] = TOKENS, n: int = 1, sampler: str | None = None, **params: Any):
        """Send an asample; keywords that are no sampling parameter go into the body itself."""
        self._samples += 1
        own = {"max_tokens", "seed", "stop", "temperature", "top_k", "top_p"}
        body = {
            "sampling_session_id": sampler or self.sampler_id,
            "seq_id": self._samples,
            "num_samples": n,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
            "sampling_params": {"max_tokens": 2} | {k: v for k, v in params.items() if k in own},
            **{k: v for k, v in params.items() if k not in own},
        }
        return self.outcome("asample", body)

    # -- answers ------------------------------------------------------------------------------------------------------

    def outcome(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST, and if a future was answered, poll it to its end."""
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/x-protobuf"} | headers
        answer = self.post(path, body, **headers)
        if answer.status_code != 200 or "request_id" not in answer.json():
            return answer
        request_id = answer.json()["request_id"]
        while True:
            answer = self.post("retrieve_future", {"request_id": request_id, "allow_metadata_only": False})
            if answer.status_code != 408:
                return answer


def read(answer: httpx.Response) -> Answer:
    """Read a refusal or a failed future; anything else is no refusal."""
    body = answer.json()
    if "error" in body:
        return Answer(answer.status_code, body["category"], body["error"])
    assert answer.status_code >= 400, f"the request was carried out: {body}"
    return Answer(answer.status_code, None, body["detail"])


def too_long() -> list[int]:
    """One token more than the context."""
    return [1] * (SHAPE.context_length + 1)
