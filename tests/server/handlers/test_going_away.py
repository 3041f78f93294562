"""Requests that go away, or come twice, or find the disk full, while they are being stored."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.server.client import ADAM, Client
from tests.server.conftest import Running, soon
from tests.server.disk import Disk

pytestmark = pytest.mark.anyio

# What changes both memory and database.
REQUESTS = ["create_model", "optim_step", "snapshot", "asample", "create_sampling_session", "finish"]


class Asking:
    """A client with a model, a sampler and a disk, and its next request."""

    def __init__(self, running: Running, client: Client, model: str, sampler: str, name: str) -> None:
        self.disk = Disk(running)
        self.client = client
        fields: dict[str, Any] = {
            "create_model": {
                "session_id": client.session_id,
                "model_seq_id": 7,
                "base_model": "tiny",
                "lora_config": {"rank": 4},
            },
            "optim_step": {"model_id": model, "seq_id": 1, "adam_params": ADAM},
            "snapshot": {"model_id": model, "seq_id": 1, "sampling_session_seq_id": 7},
            "asample": {
                "sampling_session_id": sampler,
                "seq_id": 0,
                "num_samples": 1,
                "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
                "sampling_params": {"max_tokens": 2},
            },
            "create_sampling_session": {
                "session_id": client.session_id,
                "sampling_session_seq_id": 7,
                "base_model": "tiny",
            },
            "finish": {"reason": {"type": "success"}},
        }
        doors = {"snapshot": "save_weights_for_sampler", "finish": f"sessions/{client.session_id}/finish"}
        self.path, self.body = f"/api/v1/{doors.get(name, name)}", fields[name]

    def post(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.http.post(self.path, json=self.body))


@pytest.fixture(params=REQUESTS)
async def asking(request: pytest.FixtureRequest, running: Running) -> Asking:
    client = await running.client()
    model = await client.create_model()
    return Asking(running, client, model, await client.sampler(base_model="tiny"), request.param)


async def test_one_that_goes_away_is_carried_out_and_its_repeat_gets_the_same(asking: Asking, running: Running) -> None:
    asking.disk.hold()
    first = asking.post()
    await asking.disk.reached()
    first.cancel()
    await asyncio.wait([first])
    second = asking.post()
    asking.disk.go_on()
    answers = [await second, await asking.post()]
    assert [answer.status_code for answer in answers] in ([200, 200], [204, 204]), answers[0].text
    assert answers[0].content == answers[1].content
    if "finish" in asking.path:
        await soon(lambda: asking.client.session_id not in running.service.core.live.sessions)
    elif "request_id" in answers[0].text:
        await asking.client.result(answers[0].json())


async def test_a_repeat_is_answered_no_earlier_than_the_first_is_stored(asking: Asking) -> None:
    asking.disk.hold()
    first = asking.post()
    await asking.disk.reached()
    second = asking.post()
    done, _ = await asyncio.wait([first, second], timeout=0.1)
    assert not done
    asking.disk.go_on()
    assert (await first).content == (await second).content
    assert (await first).is_success


async def test_one_that_could_not_be_stored_is_carried_out_when_it_is_repeated(
    asking: Asking, running: Running
) -> None:
    asking.disk.full = True
    assert (await asking.post()).status_code == 503
    asking.disk.full = False
    answer = await asking.post()
    assert answer.is_success, answer.text
    if "finish" in asking.path:
        await soon(lambda: asking.client.session_id not in running.service.core.live.sessions)
    elif "request_id" in answer.text:
        await asking.client.result(answer.json())


async def test_a_session_whose_client_went_away_lives_as_its_row_says(running: Running) -> None:
    client = await running.client()
    disk = Disk(running)
    disk.hold()
    first = asyncio.create_task(client.http.post("/api/v1/create_session", json={"tags": []}))
    await disk.reached()
    first.cancel()
    disk.go_on()
    await soon(lambda: len(running.service.core.live.sessions) == 2)
    assert set((await client.get("sessions"))["sessions"]) == set(running.service.core.live.sessions)


async def test_a_deletion_whose_client_went_away_takes_the_files_too(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    await client.save_state(model, "a")
    folder = running.service.settings.home / "checkpoints" / model / "weights" / "a"
    assert folder.is_dir()
    disk = Disk(running)
    disk.hold()
    path = f"/api/v1/training_runs/{model}/checkpoints/weights/a"
    first = asyncio.create_task(client.http.delete(path))
    await disk.reached()
    first.cancel()
    disk.go_on()
    await soon(lambda: not folder.exists())
    assert (await client.http.delete(path)).status_code == 404
