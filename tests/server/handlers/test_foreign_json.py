"""JSON that is a client's own: what is accepted is stored as it came, what cannot be is refused; nothing is a 5xx."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.server.client import ADAM, Client
from tests.server.conftest import Restarting
from tests.server.handlers.test_importing import CONFIG, DATA, ENTRIES, Link
from tinsmith.model_files.safetensors_header import make_header

pytestmark = pytest.mark.anyio

# As they stand in the body.
VALUES = {
    "beyond 64 bits": b"1" + b"0" * 30,
    "beyond 64 bits, negative": b"-1" + b"0" * 30,
    "the largest of 64 bits": b"18446744073709551615",
    "in a list in an object": b'{"b": [{"c": 1' + b"0" * 30 + b"}, null]}",
    "more digits than Python reads": b"9" * 5000,
    "no number": b"NaN",
    "infinity": b"-Infinity",
    "more than a float holds": b"1e999",
    "half a character": b'"\\ud800"',
    "half a character as a key": b'{"\\udfff": 1}',
    "a character of two halves": b'"\\ud83d\\ude00"',
    "a zero byte": b'"\\u0000"',
    "deep": b"[" * 120 + b"]" * 120,
    "too deep": b"[" * 50_000 + b"]" * 50_000,
}
READABLE = [name for name in VALUES if name not in ("more digits than Python reads", "too deep") and "half" not in name]
HERE = '"@"'


class Doors:
    """The requests in which a client may say anything, each with a place for it.

    Args:
        model: of the client; its first operation has saved it as `first`.
        sampler: of the client.
    """

    def __init__(self, client: Client, model: str, sampler: str) -> None:
        self._client, self._model, self._sampler = client, model, sampler
        self._seqs, self._numbers, self._samples = itertools.count(2), itertools.count(50), itertools.count()

    def create_session(self) -> dict[str, Any]:
        return {"tags": [], "user_metadata": {"a": "@"}}

    def create_model(self) -> dict[str, Any]:
        place = {"session_id": self._client.session_id, "model_seq_id": next(self._numbers)}
        return place | {"base_model": "tiny", "lora_config": {"rank": 4}, "user_metadata": {"a": "@"}, "more": "@"}

    def load_weights(self) -> dict[str, Any]:
        place = {"session_id": self._client.session_id, "model_seq_id": next(self._numbers)}
        path = f"tinker://{self._model}/weights/first"
        return place | {"path": path, "optimizer": True, "user_metadata": {"a": "@"}, "more": "@"}

    def optim_step(self) -> dict[str, Any]:
        return {"model_id": self._model, "seq_id": next(self._seqs), "adam_params": ADAM, "more": "@"}

    def save_weights(self) -> dict[str, Any]:
        seq = next(self._seqs)
        return {"model_id": self._model, "seq_id": seq, "path": f"n{seq}", "user_metadata": {"a": "@"}, "more": "@"}

    def save_weights_for_sampler(self) -> dict[str, Any]:
        return self.save_weights()

    def asample(self) -> dict[str, Any]:
        return {
            "sampling_session_id": self._sampler,
            "seq_id": next(self._samples),
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2], "more": "@"}], "more": "@"},
            "sampling_params": {"max_tokens": 2, "more": "@"},
            "target_prompt_logprobs": {"dtype": "int64", "shape": [1, 1], "data": [1], "more": "@"},
            "more": "@",
        }

    def import_checkpoint(self) -> dict[str, Any]:
        name = f"i{next(self._numbers)}"
        return {"base_model": "tiny", "name": name, "adapter_config": CONFIG, "user_metadata": {"a": "@"}, "more": "@"}


DOORS = [name for name in vars(Doors) if not name.startswith("_")]


async def begin(restarting: Restarting) -> tuple[Client, Doors]:
    client = await restarting.begin()
    await restarting.kill(client, Link())
    model = await client.create_model()
    await client.save_state(model, "first")
    return client, Doors(client, model, await client.sampler(base_model="tiny"))


async def post(client: Client, door: str, fields: dict[str, Any], value: bytes) -> httpx.Response:
    body, headers = json.dumps(fields).encode().replace(HERE.encode(), value), {"Content-Type": "application/json"}
    if door == "import_checkpoint":
        body += b"\n" + make_header(ENTRIES, {}) + DATA
        headers = {"X-Idempotency-Key": fields["name"]}
    return await client.http.post(f"/api/v1/{door}", content=body, headers=headers)


async def outcomes(client: Client, answer: httpx.Response) -> list[bytes]:
    """Return what the futures of an answer hold; nothing of it may be the service's fault."""
    said = answer.json()
    found: list[bytes] = []
    for request_id in said.get("request_ids") or [said["request_id"]]:
        while (outcome := await client.poll(request_id)).status_code == 408:
            pass
        assert outcome.status_code == 200, outcome.text
        assert b'"category":"server"' not in outcome.content, outcome.text
        found.append(outcome.content)
    return found


@pytest.mark.parametrize("door", DOORS)
async def test_it_is_accepted_or_refused_and_a_repeat_gets_the_same_also_after_a_restart(
    restarting: Restarting, door: str
) -> None:
    client, doors = await begin(restarting)
    make: Callable[[], dict[str, Any]] = getattr(doors, door)
    # Sound but for what is said there, or nothing would be shown.
    plain = await post(client, door, make(), b"1")
    assert plain.status_code == 200, plain.text
    if door != "create_session":
        found = await outcomes(client, plain)
        assert not any(b"category" in outcome for outcome in found), found
    accepted: list[tuple[dict[str, Any], bytes, httpx.Response, list[bytes]]] = []
    for name, value in VALUES.items():
        fields = make()
        answer = await post(client, door, fields, value)
        assert answer.status_code in (200, 400, 413, 422), f"{name}: {answer.status_code} {answer.text}"
        if answer.status_code != 200:
            assert (await post(client, door, fields, value)).content == answer.content, name
            # What cannot be read takes no place in the order.
            value, answer = b"1", await post(client, door, fields, b"1")
            assert answer.status_code == 200, f"{name}: {answer.text}"
        if door != "create_session":
            accepted.append((fields, value, answer, await outcomes(client, answer)))
    await restarting.kill(client, Link())
    for fields, value, answer, before in accepted:
        assert (await post(client, door, fields, value)).content == answer.content, value[:40]
        assert await outcomes(client, answer) == before, value[:40]


# Where the metadata of what a door made are told, below /api/v1/, and what holds them there.
TOLD = {
    "create_session": lambda answer: (f"sessions/{answer['session_id']}", None),
    "create_model": lambda answer: (f"training_runs/{answer['model_id']}", None),
    "save_weights": lambda answer: (f"training_runs/{answer['model_id']}/checkpoints", "checkpoints"),
    "save_weights_for_sampler": lambda answer: (f"training_runs/{answer['model_id']}/checkpoints", "checkpoints"),
    "import_checkpoint": lambda answer: (f"training_runs/{answer['model_id']}/checkpoints", "checkpoints"),
}


@pytest.mark.parametrize("door", TOLD)
async def test_metadata_come_back_as_they_were_sent_also_after_a_restart(restarting: Restarting, door: str) -> None:
    client, doors = await begin(restarting)
    sent: list[tuple[str, str | None, str]] = []
    for name in READABLE:
        answer = await post(client, door, getattr(doors, door)(), VALUES[name])
        assert answer.status_code == 200, f"{name}: {answer.text}"
        if door != "create_session":
            await outcomes(client, answer)
        value = json.loads(VALUES[name])
        # Other clients take text only.
        sent.append((*TOLD[door](answer.json()), value if isinstance(value, str) else json.dumps(value)))
    await restarting.kill(client, Link())
    for path, inside, text in sent:
        told = await client.get(path)
        found = [told] if inside is None else told[inside]
        assert text in [(one.get("user_metadata") or {}).get("a") for one in found]
