"""A service that is used for a while, run under the recorder; notes each answer as soon as it has come.

Usage: python -m tests.server.store.power.scenario HOME ANSWERS
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.server.client import Client, datum
from tests.server.conftest import Running
from tests.support.fakes.fake_link import FakeLink
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings
from tinsmith.types.codec import encode_forward_backward_request


def options() -> dict[str, Any]:
    """The settings of the service, here and after the power loss."""
    return {"durability": "full", "long_poll_s": 5.0, "recovery_interval_s": 1e-9}


class Notes:
    """Answers, in a file that the recorder sees."""

    def __init__(self, file: Path) -> None:
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT)

    def add(self, kind: str, **told: Any) -> None:
        os.write(self._handle, json.dumps({"kind": kind, **told}).encode() + b"\n")


async def settle(client: Client, notes: Notes, promise: dict[str, Any]) -> Any:
    notes.add("promise", promise=promise)
    result = await client.result(promise)
    notes.add("result", promise=promise, result=repr(result))
    return result


async def run(home: Path, answers: Path) -> None:
    notes = Notes(answers)
    link = FakeLink()
    service = Service(Settings(home=home, **options()), link, BaseModels({i.name: home for i in link.infos}))
    await service.start()
    await service.wait_ready()
    running = Running(service, link)
    key = await service.keys.create("local", "test")
    client = Client(running.http(key))
    await client.open()
    notes.add("session", key=key, session_id=client.session_id)
    model = await client.create_model()
    notes.add("model", model=model)
    for step in range(3):
        await settle(client, notes, await client.post_pass(model, *range(step + 2)))
        body = encode_forward_backward_request(model, client.seq(model), [datum(*range(60))] * 400, "cross_entropy")
        await settle(client, notes, await client.post("forward_backward", body))
        stepped = await settle(client, notes, await client.post_step(model))
        weight = stepped["metrics"]["weight"]
        path = await client.save_state(model, f"s{step}")
        notes.add("saved", path=path, weight=weight)
        path = await client.save_state(model, "again", overwrite=True)
        notes.add("saved", path=path, weight=weight)
        sampler = await client.snapshot(model)
        notes.add("sampler", sampler=sampler, weight=weight)
        of_file = await client.sampler(model_path=await client.save_sampler(model, f"w{step}"))
        notes.add("sampler", sampler=of_file, weight=weight)
        await settle(client, notes, await client.post_sample(sampler, 0, {"seed": 1}))
        loaded = await client.load(path)
        notes.add("loaded", model=loaded, weight=weight)
        if step:
            run_id, name = model, f"s{step - 1}"
            notes.add("deleting", path=f"tinker://{run_id}/weights/{name}")
            answer = await client.http.delete(f"/api/v1/training_runs/{run_id}/checkpoints/weights/{name}")
            assert answer.status_code == 204
            notes.add("deleted", path=f"tinker://{run_id}/weights/{name}")
    # Killed, so that nothing is put in order at the end.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
