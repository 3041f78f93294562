"""Tokenizers with published chat templates, and random conversations, for the renderer tests."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.checkpoints import make_tokenizer

# The way Qwen and Llama 3 split text before merging.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
    "user\n\n\nThe quick brown fox jumps over the lazy dog.\n\n  system\n assistant\n\n\n\n",
    "User: hello there\n\nAssistant: hello\n\nUser: think\n<think>\n\n</think>\n\n  \n answer 123 45",
] * 50
QWEN_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
LLAMA_CONTROLS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
)


def published_template(name: str) -> str:
    """Return a chat template as its model ships it (a data file of the `trl` wheel)."""
    return files("trl").joinpath(f"chat_templates/{name}.jinja").read_text()


@functools.cache
def byte_tokenizer(family: str, template: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes and the family's control tokens."""
    tokenizer = make_tokenizer(family)
    tokenizer.chat_template = published_template(template)
    return tokenizer


@functools.cache
def merging_tokenizer(family: str, template: str) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer whose merges cross the borders between header and text."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    llama = family == "llama"
    backend.add_special_tokens([AddedToken(t, special=True) for t in (LLAMA_CONTROLS if llama else QWEN_CONTROLS)])
    backend.add_tokens([] if llama else [AddedToken(t, special=False, normalized=False) for t in QWEN_MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>" if llama else None,
        eos_token="<|eot_id|>" if llama else "<|im_end|>",
        chat_template=published_template(template),
    )


_LOOKALIKES = [
    *QWEN_CONTROLS,
    *LLAMA_CONTROLS,
    *QWEN_MARKUP,
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<<|im_end|>",
    "|>",
]
_words = st.sampled_from(
    ["hello", "fox", " the", "\n", "\n\n", "  ", " \n", "é", "e\u0301", "日本", "🙂", "12", "User:", "'s"]
)
plain_text = st.one_of(
    st.lists(_words, max_size=8).map("".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Co"], exclude_characters="<|>"), max_size=20),
)
hostile_text = st.lists(st.one_of(_words, st.sampled_from(_LOOKALIKES)), max_size=8).map("".join)


def _json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves = st.one_of(text, st.integers(-5, 500), st.booleans(), st.none(), st.just(0.25))
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=2), _objects(text, inner)), max_leaves=3
    )


def _objects(text: st.SearchStrategy[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(text, values, max_size=2)


@st.composite
def tool_specs(draw: st.DrawFn, text: st.SearchStrategy[str] = plain_text) -> list[dict[str, Any]]:
    """Draw one or two tools."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": draw(text),
                "parameters": {"type": "object", "properties": draw(_objects(text, _json_values(text)))},
            },
        }
        for name in draw(st.sampled_from([["add"], ["add", "look_up"]]))
    ]


@st.composite
def _calls(draw: st.DrawFn, text: st.SearchStrategy[str], most: int) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, most))):
        arguments = draw(_objects(text, _json_values(text)))
        given = json.dumps(arguments) if draw(st.booleans()) else arguments
        calls.append(
            {"type": "function", "function": {"name": draw(st.sampled_from(["add", "x"])), "arguments": given}}
        )
    return calls


@st.composite
def conversations(
    draw: st.DrawFn,
    text: st.SearchStrategy[str] = plain_text,
    thinking: bool = False,
    calls: int = 0,
    talks_beside_calls: bool = True,
) -> list[dict[str, Any]]:
    """Draw a conversation: perhaps a system message, then questions and answers, the last one an answer.

    Args:
        draw: of hypothesis.
        text: what is said.
        thinking: whether answers may hold thinking.
        calls: most calls of tools in a message; each message of calls has as many results.
        talks_beside_calls: whether a message of calls may hold text too.
    """
    messages: list[dict[str, Any]] = []

    def answer(content: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking and draw(st.booleans()):
            message["reasoning_content"] = draw(text)
        return message

    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(text)})
        for _ in range(draw(st.integers(0, 2)) if calls else 0):
            called = draw(_calls(text, calls))
            messages.append(answer(draw(text) if talks_beside_calls else "") | {"tool_calls": called})
            messages += [{"role": "tool", "content": draw(text)} for _ in called]
        messages.append(answer(draw(text)))
    return messages
