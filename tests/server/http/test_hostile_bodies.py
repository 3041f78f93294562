"""Small requests that would cost much: refused in proportion to what they bring, and nobody else is held up."""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard

from tests.server.client import PROTOBUF, Client
from tests.server.conftest import Running
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.datum import Datum
from tinsmith.types.proto import tinsmith_pb2 as pb

pytestmark = pytest.mark.anyio

MIB = 2**20
# Of the loop's own processor time, between two things that it does: however busy the machine is.
STALL_S = 0.25
MOST_BYTES = 320 * MIB


@dataclass
class Hostile:
    """A request.

    Attributes:
        path: below /api/v1/.
        body: of (model id, sampler id) its bytes, or what is written as JSON.
        kind: its Content-Type.
        encoding: its Content-Encoding.
    """

    path: str
    body: Callable[[str, str], Any]
    kind: str = "application/json"
    encoding: str | None = None


def batch(model: str, *datums: bytes, loss_fn: bytes = b"cross_entropy") -> bytes:
    """A forward_backward of datums that are given as bytes of the wire."""
    head = pb.ForwardBackwardRequest(model_id=model, seq_id=1, loss_fn=loss_fn.decode()).SerializeToString()
    return head + b"".join(b"\x1a" + _varint(len(one)) + one for one in datums)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def sparse(model: str, shape: list[int], dense: bool = False) -> bytes:
    request = pb.ForwardBackwardRequest(model_id=model, seq_id=1, loss_fn="cross_entropy")
    datum = request.data.add()
    datum.model_input.add().encoded_text.tokens = np.zeros(4, "<i4").tobytes()
    tensor = datum.loss_fn_inputs["target_tokens"]
    tensor.dtype = pb.INT64
    tensor.shape.extend(shape)
    if dense:
        tensor.dense = b""
    else:
        tensor.sparse_csr.values = np.arange(4, dtype="<i8").tobytes()
        tensor.sparse_csr.crow_indices = np.arange(5, dtype="<i8").tobytes()
        tensor.sparse_csr.col_indices = np.arange(4, dtype="<i8").tobytes()
    return request.SerializeToString()


def asample(**fields: Any) -> Callable[[str, str], Any]:
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]}
    return lambda _, sampler: {"sampling_session_id": sampler, "seq_id": 0, "prompt": prompt, **fields}


def ordered(**fields: Any) -> Callable[[str, str], Any]:
    return lambda model, _: {"model_id": model, "seq_id": 1, **fields}


def text(body: Callable[[], bytes]) -> Callable[[str, str], bytes]:
    """Made when it is sent: every worker collects the catalogue, and one sends it."""
    return lambda *_: body()


@functools.cache
def bomb() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(160 * MIB))


CSR = {"dtype": "int64", "data": [1], "sparse_crow_indices": [0, 1, 1], "sparse_col_indices": [0]}
EMPTY_FRAME = zstandard.ZstdCompressor().compress(b"")

CATALOGUE = {
    "sparse, ten million columns": Hostile("forward_backward", lambda m, _: sparse(m, [4, 10**7]), PROTOBUF),
    "sparse, a hundred million columns": Hostile("forward_backward", lambda m, _: sparse(m, [4, 10**8]), PROTOBUF),
    "sparse, rows beyond 64 bits": Hostile("forward_backward", lambda m, _: sparse(m, [2**62, 4]), PROTOBUF),
    "a product that wraps": Hostile("forward_backward", lambda m, _: sparse(m, [2**32, 2**32], True), PROTOBUF),
    "a million dimensions": Hostile("forward_backward", lambda m, _: sparse(m, [2**62] * 10**6, True), PROTOBUF),
    "dimensions that are not": Hostile("forward_backward", lambda m, _: sparse(m, [-4, -1], True), PROTOBUF),
    "empty datums": Hostile("forward_backward", lambda m, _: batch(m, *[b""] * 1_000_000), PROTOBUF),
    "a datum of empty chunks": Hostile("forward_backward", lambda m, _: batch(m, b"\x0a\x00" * 1_000_000), PROTOBUF),
    "a datum of empty tensors": Hostile("forward_backward", lambda m, _: batch(m, b"\x12\x00" * 1_000_000), PROTOBUF),
    "a loss of ten megabytes": Hostile("forward_backward", lambda m, _: batch(m, loss_fn=b"x" * 10 * MIB), PROTOBUF),
    "empty zstd frames": Hostile(
        "forward_backward", text(lambda: EMPTY_FRAME * (2 * MIB // len(EMPTY_FRAME))), PROTOBUF, "zstd"
    ),
    "a zstd bomb": Hostile("forward_backward", text(bomb), PROTOBUF, "zstd"),
    "a zstd bomb of JSON": Hostile("asample", text(bomb), encoding="zstd"),
    "a gzip bomb": Hostile("forward_backward", text(lambda: gzip.compress(bytes(80 * MIB))), PROTOBUF, "gzip"),
    "half a zstd frame": Hostile("asample", text(lambda: bomb()[: len(bomb()) // 2]), encoding="zstd"),
    "objects by the million": Hostile("create_session", text(lambda: b'{"tags":[' + b"{}," * 1_000_000 + b"1]}")),
    "31 MB of objects": Hostile("create_session", text(lambda: b'{"tags":[' + b"{}," * 10_000_000 + b"1]}")),
    "keys by the million": Hostile(
        "create_session", text(lambda: b"{%s}" % b",".join(b'"%x":1' % n for n in range(600_000)))
    ),
    "lists in lists": Hostile("create_session", text(lambda: b'{"tags":' + b"[" * 90_000 + b"]" * 90_000 + b"}")),
    "lists in lists, deeper": Hostile("create_session", text(lambda: b"[" * 4_000_000)),
    "a number of many digits": Hostile("optim_step", text(lambda: b'{"seq_id":' + b"9" * 10**6 + b"}")),
    "a surrogate alone": Hostile("create_session", text(lambda: b'{"tags":["\\ud800"],"display_name":"\\udfff"}')),
    "no UTF-8": Hostile("create_session", text(lambda: b'{"tags":["\xff\xfe"]}')),
    "a billion samples": Hostile("asample", asample(num_samples=10**9)),
    "samples beyond 64 bits": Hostile("asample", asample(num_samples=10**300)),
    "a display name of a megabyte": Hostile(
        "create_session", text(lambda: json.dumps({"display_name": "x" * MIB}).encode())
    ),
    "a million tags": Hostile("create_session", text(lambda: json.dumps({"tags": ["x"] * 190_000}).encode())),
    "a wide target": Hostile("asample", asample(target_prompt_logprobs={**CSR, "shape": [2, 10**9]})),
    "a prompt of two million": Hostile(
        "asample", asample(prompt={"chunks": [{"type": "encoded_text", "tokens": [1] * 1_000_000}]})
    ),
    "a prompt of chunks": Hostile(
        "asample", asample(prompt={"chunks": [{"type": "encoded_text", "tokens": []}] * 90_000})
    ),
    "a million stops": Hostile("asample", asample(sampling_params={"stop": ["x"] * 10**6})),
    "a stop of a megabyte": Hostile("asample", asample(sampling_params={"stop": "x" * MIB})),
    "a sampler's number, 250 digits": Hostile("save_weights_for_sampler", ordered(sampling_session_seq_id=10**250)),
    "a sampler's number, 200 digits": Hostile("save_weights_for_sampler", ordered(sampling_session_seq_id=10**200)),
    "a sampler's number, negative": Hostile("save_weights_for_sampler", ordered(sampling_session_seq_id=-1)),
    "a sampler's number, a path": Hostile("save_weights_for_sampler", ordered(sampling_session_seq_id="../../x")),
    "a place of 250 digits": Hostile("optim_step", lambda m, _: {"model_id": m, "seq_id": 10**250}),
    "a name of a megabyte": Hostile("save_weights", ordered(path="x" * MIB)),
    "a name that climbs": Hostile("save_weights", ordered(path="../../../x")),
    "a lifetime of 30 digits": Hostile("save_weights", ordered(path="x", ttl_seconds=10**30)),
    "metadata in depth": Hostile("save_weights", ordered(path="x", user_metadata={"a": [[[[{"b": [1] * 10**5}]]]]})),
    "a step beyond numbers": Hostile("optim_step", ordered(adam_params={"learning_rate": 10**400})),
}


class Loop:
    """Watches the event loop: the most processor time that it spends on one thing."""

    def __init__(self) -> None:
        self.stall = 0.0

    async def __aenter__(self) -> Loop:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()

    async def _watch(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.stall, last = max(self.stall, now - last), now


@pytest.fixture
async def running(start: Any) -> Running:
    return await start()


@pytest.mark.slow
@pytest.mark.row(213)
async def test_memory_stays_in_proportion(running: Running) -> None:
    """Slow, because counting every allocation takes several times as long as making them."""
    client = await running.client("hostile")
    for name, hostile in CATALOGUE.items():
        made = await _made(client, hostile)
        gc.collect()
        tracemalloc.start()
        try:
            await _send(client, hostile, made)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # For a decompressed body and its copy, and what orjson reserves (but hardly touches) for JSON.
        assert peak < MOST_BYTES, name


@pytest.mark.row(213)
async def test_all_are_refused_and_hold_up_nobody(running: Running) -> None:
    client, other = await running.client("hostile"), await running.client("other")
    for name, hostile in CATALOGUE.items():
        made = await _made(client, hostile)
        async with Loop() as loop:
            answer = await _send(client, hostile, made)
        assert answer.status_code < 500, f"{name}: {answer.text}"
        assert answer.status_code >= 400 or "error" in answer.json(), f"{name}: {answer.text}"
        assert len(answer.content) < 4096, name
        assert loop.stall < STALL_S, name
    # Another tenant trains and samples as if nothing had been.
    model = await other.create_model()
    assert (await other.result(await other.post_pass(model, 1, 2))).metrics
    sampler = await other.snapshot(model)
    assert (await other.result(await other.post_sample(sampler))).sequences


async def _made(client: Client, hostile: Hostile) -> bytes:
    model = await client.create_model()
    made = hostile.body(model, await client.snapshot(await client.create_model()))
    return made if isinstance(made, bytes) else json.dumps(made).encode()


async def _send(client: Client, hostile: Hostile, body: bytes) -> httpx.Response:
    headers = {"Content-Type": hostile.kind} | ({"Content-Encoding": hostile.encoding} if hostile.encoding else {})
    answer = await client.http.post(f"/api/v1/{hostile.path}", content=body, headers=headers)
    if answer.status_code == 200 and "request_id" in answer.json():
        answer = await client.http.post("/api/v1/retrieve_future", json={"request_id": answer.json()["request_id"]})
    return answer


async def test_what_fits_the_limits_is_taken(running: Running) -> None:
    """The same kinds, as large as an honest client may send them."""
    client = await running.client()
    model = await client.create_model()
    tokens = list(range(1, 41))
    rows = len(tokens)
    targets = np.zeros((rows, 64), np.int64)
    targets[:, 0] = tokens
    wide = Datum(tokens=tokens, targets=tokens, weights=[1.0] * rows)
    body = encode_forward_backward_request(model, 1, [wide] * 4096, "cross_entropy")
    frames = b"".join(zstandard.ZstdCompressor().compress(body[at : at + 4096]) for at in range(0, 2**20, 4096))
    frames += zstandard.ZstdCompressor().compress(body[2**20 :])
    answer = await client.http.post(
        "/api/v1/forward_backward", content=frames, headers={"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    )
    promise = answer.json()
    assert (await client.result(promise)).metrics
