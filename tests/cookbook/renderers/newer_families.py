"""Formats of the newer families: tokenizers with their control tokens, and how their templates are called."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.cookbook.renderers.families import Format
from tests.cookbook.renderers.formats import QWEN_CONTROLS, QWEN_MARKUP, SPLIT, plain_text, published_template
from tinsmith.client.tokenizer.chat_template import render

DATE = "2031-01-02"
_TOOL_MARKS = [f"<｜tool▁{what}｜>" for what in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")] + [
    f"<｜tool▁{what}▁{end}｜>" for what in ("outputs", "output") for end in ("begin", "end")
]
# Control tokens, the end of a turn first; markup, which tokenizers do not call special, after them.
CONTROLS = {
    "qwen3_5": (["<|im_end|>", *QWEN_CONTROLS[:2]], list(QWEN_MARKUP)),
    "deepseek": (
        ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"],
        ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", *_TOOL_MARKS],
    ),
    "gpt_oss": (
        ["<|return|>", "<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
        ["<|constrain|>"],
    ),
    "kimi": (
        ["<|im_end|>", "[BOS]", "[EOS]", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"],
        [
            "<think>",
            "</think>",
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ],
    ),
}
_CORPUS = ["user\n\nassistant analysis commentary final json\nthe fox\n</think>\n\n 12 hello\n```json\n{}\n```"] * 50


@functools.cache
def family_tokenizer(family: str, merges: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes (or a byte-pair one) with a family's control tokens."""
    special, markup = CONTROLS[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if merges:
        backend = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
        backend.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    else:
        backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in markup])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special[1],
        eos_token=special[0],
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class NewerFormat(Format):
    """A format whose tokenizer is made here; `template` is of the `trl` wheel."""

    def tokenizer(self, merges: bool = True) -> Any:
        return family_tokenizer(self.family, merges)

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        options = self.template_options | (self.prompt_options if prompt else {})
        return render(
            published_template(self.template),
            [self.as_template_reads(message) for message in messages],
            add_generation_prompt=prompt,
            tools=tools,
            bos_token=tokenizer.bos_token,
            **options,
        )

    def as_template_reads(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with the fields that the family's template knows."""
        return message

    def allowed(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a conversation without what the format has no place for."""
        return messages


class QwenFormat(NewerFormat):
    def as_template_reads(self, message: dict[str, Any]) -> dict[str, Any]:
        return with_arguments(message, lambda given: json.loads(given) if isinstance(given, str) else given)


class DeepSeekFormat(NewerFormat):
    """DeepSeek-V3: no definitions; the template is right about one round of calls; its prompts always think."""

    def conversations(self, text: Any = plain_text) -> Any:
        drawn = super().conversations(text)
        return drawn.filter(lambda messages: sum("tool_calls" in message for message in messages) < 2)

    def tools(self, text: Any = plain_text) -> Any:
        return st.none()

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        text = super().template_text(tokenizer, messages, prompt)
        return text.removesuffix("<think>\n") if prompt else text

    def as_template_reads(self, message: dict[str, Any]) -> dict[str, Any]:
        return with_arguments(message, lambda given: given if isinstance(given, str) else to_json(given))


class DeepSeekThinkingFormat(DeepSeekFormat):
    """The template has prompts and history; what is sampled goes on behind the prompt."""

    def conversations(self, text: Any = plain_text) -> Any:
        return super().conversations(text).map(self.allowed)

    def allowed(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return without_thinking_after_results(messages)

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        if prompt:
            return NewerFormat.template_text(self, tokenizer, messages, True)
        *before, last = messages
        begun = self.template_text(tokenizer, before, True)
        if not begun.endswith("<think>\n"):  # an answer to a result
            return NewerFormat.template_text(self, tokenizer, messages, False)
        written, found, text = last["content"].rpartition("</think>")
        thought = last.get("reasoning_content") or written.removeprefix("<think>").strip("\n")
        answer = text.lstrip("\n") if found else text
        return f"{begun}{thought}\n</think>\n\n{answer}{tokenizer.eos_token}"


class DeepSeekV31Format(DeepSeekFormat):
    """Spelled from the description of the format: nobody ships the template as a data file."""

    def conversations(self, text: Any = plain_text) -> Any:
        return NewerFormat.conversations(self, text).map(self.allowed)

    def allowed(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return without_thinking_after_results(messages)

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        thinks = self.renderer.endswith("thinking")
        text = tokenizer.bos_token + "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        for index, message in enumerate(messages):
            asked = index > 0 and messages[index - 1]["role"] == "user"
            if message["role"] == "user":
                text += "<｜User｜>" + message["content"]
            elif message["role"] == "tool":
                text += f"<｜tool▁output▁begin｜>{message['content']}<｜tool▁output▁end｜>"
            elif message["role"] == "assistant":
                said, thought = message["content"], message.get("reasoning_content")
                calls = self.as_template_reads(message).get("tool_calls", [])
                if asked and not calls and "</think>" in said:
                    written, _, said = said.partition("</think>")
                    if thinks:
                        thought, said = thought or written.removeprefix("<think>").strip("\n"), said.lstrip("\n")
                live = index == len(messages) - 1 and not prompt
                if asked:
                    opened = f"<think>{thought or ''}" if thinks and live else ""
                    text += f"<｜Assistant｜>{opened}</think>"
                spelled = "".join(
                    f"<｜tool▁call▁begin｜>{c['function']['name']}<｜tool▁sep｜>{c['function']['arguments']}<｜tool▁call▁end｜>"
                    for c in calls
                )
                text += (
                    said
                    + (f"<｜tool▁calls▁begin｜>{spelled}<｜tool▁calls▁end｜>" if calls else "")
                    + tokenizer.eos_token
                )
        asking = prompt and messages[-1]["role"] == "user"
        return text + ("<｜Assistant｜>" + ("<think>" if thinks else "</think>")) * asking


class KimiFormat(NewerFormat):
    """Spelled from the description of the format: nobody ships the template as a data file."""

    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        thinks = self.renderer == "kimi_k2"
        text = ""
        if tools:
            compact = json.dumps(tools, ensure_ascii=False, separators=(",", ":"))
            text += f"<|im_system|>tool_declare<|im_middle|>{compact}<|im_end|>"
        if messages[0]["role"] != "system":
            text += "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>"
        kept = messages if prompt else messages[:-1]
        plain = [i for i, m in enumerate(kept) if m["role"] == "assistant" and "tool_calls" not in m]
        ids = []
        count = 0
        for index, message in enumerate(messages):
            body = message["content"]
            if message["role"] == "tool":
                body = f"## Return of {ids.pop(0)}\n{body}"
            if message["role"] == "assistant":
                thought = (message.get("reasoning_content") or "") if index > max(plain, default=-1) else ""
                body = f"<think>{thought}</think>{body}" if thinks else body
                for number, call in enumerate(message.get("tool_calls", [])):
                    given = call["function"]["arguments"]
                    ids.append(f"functions.{call['function']['name']}:{count}")
                    count += 1
                    body += "<|tool_calls_section_begin|>" * (number == 0)
                    body += f"<|tool_call_begin|>{ids[-1]}<|tool_call_argument_begin|>"
                    body += f"{given if isinstance(given, str) else to_json(given)}<|tool_call_end|>"
                body += "<|tool_calls_section_end|>" * ("tool_calls" in message)
            mark = message["role"] if message["role"] in ("user", "assistant") else "system"
            text += f"<|im_{mark}|>{message['role']}<|im_middle|>{body}<|im_end|>"
        return text + "<|im_assistant|>assistant<|im_middle|>" * prompt


class GptOssFormat(NewerFormat):
    def template_text(self, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool, tools: Any = None) -> str:
        render_all = super().template_text
        if prompt or "tool_calls" in messages[-1]:
            return render_all(tokenizer, messages, prompt, tools)
        # The template leaves out the thinking of calls once they are answered; when the answer is sampled it is there.
        alone = render_all(tokenizer, [{"role": "user", "content": ""}, messages[-1]], False)
        said = alone.partition("<|start|>assistant")[2]
        return render_all(tokenizer, messages[:-1], True, tools) + said

    def as_template_reads(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"thinking" if key == "reasoning_content" else key: value for key, value in message.items()}


def without_thinking_after_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    after = [False, *(message["role"] == "tool" for message in messages)]
    dropped = [{"reasoning_content"} if follows else set() for follows in after]
    return [{k: v for k, v in m.items() if k not in drop} for m, drop in zip(messages, dropped, strict=False)]


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def with_arguments(message: dict[str, Any], change: Any) -> dict[str, Any]:
    """Return a message with the arguments of its calls changed."""
    if "tool_calls" not in message:
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": change(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


QWEN35 = QwenFormat("qwen3_5", "qwen3_5", "qwen3_5_think", thinking=True, calls=2)
QWEN35_OFF = QwenFormat("qwen3_5_disable_thinking", "qwen3_5", "qwen3_5_nothink", calls=2)
QWEN36 = QwenFormat("qwen3_6", "qwen3_5", "qwen3_6", thinking=True, calls=2)
QWEN36_KEEP = QwenFormat(
    "qwen3_6_keep_thinking",
    "qwen3_5",
    "qwen3_6",
    template_options={"preserve_thinking": True},
    thinking=True,
    calls=2,
)
DEEPSEEK = DeepSeekFormat("deepseek_v3", "deepseek", "deepseekv3", calls=2)
DEEPSEEK_THINKS = DeepSeekThinkingFormat("deepseek_v3_thinking", "deepseek", "deepseekv3", thinking=True, calls=2)
DEEPSEEK_V31 = DeepSeekV31Format("deepseek_v3_1", "deepseek", "written", calls=2)
DEEPSEEK_V31_THINKS = DeepSeekV31Format("deepseek_v3_1_thinking", "deepseek", "written", thinking=True, calls=2)
KIMI = KimiFormat("kimi_k2", "kimi", "written", thinking=True, calls=2)
KIMI_INSTRUCT = KimiFormat("kimi_k2_instruct", "kimi", "written", calls=2)


def _gpt_oss(reasoning: str) -> NewerFormat:
    return GptOssFormat(
        f"gpt_oss_{reasoning}_reasoning",
        "gpt_oss",
        "gptoss",
        options={"date": DATE},
        template_options={"reasoning_effort": reasoning, "strftime_now": lambda pattern: DATE},
        thinking=True,
        calls=1,
        talks_beside_calls=False,
    )


GPT_OSS = _gpt_oss("medium")
GPT_OSS_HIGH = _gpt_oss("high")
NEWER = [
    QWEN35,
    QWEN35_OFF,
    QWEN36,
    QWEN36_KEEP,
    DEEPSEEK,
    DEEPSEEK_THINKS,
    DEEPSEEK_V31,
    DEEPSEEK_V31_THINKS,
    GPT_OSS,
    GPT_OSS_HIGH,
    KIMI,
    KIMI_INSTRUCT,
]


def json_schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Draw the parameters of a function: all that a TypeScript declaration can say, nested."""
    named = ("string", "number", "integer", "boolean", "object", "array")
    leaves = st.one_of(
        st.sampled_from(named).map(lambda kind: {"type": kind}),
        st.sampled_from(
            [
                {},
                {"type": ["string", "null"]},
                {"type": "string", "enum": ["a", "b"]},
                {"type": "string", "enum": ["a"], "default": "a", "description": "one"},
                {"type": "string", "nullable": True},
                {"type": "array", "nullable": True},
                {"type": "integer", "default": 3},
                {"type": "boolean", "default": False, "description": "whether"},
            ]
        ),
    )

    def nest(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        several = st.lists(inner, min_size=1, max_size=3)
        return st.one_of(
            inner.map(lambda items: {"type": "array", "items": items}),
            _objects(several),
            several.map(lambda kinds: {"oneOf": kinds}),
        )

    return _objects(st.lists(st.recursive(leaves, nest, max_leaves=5), max_size=3))


def _objects(properties: st.SearchStrategy[list[dict[str, Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda specs, required: {
            "type": "object",
            "properties": {f"p{number}": spec for number, spec in enumerate(specs)},
            "required": ["p0"] * required,
        },
        properties,
        st.booleans(),
    )
