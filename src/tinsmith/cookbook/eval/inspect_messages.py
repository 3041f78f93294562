"""Messages, tools and tool calls between Inspect AI's types and those of renderers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall, ToolInfo

from tinsmith.cookbook.renderers import Message, ParsedResponse, Renderer, TurnEnd
from tinsmith.types.errors import invalid

# Where a message of the model's keeps the ids that were sampled.
_TOKENS = "tinsmith_tokens"


def tool_specs(tools: Sequence[ToolInfo]) -> list[dict[str, Any]]:
    """Return tools as `apply_chat_template(tools=)` takes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(exclude_none=True),
            },
        }
        for tool in tools
    ]


def from_inspect(message: ChatMessage, renderer: Renderer) -> Message:
    """Return a message as renderers read it.

    An answer that this model sampled earlier, and that nobody changed since, keeps its sampled ids.

    Raises:
        UserError: it holds something that is no text.
    """
    text, thinking = _content(message.content)
    found: Message = {"role": message.role, "content": text}
    if isinstance(message, ChatMessageTool):
        # The model has to see that a tool failed, and why.
        found["content"] = message.error.message if message.error else text
        if message.function:
            found["name"] = message.function  # pyright: ignore[reportGeneralTypeIssues]
        if message.tool_call_id:
            found["tool_call_id"] = message.tool_call_id
    if isinstance(message, ChatMessageAssistant):
        if thinking is not None:
            found["reasoning_content"] = thinking
        if message.tool_calls:
            found["tool_calls"] = [_call(call) for call in message.tool_calls]
        tokens = (message.metadata or {}).get(_TOKENS)
        # A task may edit an answer before it goes on; then its text counts, and its ids say something else.
        if tokens is not None and _is_unchanged(message, text, renderer.parse_response(tokens)):
            found["tokens"] = tokens
    return found


def _is_unchanged(message: ChatMessageAssistant, text: str, parsed: ParsedResponse) -> bool:
    """Whether a message still says and calls what was sampled."""
    calls = [(call.function, call.arguments) for call in message.tool_calls or []]
    return text == parsed.message["content"] and calls == [(c.function, c.arguments) for c in _calls(parsed)]


def to_inspect(
    parsed: ParsedResponse, tokens: Sequence[int], stop_seqs: Sequence[str], model: str
) -> ChatMessageAssistant:
    """Return a sampled answer as Inspect reads it; the text ends before the first of `stop_seqs` in it."""
    message = parsed.message
    text = str(message["content"])
    # The service ends a sequence after the token that completes a stop text: the text has it, and perhaps more.
    cut = min((position for stop in stop_seqs if (position := text.find(stop)) >= 0), default=len(text))
    content: list[Content] = []
    if thinking := message.get("reasoning_content"):
        content.append(ContentReasoning(reasoning=thinking))
    content.append(ContentText(text=text[:cut]))
    return ChatMessageAssistant(
        content=content if thinking else text[:cut],
        tool_calls=_calls(parsed) or None,
        model=model,
        source="generate",
        # What was cut off is not what the model is to be shown again.
        metadata={_TOKENS: list(tokens)} if cut == len(text) and parsed.end is not TurnEnd.CUT_OFF else None,
    )


def _calls(parsed: ParsedResponse) -> list[ToolCall]:
    calls = [_inspect_call(call, index) for index, call in enumerate(parsed.message.get("tool_calls") or [])]
    # Inspect shows a call with a parse error to the model, which then tries again; dropping it would end the turn
    # instead.
    return calls + [
        ToolCall(id=f"bad_{index}", function="unreadable", arguments={}, parse_error=str(call.get("reason")))
        for index, call in enumerate(parsed.message.get("unparsed_tool_calls") or [])
    ]


def _content(content: str | list[Content]) -> tuple[str, str | None]:
    if isinstance(content, str):
        return content, None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if isinstance(part, ContentText):
            texts.append(part.text)
        elif isinstance(part, ContentReasoning):
            thoughts.append(part.reasoning)
        else:
            raise invalid("content", part.type, "text: the models served here read nothing else")
    return "".join(texts), "".join(thoughts) if thoughts else None


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.function, "arguments": call.arguments}}


def _inspect_call(call: dict[str, Any], index: int) -> ToolCall:
    function = call["function"]
    arguments = function["arguments"]
    return ToolCall(
        id=call.get("id") or f"call_{index}",
        function=function["name"],
        arguments=json.loads(arguments) if isinstance(arguments, str) else arguments,
    )
