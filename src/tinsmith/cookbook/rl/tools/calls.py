"""The calls of a turn: made at the same time, within limits; whatever goes wrong becomes a result that says so."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.rl.tools.schema import BadArgumentsError
from tinsmith.cookbook.rl.tools.threads import TimeIsUpError, call_beside, call_in_thread
from tinsmith.cookbook.rl.tools.tool import Tool
from tinsmith.types.errors import invalid

# What can be wrong with a call; each is a metric, `tool_errors/NAME`.
FAULTS = ("unparsed", "unknown_tool", "bad_arguments", "raised", "timed_out", "over_limit")

# Characters of an error in the log.
_LOGGED = 300


@dataclass(frozen=True)
class ToolLimits:
    """The limits of tool calls.

    Attributes:
        seconds: that one call may take.
        result_chars: characters of a result that the model reads; what is longer is cut, and says so.
        max_calls: of an episode; those beyond are not made, and their results say so. None is no limit.

    Raises:
        UserError: a limit is out of range.
    """

    seconds: float = 30.0
    result_chars: int = 8000
    max_calls: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise invalid("seconds", self.seconds, "a finite number above 0")
        if self.result_chars < 1:
            raise invalid("result_chars", self.result_chars, "at least 1")
        if self.max_calls is not None and self.max_calls < 0:
            raise invalid("max_calls", self.max_calls, "None, or a number that is not negative")


@dataclass(frozen=True)
class ToolResult:
    """What a model reads of a call.

    Attributes:
        message: of the role `tool`, with the name and the id of the call.
        fault: one of `FAULTS`; None where the call was made and gave something.
        cut: whether the result was longer than the limit.
    """

    message: Message
    fault: str | None = None
    cut: bool = False


class ToolCaller:
    """Makes the calls of one episode.

    Args:
        tools: that there are, with different names.
        limits: of the calls; None takes those of `ToolLimits()`.

    Attributes:
        specs: of the tools, as renderers take them.
        counts: of the episode so far: `calls`, `cut`, and faults by name.

    Raises:
        UserError: what is given is no tool, or two have the same name.
    """

    def __init__(self, tools: Sequence[Tool], limits: ToolLimits | None = None) -> None:
        for place, given in enumerate(tools):
            if not isinstance(given, Tool):
                raise invalid(f"tools[{place}]", given, "a function that is declared with @tool")
            if given.needs_object():
                raise invalid(f"tools[{place}]", given.name, "the tool of an object: Shop().price, not Shop.price")
        self._tools = {given.name: given for given in tools}
        if len(self._tools) < len(tools):
            names = Counter(given.name for given in tools)
            raise invalid("tools", [name for name, count in names.items() if count > 1], "names that differ")
        self.specs = [given.spec for given in tools]
        self.counts: Counter[str] = Counter()
        self._limits = limits or ToolLimits()

    async def answer(self, message: Message) -> list[ToolResult]:
        """Make the calls of a turn; return their results in order, then one for each call that cannot be read."""
        calls = list(message.get("tool_calls") or ())
        most = self._limits.max_calls
        left = len(calls) if most is None else max(0, most - self.counts["calls"])
        results = list(await asyncio.gather(*(self._make(call) for call in calls[:left])))
        results += [
            self._result(_named(call), f"error: not called: {most} calls are all that is allowed", "over_limit")
            for call in calls[left:]
        ]
        for place, unparsed in enumerate(message.get("unparsed_tool_calls") or ()):
            # Formats want a result to be that of something.
            names: Message = {
                "role": "tool",
                "content": "",
                "name": "unreadable",
                "tool_call_id": f"unreadable:{place}",
            }
            told = f"error: this call cannot be read ({unparsed['reason']}): {unparsed['text']}"
            results.append(self._result(names, told, "unparsed"))
        self.counts["calls"] += len(calls[:left])
        self.counts["cut"] += sum(result.cut for result in results)
        self.counts.update(result.fault for result in results if result.fault)
        return results

    async def _make(self, call: Mapping[str, Any]) -> ToolResult:
        names, name = _named(call), call["function"]["name"]
        called = self._tools.get(name)
        if called is None:
            known = ", ".join(self._tools) or "none"
            return self._result(names, f"error: no tool {name!r}; there is: {known}", "unknown_tool")
        try:
            function = called.prepare(call["function"]["arguments"])
        except BadArgumentsError as error:
            return self._result(names, f"error: {name}: {error}", "bad_arguments")
        call_it = call_beside if called.is_async else call_in_thread
        try:
            return self._result(names, _text(await call_it(function, self._limits.seconds)))
        except TimeIsUpError:
            seconds = self._limits.seconds
            warn_once(f"tool {name} hangs", f"tool {name}: no result within {seconds:g} s (tool_errors/timed_out)")
            return self._result(names, f"error: {name}: no result within {seconds:g} s", "timed_out")
        except (Exception, SystemExit) as error:
            told = f"{name}: {type(error).__name__}: {error}"
            # It may be what the model gave and may be a mistake of the tool's: once, so that somebody looks.
            warn_once(
                f"tool {name} {type(error).__name__}", f"tool {told[:_LOGGED]} (tool_errors/raised counts such cases)"
            )
            return self._result(names, f"error: {told}", "raised")

    def _result(self, names: Message, text: str, fault: str | None = None) -> ToolResult:
        most = self._limits.result_chars
        cut = len(text) > most
        if cut:
            text = f"{text[:most]}\n[cut: the first {most} of {len(text)} characters]"
        # Half a surrogate pair is no text that a tokenizer reads.
        readable = text.encode(errors="replace").decode()
        return ToolResult({**names, "content": readable}, fault, cut)


def _named(call: Mapping[str, Any]) -> Message:
    names: Message = {"role": "tool", "content": "", "name": call["function"]["name"]}
    if call.get("id") is not None:
        names["tool_call_id"] = call["id"]
    return names


def _text(result: Any) -> str:
    """Return what a tool gave as text: a text as it is, all else as JSON."""
    if isinstance(result, str):
        return result
    try:
        return to_json(result).decode()
    except PydanticSerializationError as error:
        raise TypeError(f"its result is nothing that JSON can say ({error})") from None
