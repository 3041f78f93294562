"""The engine in a child process: its death, its rebirth, and that it never outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.fakes.fake_engine import BROKEN_DEVICE
from tests.support.fakes.fake_engine_main import EXIT, FAULT, HANG, SLOW
from tests.support.listener import Listener
from tests.support.operations import create, forward_backward, load_sampler, optim, sample
from tinsmith.cluster.child import ChildLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.settings import Settings
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response
from tinsmith.types.engine_messages import operation_codec
from tinsmith.types.engine_messages.host_events import Failure, Lost, Ready, Result
from tinsmith.types.errors import StartupError

FAKE = "tests.support.fakes.fake_engine_main"


@asynccontextmanager
async def fake_child(**settings: int) -> AsyncIterator[tuple[ChildLink, Listener]]:
    link, listener = ChildLink([ModelSpec("base", "fake")], Settings(**settings), FAKE), Listener()
    await link.start(listener.on_event)
    try:
        yield link, listener
    finally:
        await link.close()


def pid_of(link: ChildLink) -> int:
    assert link.pid is not None
    return link.pid


def wait_until_gone(pid: int, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def test_work_goes_through_and_close_ends_the_child() -> None:
    async def main() -> int:
        async with fake_child() as (link, listener):
            ready = listener.of(Ready)
            assert [info.name for info in ready[0].models] == ["base"]
            op, step = forward_backward("m", 1, [11]), optim("m", 2)
            for one in (step, op, create("m")):
                link.submit(one)
            assert isinstance(await listener.answer(step), Result)
            result = await listener.answer(op)
            assert isinstance(result, Result)
            assert decode_forward_backward_output(result.payload).metrics["loss:sum"] == 11.0
            return pid_of(link)

    pid = asyncio.run(main())
    assert not psutil.pid_exists(pid)


def test_settings_reach_the_child() -> None:
    async def main() -> None:
        async with fake_child(max_tokens_per_pass=16) as (link, listener):
            op = forward_backward("m", 1, list(range(100)))
            link.submit(create("m"))
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)

    asyncio.run(main())


def test_thousands_of_samples_and_a_large_body() -> None:
    async def main() -> float:
        async with fake_child() as (link, listener):
            ops = [sample("s") for _ in range(2000)]
            started = time.monotonic()
            link.submit(load_sampler("s"))
            for op in ops:
                link.submit(op)
            await listener.until(lambda: len(listener.of(Result)) == len(ops) + 1)
            seconds = time.monotonic() - started
            large = forward_backward("m", 1, [[5] * 1000] * 2000)
            assert len(large.body or b"") > 8_000_000
            link.submit(create("m"))
            link.submit(large)
            result = await listener.answer(large)
            assert isinstance(result, Result)
            assert len(decode_forward_backward_output(result.payload).loss_fn_outputs) == 2000
            return seconds

    assert asyncio.run(main()) < 20


def test_cancel_reaches_the_host() -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            op = sample("nobody-announced-it")
            link.submit(op)
            link.cancel(op.request_id)
            answer = await listener.answer(op)
            assert isinstance(answer, Failure)
            assert answer.message == "the request was cancelled"

    asyncio.run(main())


@pytest.mark.row(11, 210)
def test_a_killed_child_is_lost_and_born_again() -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            link.submit(create("m"))
            for life in (2, 3):
                first = pid_of(link)
                os.kill(first, signal.SIGKILL)
                await listener.until(lambda life=life: len(listener.of(Ready)) == life)
                assert listener.of(Lost)[-1] == Lost("the engine process was killed by signal 9 (Killed)", "killed")
                assert pid_of(link) != first
            kinds = [type(e) for e in listener.events if isinstance(e, Lost | Ready)]
            assert kinds == [Ready, Lost, Ready, Lost, Ready]
            op = create("m")  # the new child knows nothing of the old one's model
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)

    asyncio.run(main())


def test_a_child_that_cannot_read_an_operation_says_why_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            version = operation_codec.FRAME_VERSION
            with monkeypatch.context() as patch:
                patch.setattr(operation_codec, "FRAME_VERSION", 99)
                link.submit(create("m"))
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            (lost,) = listener.of(Lost)
            assert lost.reason == (
                "the engine process could not read a message: "
                f"version: got 99, expected {version}: restart the service after an update"
            )
            assert lost.running == ()
            op = create("m")
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)

    asyncio.run(main())


@pytest.mark.row(11, 210)
def test_a_stopped_child_is_replaced_and_takes_up_the_work_again() -> None:
    async def main() -> None:
        async with fake_child(engine_beat_s=2) as (link, listener):
            stopped, op = pid_of(link), create("m")
            os.kill(stopped, signal.SIGSTOP)
            link.submit(op)
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            assert not listener.answers(op)
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)
            reason = "the engine process said nothing for 2 s (it was stopped or hangs)"
            assert listener.of(Lost) == [Lost(reason, "stopped")]
            assert not psutil.pid_exists(stopped)

    asyncio.run(main())


def test_a_child_that_hangs_in_a_turn_is_replaced() -> None:
    async def main() -> None:
        async with fake_child(engine_beat_s=20, engine_stall_s=2) as (link, listener):
            hung, op = pid_of(link), forward_backward("m", 1, [HANG])
            link.submit(create("m"))
            link.submit(op)
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            reason = "the engine process spent more than 2 s in one turn"
            assert listener.of(Lost) == [Lost(reason, "stalled", (op.request_id,))]
            assert not listener.answers(op)
            assert not psutil.pid_exists(hung)

    asyncio.run(main())


def test_a_child_that_gets_a_signal_of_its_own_doing_says_what_it_was_at() -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            op, draw = forward_backward("m", 1, [FAULT]), sample("s", [EXIT])
            link.submit(create("m"))
            link.submit(op)
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            for one in (load_sampler("s"), draw):
                link.submit(one)
            await listener.until(lambda: len(listener.of(Ready)) == 3)
            assert listener.of(Lost) == [
                Lost("the engine process was killed by signal 11 (Segmentation fault)", "crashed", (op.request_id,)),
                Lost("the engine process ended with status 1", "crashed", (draw.request_id,)),
            ]

    asyncio.run(main())


def test_a_slow_turn_of_a_child_that_beats_is_left_alone() -> None:
    async def main() -> None:
        async with fake_child(engine_beat_s=2, engine_stall_s=60) as (link, listener):
            first, op = pid_of(link), forward_backward("m", 1, [SLOW])
            link.submit(create("m"))
            link.submit(op)
            assert isinstance(await listener.answer(op), Result)
            assert pid_of(link) == first
            assert not listener.of(Lost)

    asyncio.run(main())


def test_what_is_submitted_while_nobody_listens_is_dropped() -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            os.kill(pid_of(link), signal.SIGKILL)
            await listener.until(lambda: listener.of(Lost))
            op = create("m")
            link.submit(op)
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            again = create("m")
            link.submit(again)
            assert isinstance(await listener.answer(again), Result)
            assert not listener.answers(op)

    asyncio.run(main())


def test_a_broken_device_ends_the_child_and_its_work_is_not_failed() -> None:
    async def main() -> None:
        async with fake_child() as (link, listener):
            op = forward_backward("m", 1, [BROKEN_DEVICE])
            link.submit(create("m"))
            link.submit(op)
            await listener.until(lambda: len(listener.of(Ready)) == 2)
            (lost,) = listener.of(Lost)
            assert "the device failed: CUDA error" in lost.reason
            assert (lost.cause, lost.running) == ("crashed", (op.request_id,))
            assert not listener.answers(op)

    asyncio.run(main())


def test_a_model_that_does_not_load_is_a_startup_error() -> None:
    async def main() -> None:
        link = ChildLink([ModelSpec("base", "broken")], Settings(), FAKE)
        with pytest.raises(StartupError, match="model base: got nothing, expected a model"):
            await link.start(Listener().on_event)
        await link.close()

    asyncio.run(main())


def test_a_child_that_dies_while_loading_is_a_startup_error() -> None:
    async def main() -> None:
        link = ChildLink([ModelSpec("base", "dies")], Settings(), FAKE)
        with pytest.raises(StartupError, match="killed by signal 6"):
            await link.start(Listener().on_event)
        await link.close()

    asyncio.run(main())


def test_a_child_that_cannot_be_started_is_a_startup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        link = ChildLink([ModelSpec("base", "fake")], Settings(), FAKE)
        with pytest.raises(StartupError, match=r"could not be started: .* '/nowhere/python'"):
            await link.start(Listener().on_event)
        await link.close()

    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    asyncio.run(main())


def test_closing_while_the_models_load() -> None:
    async def main() -> int:
        link = ChildLink([ModelSpec("base", "slow")], Settings(), FAKE)
        start = asyncio.create_task(link.start(Listener().on_event))
        async with asyncio.timeout(10):
            while link.pid is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        pid = link.pid
        await link.close()
        with pytest.raises(StartupError):
            await start
        return pid

    started = time.monotonic()
    wait_until_gone(asyncio.run(main()))
    assert time.monotonic() - started < 30


PARENT = """
import asyncio, sys
from tinsmith.cluster.child import ChildLink
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.settings import Settings

async def main():
    link = ChildLink([ModelSpec("base", "fake")], Settings(), "tests.support.fakes.fake_engine_main")
    await link.start(lambda event: None)
    print(link.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.row(210)
def test_the_child_does_not_outlive_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        wait_until_gone(pid)


@pytest.mark.slow
def test_a_real_engine() -> None:
    async def main() -> None:
        link = ChildLink([ModelSpec("base", str(checkpoint("qwen3")))], Settings(device="cpu", kv_cache_mb=8))
        listener = Listener()
        await link.start(listener.on_event)
        info = listener.of(Ready)[0].models[0]
        assert info.architecture == "Qwen3ForCausalLM"
        draw, step = sample("s", [5, 6, 7], max_tokens=4, seed=1), optim("m", 2)
        for op in (create("m"), forward_backward("m", 1, [[1, 2, 3]]), step, load_sampler("s"), draw):
            link.submit(op)
        assert isinstance(await listener.answer(step), Result)
        result = await listener.answer(draw)
        assert isinstance(result, Result), result
        assert 1 <= len(decode_sample_response(result.payload).sequences[0].tokens) <= 4
        await link.close()

    asyncio.run(main())
