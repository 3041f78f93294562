"""What a chat API answers, as objects with the attributes of the `openai` package's."""

from __future__ import annotations

from typing import Literal

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
    """Tokens that were read and said."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


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
