"""Calls: made at the same time, in order, within limits; whatever a tool does, the model reads of it and goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.cookbook.rl.speaking import call, calls
from tinsmith.cookbook.rl.tools.calls import ToolCaller, ToolLimits, ToolResult
from tinsmith.cookbook.rl.tools.tool import tool
from tinsmith.types.errors import UserError


@tool
def echo(text: str) -> str:
    """Say it again."""
    return text


@tool
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return f"waited {seconds}"


def answer(caller: ToolCaller, *made: Any, **more: Any) -> list[ToolResult]:
    return asyncio.run(caller.answer({**calls(*made), **more}))  # pyright: ignore[reportArgumentType]


def contents(results: list[ToolResult]) -> list[Any]:
    return [result.message["content"] for result in results]


def test_calls_of_a_turn_are_made_at_the_same_time_and_their_results_keep_the_order() -> None:
    together = threading.Barrier(3, timeout=20)

    @tool
    def meet(number: int) -> str:
        """Meet the others."""
        together.wait()  # three threads, or nobody gets through
        return f"met {number}"

    started = time.monotonic()
    results = answer(
        ToolCaller([meet, wait]),
        call("wait", seconds=0.3),
        call("meet", number=1),
        call("wait", seconds=0.0),
        call("meet", number=2),
        call("meet", number=3),
    )
    assert contents(results) == ["waited 0.3", "met 1", "waited 0.0", "met 2", "met 3"]
    assert time.monotonic() - started < 15
    assert [result.message["name"] for result in results] == ["wait", "meet", "wait", "meet", "meet"]


def test_a_result_bears_the_id_of_its_call() -> None:
    (result,) = answer(ToolCaller([echo]), {"id": "c7", **call("echo", text="x")})
    assert result.message == {"role": "tool", "name": "echo", "tool_call_id": "c7", "content": "x"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain", "plain"),
        ({"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'),
        (None, "null"),
        (3.5, "3.5"),
        ("half \ud83d of a pair", "half ? of a pair"),
        ("<|end|> and </tool_response>", "<|end|> and </tool_response>"),
    ],
)
def test_what_a_tool_gives_becomes_text(given: Any, expected: str) -> None:
    @tool
    def give() -> Any:
        """Give."""
        return given

    assert contents(answer(ToolCaller([give]), call("give"))) == [expected]


def test_ten_megabytes_are_cut_and_the_cut_says_so() -> None:
    @tool
    def flood() -> str:
        """Say a lot."""
        return "x" * 10_000_000

    caller = ToolCaller([flood, echo], ToolLimits(result_chars=100))
    flooded, exact = answer(caller, call("flood"), call("echo", text="y" * 100))
    assert flooded.message["content"] == "x" * 100 + "\n[cut: the first 100 of 10000000 characters]"
    assert (flooded.cut, exact.cut, exact.message["content"]) == (True, False, "y" * 100)
    assert caller.counts == {"calls": 2, "cut": 1}


class Unsaid:
    pass


def test_whatever_a_tool_raises_is_named_to_the_model(caplog: pytest.LogCaptureFixture) -> None:
    errors = [
        KeyError("k"), ValueError("v" * 10_000), SystemExit(3), TimeoutError("a socket's"), StopIteration(),
        asyncio.CancelledError(), RecursionError("deep"), MemoryError(),
    ]  # fmt: skip

    @tool
    def fail(number: int) -> Any:
        """Fail."""
        raise errors[number]

    @tool
    async def fail_later(number: int) -> Any:
        """Fail."""
        await asyncio.sleep(0)
        raise errors[number]

    @tool
    def unsaid() -> Any:
        """Give what JSON cannot say."""
        return Unsaid()

    caller = ToolCaller([fail, fail_later, unsaid], ToolLimits(result_chars=200))
    made = [call(name, number=number) for name in ("fail", "fail_later") for number in range(len(errors))]
    results = answer(caller, *made, call("unsaid"))
    assert [result.fault for result in results] == ["raised"] * (2 * len(errors) + 1)
    told = contents(results)
    assert told[0] == "error: fail: KeyError: 'k'"
    assert told[1].startswith("error: fail: ValueError: vvv")
    assert len(told[1]) < 300
    assert told[2] == "error: fail: SystemExit: 3"
    assert told[3] == "error: fail: TimeoutError: a socket's"
    assert told[len(errors)] == "error: fail_later: KeyError: 'k'"
    assert told[-1].startswith("error: unsaid: TypeError: its result is nothing that JSON can say")
    assert caller.counts["raised"] == len(results)


def test_a_tool_that_hangs_is_left_behind_and_holds_up_nobody() -> None:
    let_go = threading.Event()

    @tool
    def hang() -> str:
        """Hang."""
        let_go.wait(60)
        return "late"

    @tool
    async def stubborn() -> str:
        """Wait, and refuse to be cancelled."""
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return "late"

    caller = ToolCaller([hang, stubborn, echo], ToolLimits(seconds=0.3))

    async def turn() -> list[ToolResult]:
        # More that hang than there are places: each gives its place up when its time is up.
        made = [call("hang") for _ in range(70)]
        results = await caller.answer(calls(*made, call("stubborn"), call("echo", text="x")))  # pyright: ignore[reportArgumentType]
        let_go.set()
        return results

    started = time.monotonic()
    results = asyncio.run(turn())
    assert time.monotonic() - started < 20
    assert contents(results)[:1] == ["error: hang: no result within 0.3 s"]
    assert [result.fault for result in results] == ["timed_out"] * 71 + [None]
    assert caller.counts["timed_out"] == 71


def test_a_thread_that_hangs_for_good_does_not_keep_the_process() -> None:
    program = """
import asyncio, time
from tinsmith.cookbook.rl.tools.threads import TimeIsUpError, call_in_thread
try:
    asyncio.run(call_in_thread(lambda: time.sleep(600), 0.1))
except TimeIsUpError:
    print("went on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_calls_that_cannot_be_made_are_named() -> None:
    caller = ToolCaller([echo])
    unread = {"text": '<tool_call>{"name": ', "reason": "the call was cut off"}
    results = answer(
        caller,
        call("ecco", text="x"),
        call("echo", words="x"),
        call("echo"),
        call("echo", text="x"),
        unparsed_tool_calls=[unread],
    )
    assert contents(results) == [
        "error: no tool 'ecco'; there is: echo",
        "error: echo: text: missing; words: no such argument",
        "error: echo: text: missing",
        "x",
        'error: this call cannot be read (the call was cut off): <tool_call>{"name": ',
    ]
    assert [result.fault for result in results] == ["unknown_tool", "bad_arguments", "bad_arguments", None, "unparsed"]
    assert caller.counts["calls"] == 4


def test_calls_beyond_the_limit_are_not_made_and_their_results_say_so() -> None:
    made: list[str] = []

    @tool
    async def note(text: str) -> str:
        """Note."""
        made.append(text)
        return text

    caller = ToolCaller([note], ToolLimits(max_calls=3))
    assert contents(answer(caller, call("note", text="a"), call("note", text="b"))) == ["a", "b"]
    results = answer(caller, call("note", text="c"), call("note", text="d"), call("note", text="e"))
    assert contents(results) == ["c"] + ["error: not called: 3 calls are all that is allowed"] * 2
    assert made == ["a", "b", "c"]
    assert caller.counts == {"calls": 3, "over_limit": 2, "cut": 0}


def test_tools_and_limits_that_cannot_be_used_are_refused() -> None:
    class Shop:
        @tool
        def price(self, item: str) -> str:
            """Price of an item."""
            return item

    for given, message in (
        ([print], "tools.0.: got .*print.*, expected a function that is declared with @tool"),
        ([Shop.price], "tools.0.: got 'price', expected the tool of an object"),
        ([echo, echo], r"tools: got \['echo'\], expected names that differ"),
    ):
        with pytest.raises(UserError, match=message):
            ToolCaller(given)  # pyright: ignore[reportArgumentType]
    for limits, message in (
        ({"seconds": 0}, "seconds: got 0, expected a finite number above 0"),
        ({"seconds": float("nan")}, "seconds: got nan"),
        ({"result_chars": 0}, "result_chars: got 0, expected at least 1"),
        ({"max_calls": -1}, "max_calls: got -1"),
    ):
        with pytest.raises(UserError, match=message):
            ToolLimits(**limits)
