"""A service with a fake engine, one tenant who has one of everything, and what a valid request to each route holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI
from starlette.routing import Route

from tests.support.fakes.fake_link import FakeLink
from tinsmith.model_files.safetensors_header import TensorEntry, make_header
from tinsmith.server.http.app import create_app
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.datum import Datum

_ADAM = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0}
_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
_Q = "base_model.model.model.layers.0.self_attn.q_proj"
_ENTRIES = {f"{_Q}.lora_A.weight": TensorEntry("F32", (4, 8)), f"{_Q}.lora_B.weight": TensorEntry("F32", (8, 4))}

Headers = list[tuple[bytes, bytes]]


class World:
    """The service and the ids that a tenant has."""

    def __init__(self, service: Service, key: str) -> None:
        self.service = service
        self.key = key
        self.app: FastAPI = create_app(service)
        self.ids: dict[str, str] = {}
        self.next_seq = 0

    async def renew(self) -> None:
        """End all sessions and make one of everything anew."""
        service = self.service
        for session in list(service.core.live.sessions.values()):
            await service.sessions.end(session, "interrupted", "the next round begins")
        session = (await self._ask("create_session", {"tags": [], "user_metadata": {}}))["session_id"]
        self.next_seq = 1
        made = await self._future("create_model", {**self._fields(session, "-"), "model_seq_id": 0})
        model = made["model_id"]
        self.ids = {"session_id": session, "run_id": model, "kind": "weights", "name": "a", "file": "weights.json"}
        numbered = {"model_id": model, "seq_id": 1, "path": "a"}
        self.ids["path"] = (await self._future("save_weights", numbered))["path"]
        numbered = {"model_id": model, "seq_id": 2, "sampling_session_seq_id": 0}
        self.ids["sampler_id"] = (await self._future("save_weights_for_sampler", numbered))["sampling_session_id"]
        self.next_seq = 3
        sample = {**self._fields(session, model), "sampling_session_id": self.ids["sampler_id"]}
        self.ids["request_id"] = (await self._ask("asample", sample))["request_id"]

    def fields(self) -> dict[str, Any]:
        """Return a body that is valid for every route that takes JSON: each reads the fields that it knows."""
        return self._fields(self.ids["session_id"], self.ids["run_id"]) | {
            "sampling_session_id": self.ids["sampler_id"],
            "request_id": self.ids["request_id"],
            "tinker_path": self.ids["path"],
        }

    def _fields(self, session: str, model: str) -> dict[str, Any]:
        return {
            "session_id": session,
            "model_id": model,
            "seq_id": self.next_seq,
            "model_seq_id": 1000 + self.next_seq,
            "sampling_session_seq_id": 1000 + self.next_seq,
            "base_model": "tiny",
            "lora_config": {"rank": 4, "seed": 3, "train_mlp": True},
            "optimizer_config": {"type": "adamw"},
            "adam_params": dict(_ADAM),
            "num_samples": 2,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
            "sampling_params": {
                "max_tokens": 4,
                "seed": 1,
                "stop": ["a"],
                "temperature": 1.0,
                "top_k": -1,
                "top_p": 1.0,
            },
            "prompt_logprobs": True,
            "topk_prompt_logprobs": 2,
            "reason": {"type": "success"},
            "detail": "done",
            "path": self.ids.get("path", "a"),
            "optimizer": True,
            "ttl_seconds": 7200,
            "user_metadata": {"a": 1},
            "tags": ["t"],
            "display_name": "n",
            "project_id": "p",
            "overwrite": True,
            "kind": "snapshot",
        }

    def body_of(self, route: str) -> bytes | dict[str, Any]:
        """Return a valid body of a route: fields, or bytes where it takes no JSON."""
        name = route.rsplit("/", 1)[-1]
        if name == "forward_backward":
            row = Datum(tokens=[1, 2, 3], targets=[2, 3, 4], weights=[1.0, 1.0, 0.5])
            return encode_forward_backward_request(self.ids["run_id"], self.next_seq, [row, row], "cross_entropy")
        fields = self.fields()
        if name in ("save_weights", "save_weights_external"):
            fields["path"] = f"n{self.next_seq}"
        if name == "save_weights_for_sampler":
            del fields["path"]
        return fields

    def adapter(self) -> tuple[dict[str, Any], bytes, bytes]:
        """Return the three parts of an import: its line, the list of tensors, the data."""
        line = {"base_model": "tiny", "name": "mine", "adapter_config": json.loads(json.dumps(_CONFIG))}
        return line, make_header(_ENTRIES, {"format": "pt"}), bytes(256)

    def routes(self) -> list[tuple[str, str]]:
        """Return every method and path of the app, from its own table."""
        return list(_walk(self.app.routes))

    async def _ask(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = [(b"x-api-key", self.key.encode())]
        status, answer = await exchange(self.app, "POST", f"/api/v1/{name}", b"", headers, json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{name}: got {status} {answer!r}, expected 200")
        return json.loads(answer)

    async def _future(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        promise = await self._ask(name, body)
        record = self.service.core.futures.find(promise["request_id"])
        if record is None or not await self.service.core.futures.wait(record, 30.0):
            raise RuntimeError(f"{name}: got no result in 30 s")
        return await self._ask("retrieve_future", {"request_id": record.request_id})


def _walk(found: Any) -> Iterator[tuple[str, str]]:
    for route in found:
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods or ()))
        else:
            yield from _walk(route.original_router.routes)


@asynccontextmanager
async def new_world(home: Path) -> AsyncIterator[World]:
    """Run a service on an empty folder; its engine computes nothing and checks nothing."""
    link = FakeLink()
    settings = Settings(
        home=home, long_poll_s=0.01, recovery_interval_s=1e9, max_models_per_key=10_000, max_refusals_per_key=10**9
    )
    service = Service(settings, link, BaseModels({info.name: home for info in link.infos}))
    await service.start()
    try:
        await service.wait_ready()
        world = World(service, await service.keys.create("tenant", "fuzz"))
        await world.renew()
        yield world
    finally:
        await service.stop()


async def exchange(
    app: FastAPI, method: str, path: str, query: bytes, headers: Headers, body: bytes
) -> tuple[int, bytes]:
    """Send one request as a server would hand it over, and return the status and the answer; 599 if there was none."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent = False
    status, chunks = 599, bytearray()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Future[None]()  # the client stays until it has its answer
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.extend(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        # Raised again for the server's log, after a 500 was sent.
        if status < 500:
            status = 599
    return status, bytes(chunks)
