"""What a chat API answers, as objects with the attributes of the `openai` package's, or as that package's own."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import BaseModel


class FunctionCall(BaseModel):
    """What is called; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


class ChatCompletionToolCall(BaseModel):
    """A call of a tool; the `id` is what its result refers to."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class ChatCompletionMessage(BaseModel):
    """A turn of the model.

    Attributes:
        content: what it says, calls that cannot be read included; None beside calls where it says nothing.
        tool_calls: None where there is none.
        reasoning_content: its thinking, as servers of open models name it; None where there is none.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    tool_calls: list[ChatCompletionToolCall] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """The one answer of a completion."""

    message: ChatCompletionMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    index: int = 0
    logprobs: None = None


class CompletionUsage(BaseModel):
    """Tokens that were read and said; of what kind they were, nobody says."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


class ChatCompletion(BaseModel):
    """A completion.

    Attributes:
        id: of the turn in its episode.
        created: 0; the time would make two runs differ.
        model: the name that was asked for.
    """

    id: str
    choices: list[Choice]
    model: str
    usage: CompletionUsage
    object: Literal["chat.completion"] = "chat.completion"
    created: int = 0


def as_installed(completion: ChatCompletion) -> Any:
    """Return a completion as an object of the `openai` package, where that is installed.

    Frameworks ask for its classes by `isinstance`; the attributes are the same.
    """
    theirs = _class_of_openai()
    return completion if theirs is None else theirs.model_validate(completion.model_dump())


@cache
def _class_of_openai() -> Any:
    if find_spec("openai") is None:
        return None
    from openai.types.chat import ChatCompletion  # pyright: ignore[reportMissingImports]

    return ChatCompletion
