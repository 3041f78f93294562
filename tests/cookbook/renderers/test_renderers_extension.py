"""Several turns: sampled ids are used as they were, and every answer is learned in the context it is sampled in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.families import (
    LLAMA31,
    OWN,
    QWEN3,
    QWEN3_INSTRUCT,
    QWEN3_OFF,
    TINY,
    Format,
    by_format,
    by_own_format,
    quick,
)
from tests.cookbook.renderers.formats import byte_tokenizer, conversations, merging_tokenizer, plain_text
from tinsmith.cookbook.renderers import TurnEnd, get_renderer

KEEPING = [
    Format(name, "qwen3", "qwen3", options={"keep_thinking": True}, thinking=True, calls=2)
    for name in ("qwen3", "qwen3_disable_thinking")
]
ROLE_COLON = Format("role_colon", "llama", "llama3")
EXTENDING = [fmt for fmt in OWN if fmt not in (QWEN3, QWEN3_OFF)] + [*KEEPING, ROLE_COLON]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n\n", "\n\nUser:", "\n\nUser: x", "🙂"]


def test_who_claims_the_extension_property() -> None:
    claims = {str(fmt): fmt.renderer_and_tokenizer()[0].has_extension_property for fmt in [*OWN, *KEEPING, ROLE_COLON]}
    assert [name for name, claimed in claims.items() if not claimed] == [str(QWEN3), str(QWEN3_OFF)]


def sampled(fmt: Format, tokenizer: Any) -> st.SearchStrategy[list[int]]:
    """Draw what a model may sample: text, marks, single bytes of characters, junk; ended or cut off."""
    stops = [t for t in fmt.renderer_and_tokenizer()[0].get_stop_sequences() if isinstance(t, int)]
    anything = st.integers(0, len(tokenizer) - 1).filter(lambda token: token not in stops).map(lambda token: [token])
    text = st.one_of(plain_text, st.sampled_from(MARKS))
    whole = text.map(lambda said: tokenizer.encode(said, add_special_tokens=False))
    letters = text.map(lambda said: [t for c in said for t in tokenizer.encode(c, add_special_tokens=False)])
    parts = st.lists(st.one_of(anything, whole, letters), max_size=5)
    ends = st.sampled_from([[], *([stop] for stop in stops)])
    return st.tuples(parts, ends).map(lambda drawn: [t for part in drawn[0] for t in part if t not in stops] + drawn[1])


@pytest.mark.parametrize("fmt", EXTENDING, ids=str)
@pytest.mark.row(49)
def test_the_next_prompt_begins_with_this_one_and_what_was_sampled(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    others = st.sampled_from(["user", "tool", "assistant", "system"] if fmt.calls else ["user", "assistant", "system"])

    @quick
    @given(st.data(), fmt.tools())
    def check(data: st.DataObject, tools: Any) -> None:
        messages: list[Any] = [{"role": "user", "content": data.draw(plain_text)}]
        if data.draw(st.booleans()):
            messages.insert(0, {"role": "system", "content": data.draw(plain_text)})
        for _ in range(data.draw(st.integers(1, 3))):
            prefill = data.draw(st.sampled_from([None, "Well", "<think>\n"]))
            prompt = renderer.build_generation_prompt(messages, prefill, tools=tools).to_ints()
            said = data.draw(sampled(fmt, tokenizer))
            messages.append(renderer.parse_response(said, prefill=prefill).message)
            example = renderer.build_supervised_example(messages, "last_assistant_message", tools=tools)
            assert example.tokens[: len(prompt) + len(said)] == prompt + said
            begun = len(messages[-1]["tokens"]) - len(said)
            assert example.weights[: len(prompt) + len(said)] == [0.0] * (len(prompt) - begun) + [1.0] * (
                begun + len(said)
            )
            assert not any(example.weights[len(prompt) + len(said) :])
            messages.append({"role": data.draw(others), "content": data.draw(plain_text)})
            longer = renderer.build_generation_prompt(messages, tools=tools).to_ints()
            assert longer[: len(prompt) + len(said)] == prompt + said

    check()


def test_a_turn_that_was_cut_off_is_ended_before_the_next() -> None:
    for fmt in (TINY, LLAMA31, QWEN3_INSTRUCT, ROLE_COLON):
        renderer, tokenizer = fmt.renderer_and_tokenizer()
        question = {"role": "user", "content": "Q"}
        said = tokenizer.encode(" hal" if fmt is ROLE_COLON else "hal", add_special_tokens=False)
        message, end = renderer.parse_response(said)
        assert end is TurnEnd.CUT_OFF
        whole = {"role": "assistant", "content": "hal"}
        expected = renderer.build_generation_prompt([question, whole, question]).to_ints()
        assert renderer.build_generation_prompt([question, message, question]).to_ints() == expected


@pytest.mark.parametrize("fmt", [QWEN3, QWEN3_OFF], ids=str)
def test_thinking_that_the_format_drops_is_cut_off_the_sampled_ids(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)

    @quick
    @given(conversations(thinking=True, calls=2), conversations())
    def check(messages: list[Any], later: list[Any]) -> None:
        messages = without_first_line_breaks(messages)
        later = [message for message in later if message["role"] != "system"]
        thinks = fmt is QWEN3
        as_sampled: list[Any] = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                if not thinks:
                    message = {key: value for key, value in message.items() if key != "reasoning_content"}
                example = renderer.build_supervised_example([*messages[:index], message], "last_assistant_message")
                said = [t for t, w in zip(*example, strict=True) if w]
                as_sampled.append({"role": "assistant", "content": "other words", "tokens": said})
            else:
                as_sampled.append(message)
        text = tokenizer.decode(renderer.build_generation_prompt([*as_sampled, later[0]]).to_ints())
        plain = [{k: v for k, v in m.items() if k != "reasoning_content" or thinks} for m in messages]
        assert text == tokenizer.decode(renderer.build_generation_prompt([*plain, later[0]]).to_ints())

    check()


def without_first_line_breaks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation whose answers do not begin with white space, which formats trim in some places only."""
    return [m | {"content": m["content"].lstrip()} if m["role"] == "assistant" else m for m in messages]


def test_what_is_kept_of_a_sampled_turn_are_its_own_ids() -> None:
    tokenizer = merging_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    letters = [t for c in "hello there" for t in tokenizer.encode(c, add_special_tokens=False)]
    assert letters != tokenizer.encode("hello there", add_special_tokens=False)
    thought = tokenizer.encode("<think>\nhm\n</think>\n\n", add_special_tokens=False)
    question = {"role": "user", "content": "Q"}
    for said, kept in ((thought + letters, letters), (thought[:3], []), (letters, letters)):
        message = renderer.parse_response([*said, tokenizer.eos_token_id]).message
        prompt = renderer.build_generation_prompt([question, message, question]).to_ints()
        opening = renderer.build_generation_prompt([question]).to_ints()
        assert prompt[: len(opening) + len(kept) + 1] == [*opening, *kept, tokenizer.eos_token_id]


@pytest.mark.parametrize("fmt", KEEPING, ids=str)
def test_kept_thinking_renders_every_answer_as_the_template_renders_the_last(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer(merges=False)
    options = {"enable_thinking": False} if fmt.renderer == "qwen3_disable_thinking" else {}

    @quick
    @given(fmt.conversations())
    def check(messages: list[Any]) -> None:
        expected = ""
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
                whole = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
                expected += "<|im_start|>assistant\n" + whole.removeprefix(prompt)
            elif index == 0 or message["role"] != "tool":
                expected += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
            else:
                before = messages[index - 1]["role"] != "tool"
                after = messages[index + 1]["role"] != "tool"
                expected += "<|im_start|>user" * before + f"\n<tool_response>\n{message['content']}\n</tool_response>"
                expected += "<|im_end|>\n" * after
        assert tokenizer.decode(renderer.build_supervised_example(messages).tokens) == expected
        prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
        opened = tokenizer.apply_chat_template([messages[-2]], tokenize=False, add_generation_prompt=True, **options)
        assert tokenizer.decode(prompt).endswith(opened.rpartition("<|im_start|>")[2])

    check()


@by_format
def test_every_answer_is_learned_once_and_in_the_context_it_is_sampled_in(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()

    @quick
    @given(fmt.conversations(), fmt.tools())
    def check(messages: list[Any], tools: Any) -> None:
        messages = without_first_line_breaks(messages)
        examples = renderer.build_supervised_examples(messages, tools=tools)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        assert len(examples) == (1 if renderer.has_extension_property else len(answers))
        total = 0.0
        for index in answers:
            prompt = renderer.build_generation_prompt(messages[:index], tools=tools).to_ints()
            alone = renderer.build_supervised_example(messages[: index + 1], "last_assistant_message", tools=tools)
            said = [t for t, w in zip(*alone, strict=True) if w]
            total += len(said)
            begin, end = len(prompt), len(prompt) + len(said)
            assert any(
                example.tokens[:end] == prompt + said and example.weights[begin:end] == [1.0] * len(said)
                for example in examples
            )
        assert sum(sum(example.weights) for example in examples) == total

    check()


def test_other_messages_are_learned_in_the_first_example_that_holds_them() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [{"role": role, "content": f"{role[0].upper()}{index}"} for index, role in enumerate(roles)]

    def learned(what: str, chosen: list[dict[str, Any]] = messages) -> list[list[str]]:
        examples = renderer.build_supervised_examples(chosen, what)
        texts = [tokenizer.decode([t for t, w in zip(*example, strict=True) if w]) for example in examples]
        return [text.replace("<think>\n\n</think>\n\n", "").split("<|im_end|>")[:-1] for text in texts]

    assert learned("all_messages") == [["S0", "U1", "A2"], ["U3", "A4"], ["U5"]]
    assert learned("all_user_and_system_messages") == [["S0", "U1", "U3", "U5"]]
    assert learned("last_assistant_message") == [["A4"]]
    assert learned("last_assistant_turn", messages[:5]) == [["A4"]]
    flags = [message | {"trainable": index in (1, 2)} for index, message in enumerate(messages)]
    assert learned("customized", flags) == [["U1", "A2"]]
    assert len(learned("all_tokens")) == 1
    assert learned("customized", [message | {"trainable": False} for message in messages]) == [[]]


@by_own_format
def test_prefill_goes_on_after_the_prompt_and_begins_the_message(fmt: Format) -> None:
    renderer, tokenizer = fmt.renderer_and_tokenizer()
    question = {"role": "user", "content": "Q"}
    plain = renderer.build_generation_prompt([question]).to_ints()
    begun = renderer.build_generation_prompt([question], prefill="Well").to_ints()
    assert begun[: len(plain)] == plain
    assert tokenizer.decode(begun[len(plain) :]) == "Well"
    said = tokenizer.encode(", no", add_special_tokens=False)
    message = renderer.parse_response(said, prefill="Well").message
    assert message["content"] == "Well, no"
    example = renderer.build_supervised_example([question, message])
    assert example.tokens[: len(begun) + len(said)] == begun + said


def test_marks_in_a_prefill_are_marks() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    prompt = renderer.build_generation_prompt([{"role": "user", "content": "<think>"}], prefill="<think>\nSo").to_ints()
    assert prompt.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    said = tokenizer.encode(" it is\n</think>\n\nyes", add_special_tokens=False)
    message = renderer.parse_response(said, prefill="<think>\nSo").message
    assert (message["reasoning_content"], message["content"]) == ("So it is", "yes")
