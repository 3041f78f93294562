"""The format of Qwen 3's hybrid models: ChatML with thinking before the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.families.chatml import ChatMLRenderer
from tinsmith.cookbook.renderers.marks import split_thinking
from tinsmith.cookbook.renderers.messages import CheckedMessage, Message

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen3Renderer(ChatMLRenderer):
    """`qwen3`: an answer opens with thinking; that of turns before the last question is left out.

    Args:
        tokenizer: of the model.
        name: in the registry.
        thinking: False (`qwen3_disable_thinking`) puts an empty thought into the prompt, so that the model answers at
            once. An example whose answer does hold thinking is rendered with it, as the template does.
        keep_thinking: True (`qwen3_keep_thinking`) renders every answer as the template renders the last one, so that
            the renderer has the extension property; the template has no such option.
    """

    controls = (*ChatMLRenderer.controls, "<think>", "</think>")

    def __init__(
        self, tokenizer: Any, name: str = "qwen3", *, thinking: bool = True, keep_thinking: bool = False
    ) -> None:
        super().__init__(tokenizer, name)
        self.thinking = thinking
        self.keep_thinking = keep_thinking
        self.has_extension_property = keep_thinking

    def opening(self) -> list[Piece]:
        return [*super().opening(), *self.given_thought()]

    def adapt(self, message: CheckedMessage) -> CheckedMessage:
        if message.role != "assistant":
            return message
        if message.tokens is not None:
            thought, _ = self.split(message.tokens)
            return replace(message, thinking=self.encoder.decode(thought or []).strip("\n"))
        if message.thinking is None and "</think>" in message.text:
            return split_text(message)
        return message

    def accepts_thinking(self, messages: Sequence[CheckedMessage], index: int) -> bool:
        return messages[index].role == "assistant"

    def answer(self, messages: Sequence[CheckedMessage], index: int) -> list[Piece]:
        message = messages[index]
        last = index == len(messages) - 1
        thinks = self.keep_thinking or (index > last_question(messages) and bool(message.thinking or last))
        if message.tokens is not None:
            if not thinks:
                return self.sampled(self.without_thinking(message.tokens))
            return [*self.given_thought(), *self.sampled(message.tokens)]
        if not thinks:
            return super().answer(messages, index)
        text = message.text.lstrip("\n")
        if not self.thinking and not message.thinking:
            pieces = [*self.given_thought(), Piece(text, data=True, spoken=True, seam=True)]
        else:
            pieces = [
                Piece("<think>\n", spoken=True, seam=True),
                Piece((message.thinking or "").strip("\n"), data=True, spoken=True),
                Piece("\n</think>\n\n", spoken=True),
                Piece(text, data=True, spoken=True),
            ]
        return self.said(message, [*pieces, *self.calls(message)])

    def read_answer(self, tokens: list[int]) -> Message:
        thought, rest = self.split(tokens)
        if thought is None:
            return super().read_answer(tokens)
        message = super().read_answer(rest)
        message["content"] = str(message["content"]).lstrip("\n")
        thinking = self.encoder.decode(thought).strip("\n")
        if thinking:
            message["reasoning_content"] = thinking
        return message

    def given_thought(self) -> list[Piece]:
        """Return what the prompt says of the thinking, before the model speaks."""
        return [] if self.thinking else [Piece(EMPTY_THOUGHT)]

    def split(self, tokens: Sequence[int]) -> tuple[list[int] | None, list[int]]:
        """Return the thinking of sampled ids (None where there is none), and the rest."""
        return split_thinking(tokens, self.ids["<think>"], self.ids["</think>"])

    def without_thinking(self, tokens: Sequence[int]) -> list[int]:
        """Return sampled ids as later prompts hold them: thinking and the line breaks behind it are gone."""
        thought, rest = self.split(tokens)
        if thought is None:
            return rest
        while rest and not self.encoder.decode(rest[:1]).strip("\n"):
            rest = rest[1:]
        return rest


def split_text(message: CheckedMessage) -> CheckedMessage:
    """Read thinking that is written into the text, as the template does."""
    thinking = message.text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return replace(message, text=message.text.split("</think>")[-1].lstrip("\n"), thinking=thinking)


def is_question(message: CheckedMessage) -> bool:
    """Whether a message is a question of the user: as in the template, a bare tool response in a user turn is none."""
    text = message.text
    return message.role == "user" and not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))


def last_question(messages: Sequence[CheckedMessage]) -> int:
    """Return the index of the last question."""
    found = [index for index, message in enumerate(messages) if is_question(message)]
    return found[-1] if found else len(messages) - 1
