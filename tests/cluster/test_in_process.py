"""The engine on a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.fakes.fake_engine import BROKEN_DEVICE, FakeEngine
from tests.support.listener import Listener
from tests.support.operations import create, forward_backward, load_sampler, optim, sample
from tinsmith.cluster.in_process import InProcessLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.scheduler.engine_scheduler import HostedEngine
from tinsmith.settings import Settings
from tinsmith.types.engine_messages.host_events import Failure, Lost, Ready, Result
from tinsmith.types.errors import StartupError, UserError

SPEC = ModelSpec("base", "fake")


def load_fake(models: Iterable[ModelSpec], settings: Settings) -> Mapping[str, HostedEngine]:
    return {model.name: FakeEngine(model.name) for model in models}


def small_settings() -> Settings:
    return Settings(device="cpu", kv_cache_mb=8, adapter_mb=64)


def test_events_arrive_on_the_loops_thread() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        link, listener = InProcessLink([SPEC], Settings(), load_fake), Listener()
        threads: set[int] = set()

        def on_event(event: object) -> None:
            threads.add(threading.get_ident())
            listener.on_event(event)  # pyright: ignore[reportArgumentType]

        await link.start(on_event)
        assert [info.name for info in listener.of(Ready)[0].models] == ["base"]
        ops = [create("m"), forward_backward("m", 1, [11]), optim("m", 2), load_sampler("s")]
        ops += [sample("s") for _ in range(500)]
        for op in ops:
            link.submit(op)
        await listener.until(lambda: len(listener.of(Result)) == len(ops))
        await link.close()
        assert threads == {threading.get_ident()}

    asyncio.run(main())
    started = set(threading.enumerate()) - before
    assert not any(thread.name == "tinsmith-engine" for thread in started)


def test_a_fault_of_the_listener_loses_no_other_event() -> None:
    async def main() -> None:
        link, listener = InProcessLink([SPEC], Settings(), load_fake), Listener()

        def on_event(event: object) -> None:
            listener.on_event(event)  # pyright: ignore[reportArgumentType]
            if isinstance(event, Result):
                raise ValueError("the listener is at fault")

        await link.start(on_event)
        ops = [create("m"), forward_backward("m", 1, [11]), optim("m", 2)]
        for op in ops:
            link.submit(op)
        await listener.until(lambda: len(listener.of(Result)) == len(ops))
        await link.close()

    asyncio.run(main())


@pytest.mark.row(11)
def test_a_host_that_ends_is_lost_and_born_again() -> None:
    async def main() -> None:
        link, listener = InProcessLink([SPEC], Settings(), load_fake), Listener()
        await link.start(listener.on_event)
        link.submit(create("m"))
        link.submit(forward_backward("m", 1, [BROKEN_DEVICE]))
        await listener.until(lambda: len(listener.of(Ready)) == 2)
        assert "the device failed" in listener.of(Lost)[0].reason
        op = create("m")
        link.submit(op)
        assert isinstance(await listener.answer(op), Result)
        await link.close()

    asyncio.run(main())


def test_a_model_that_does_not_load_is_a_startup_error(tmp_path: Path) -> None:
    async def main() -> None:
        link = InProcessLink([ModelSpec("tiny", str(tmp_path))], small_settings())
        with pytest.raises(StartupError, match=r"model tiny: .*config\.json: got no such file"):
            await link.start(Listener().on_event)
        await link.close()

    asyncio.run(main())


def test_models_can_follow_later(tmp_path: Path) -> None:
    async def main() -> None:
        source = str(checkpoint("qwen3"))
        link, listener = InProcessLink([], small_settings()), Listener()
        await link.start(listener.on_event)
        assert listener.of(Ready)[0].models == []
        early = create("m", base_model="tiny")
        link.submit(early)
        refused = await listener.answer(early)
        assert isinstance(refused, Failure)
        infos = await asyncio.gather(*[link.ensure_model("tiny", source) for _ in range(3)])
        assert {info.name for info in infos} == {"tiny"}
        ops = [create("m", base_model="tiny"), forward_backward("m", 1, [[1, 2, 3]], base_model="tiny")]
        for op in ops:
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)
        with pytest.raises(UserError, match="as it was loaded"):
            await link.ensure_model("tiny", "/somewhere/else")
        with pytest.raises(UserError):
            await link.ensure_model("other", str(tmp_path))
        assert len(listener.of(Ready)) == 1
        await link.close()

    asyncio.run(main())
