"""Sends random requests and counts what comes of them, route by route."""

from __future__ import annotations

import asyncio
import json
import random
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz import mutations
from benchmarks.fuzz.world import World, exchange, new_world
from tinsmith.server.state.records import State
from tinsmith.types.errors import RequestErrorCategory

# Requests between two fresh starts of the tenant: some end its session or delete what it has.
_ROUND = 150
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


@dataclass
class RouteReport:
    """What came of a route's inputs.

    Attributes:
        inputs: requests sent.
        statuses: how often each status was answered.
        faults: answers of 5xx and futures that failed by the service's fault.
        stall_ms: the most processor time of the event loop in one request.
    """

    inputs: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])
    faults: int = 0
    stall_ms: float = 0.0


@dataclass
class Report:
    """All routes, and an example of each fault: the request and what was answered."""

    routes: dict[str, RouteReport] = field(default_factory=dict[str, RouteReport])
    examples: list[str] = field(default_factory=list[str])

    @property
    def faults(self) -> int:
        """Answers of 5xx and futures that failed by the service's fault."""
        return sum(one.faults for one in self.routes.values())


class Fuzzer:
    """Sends random requests in one order, which the seed fixes."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._rng = random.Random(seed)
        self._routes = world.routes()
        self._promised: list[tuple[str, str, str]] = []
        self.report = Report()

    async def run(self, inputs: int) -> Report:
        """Send so many requests."""
        for number in range(inputs):
            if number % _ROUND == 0:
                self._settle()
                await self._world.renew()
            await self._one()
        await asyncio.sleep(0.1)
        self._settle()
        return self.report

    async def _one(self) -> None:
        rng, world = self._rng, self._world
        method, route = rng.choice(self._routes)
        if rng.random() < 0.03:
            method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
        path = self._path(route)
        body, usual = self._body(route)
        query = mutations.query(rng, "tiny")
        headers = mutations.headers(rng, world.key, usual)
        began = time.thread_time()
        status, answer = await exchange(world.app, method, path, query, headers, body)
        spent = (time.thread_time() - began) * 1e3
        name = f"{method} {route}" if (method, route) in self._routes else "another method"
        told = self.report.routes.setdefault(name, RouteReport())
        told.inputs += 1
        told.statuses[status] += 1
        told.stall_ms = max(told.stall_ms, spent)
        sent = f"{method} {path[:200]} ?{query[:100]!r} {headers!r:.400} {body[:1500]!r}"
        if status >= 500:
            self._fault(name, f"{sent}\n  -> {status} {answer[:500]!r}")
        elif status == 200 and b'"request_id' in answer:
            self._promise(name, sent, answer)
        if status == 200:
            world.next_seq += route.endswith(("forward_backward", "optim_step", "save_weights", "for_sampler"))

    def _path(self, route: str) -> str:
        parts: list[str] = []
        for part in route.split("/"):
            known = self._world.ids.get(part.strip("{}").removesuffix(":path"), "x")
            parts.append(mutations.segment(self._rng, known.replace(":", "%3A")) if part.startswith("{") else part)
        return "/".join(parts)

    def _body(self, route: str) -> tuple[bytes, str]:
        rng = self._rng
        if route.endswith("/import_checkpoint"):
            return self._adapter(), "application/octet-stream"
        valid = self._world.body_of(route)
        if isinstance(valid, dict):
            return mutations.json_body(rng, valid), _JSON
        return mutations.spoil_bytes(rng, valid) if rng.random() < 0.9 else valid, _PROTOBUF

    def _adapter(self) -> bytes:
        rng = self._rng
        line, header, data = self._world.adapter()
        told = json.dumps(line).encode() if rng.random() < 0.5 else mutations.json_body(rng, line)
        if rng.random() < 0.7:
            entries = mutations.json_body(rng, json.loads(header[8:]))
            length = rng.choice((0, 2**63, 2**64 - 1, 3)) if rng.random() < 0.05 else len(entries)
            header = struct.pack("<Q", length) + entries
        whole = told + b"\n" + header + data
        return mutations.spoil_bytes(rng, whole) if rng.random() < 0.1 else whole

    def _promise(self, name: str, sent: str, answer: bytes) -> None:
        fields: dict[str, Any] = json.loads(answer)
        for request_id in [fields.get("request_id"), *fields.get("request_ids", [])]:
            if request_id is not None:
                self._promised.append((request_id, name, sent))

    def _settle(self) -> None:
        """Look at the futures of this round."""
        for request_id, name, sent in self._promised:
            record = self._world.service.core.futures.find(request_id)
            if record is None or record.state is not State.FAILED:
                continue
            if record.category is RequestErrorCategory.SERVER:
                self._fault(name, f"{sent}\n  -> a failed future: {record.error}")
        self._promised = []

    def _fault(self, name: str, example: str) -> None:
        told = self.report.routes[name]
        told.faults += 1
        if told.faults <= 5:
            self.report.examples.append(example)


async def fuzz(home: Path, inputs: int, seed: int) -> Report:
    """Send random requests to a new service in an empty folder."""
    async with new_world(home) as world:
        return await Fuzzer(world, seed).run(inputs)
