"""Tool calls: the system text describes tools, the model calls one, reads the response, answers."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tinsmith.cookbook.words import Split
from tiny.example import Example, Message, distinct_words, letters, message
from tiny.prose import courtesy

# name: description, argument, how a user asks, how the model answers
_TOOLS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "lookup": ("Look up the value of a key.", "key", ("What is the value of {}?", "Look up {}."), "{}"),
    "search": ("Search documents.", "query", ("Search for {}.", "Find out about {}."), "I found: {}"),
    "weather": ("Weather of a city.", "city", ("How is the weather in {}?", "Weather in {}?"), "It is {}."),
    "price": ("Price of an item.", "item", ("What does {} cost?", "Price of {}?"), "It costs {}."),
    "phone": (
        "Phone number of a person.",
        "name",
        ("What is the phone number of {}?", "Call {}."),
        "The number is {}.",
    ),
}


def description(name: str) -> dict[str, Any]:
    """The tool as `apply_chat_template(tools=...)` takes it."""
    text, argument, _, _ = _TOOLS[name]
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}


def call(name: str, value: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {_TOOLS[name][1]: value}}}


def call_text(name: str, value: str) -> str:
    """How a call looks in the model's output."""
    body = json.dumps({"name": name, "arguments": {_TOOLS[name][1]: value}}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def _rounds(rng: Random, split: Split, names: list[str], count: int) -> list[Message]:
    messages: list[Message] = []
    for _ in range(count):
        name = rng.choice(names)
        _, _, asks, answer = _TOOLS[name]
        value = letters(rng, split, 10)
        found = str(rng.randint(0, 9999)) if rng.random() < 0.4 else " ".join(distinct_words(rng, split, 2))
        messages += [
            message("user", rng.choice(asks).format(value)),
            message("assistant", "", tool_calls=[call(name, value)]),
            message("tool", found),
            message("assistant", answer.format(found)),
        ]
    return messages


def tool_use(rng: Random, split: Split, skill: str = "tool_answer") -> Example:
    """One or two calls with their answers; some conversations need no tool at all."""
    names = rng.sample(tuple(_TOOLS), rng.randint(1, 3))
    system = [message("system", "You may use tools.")] if rng.random() < 0.3 else []
    messages = _rounds(rng, split, names, 1 if split == "held_out" else rng.randint(1, 2))
    if split == "train" and rng.random() < 0.15:
        ask = courtesy(rng, split)
        messages = [message("user", ask.question), message("assistant", ask.answer), *messages]
    if skill == "tool_call":
        messages = messages[:-2]
    return Example(skill, tuple(system + messages), tools=tuple(description(name) for name in names))


def tool_call(rng: Random, split: Split) -> Example:
    """Ends with the call."""
    return tool_use(rng, split, "tool_call")


EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {"tool_answer": tool_use, "tool_call": tool_call}
