"""A connection asks the service for its configuration once, whoever needs it and however often."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from tests.client.data import batch
from tests.support.fakes.fake_service import FakeService
from tinsmith import ServiceClient
from tinsmith.client.transport.connection import AskedOnce, Connection
from tinsmith.types.responses import ClientConfigResponse


def _paths(fake: FakeService) -> Counter[str]:
    return Counter(path for _, path, _ in fake.seen)


def test_a_batch_of_many_requests_asks_for_the_configuration_once(
    fake: FakeService, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.config = {"fwdbwd_max_chunk_len": 1, "proto_compress_fwdbwd": True}
    training = service.create_lora_training_client("tinsmith-tiny").result()
    asked: list[Connection] = []
    real = Connection.config

    async def counted(self: Connection) -> ClientConfigResponse:
        asked.append(self)
        return await real(self)

    monkeypatch.setattr(Connection, "config", counted)
    training.forward_backward(batch(5), "cross_entropy").result()
    assert _paths(fake)["forward_backward"] == 5
    assert len(asked) == 1
    training.optim_step().result()
    assert len(asked) == 1


def test_calls_that_come_together_ask_the_service_once(fake: FakeService, service: ServiceClient) -> None:
    connection = service._session.connection

    async def slow(stage: str, request: httpx.Request) -> None:
        await asyncio.sleep(0.01)

    fake.network = slow

    async def together() -> list[ClientConfigResponse]:
        dynamic = [connection.dynamic_config() for _ in range(5)]
        configs = await asyncio.gather(*(connection.config() for _ in range(5)))
        await asyncio.gather(*dynamic)
        return configs

    configs = connection.submit(together()).result(10)
    assert all(config is configs[0] for config in configs)
    assert _paths(fake)["client/config"] == 1
    assert _paths(fake)["client/dynamic_config"] == 1


def test_a_question_that_failed_is_asked_again() -> None:
    answers = iter([ValueError("away"), "there", "never asked for"])

    async def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def twice() -> list[str]:
        once: AskedOnce[str] = AskedOnce()
        with pytest.raises(ValueError, match="away"):
            await once.get(ask)
        return [await once.get(ask), await once.get(ask)]

    assert asyncio.run(twice()) == ["there", "there"]
