"""Ids are the template's own with every kind of tokenizer: those that put spaces before a text, and all others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.generated import AROUND, KINDS, LOSSY, TEMPLATES, generated_tokenizer
from tests.support.examples import examples
from tinsmith.cookbook.batches.examples import text_to_example
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.types.errors import UserError

quick = examples(25)
plain = ["hello", " there", "hi", " ", "\n", "[", "]", " is", "12", "é", "<", ">", "what", " 45", "日"]
controls = ["hello", " there", "</s>", "<|end|>", "<|end|> \n", "<s>", "[INST]", "<|im_end|>", " ", "<", "\n"]
words = st.lists(st.sampled_from(plain), min_size=1, max_size=6).map("".join)
hostile = st.lists(st.sampled_from(controls), min_size=1, max_size=6).map("".join)
templates = st.sampled_from(list(TEMPLATES))
by_kind = pytest.mark.parametrize("kind", KINDS)


def chats(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    turns = st.lists(st.tuples(text, text), min_size=1, max_size=2)
    return turns.map(
        lambda pairs: [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
    )


@by_kind
def test_ids_are_those_of_the_template(kind: str) -> None:
    @quick
    @given(templates, st.integers(0, 4), chats(words))
    def check(template: str, grasping: int, messages: list[dict[str, Any]]) -> None:
        tokenizer = generated_tokenizer(kind, template, grasping=grasping)
        renderer = get_renderer("chat_template", tokenizer)

        def own(messages: list[dict[str, Any]], prompt: bool) -> list[int]:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            return tokenizer.encode(str(text), add_special_tokens=False)

        answers = range(1, len(messages), 2)
        prompts = {place: own(messages[:place], True) for place in answers}
        # What the template's own ids of an example begin with is not the prompt where a merge spans the border.
        split = [place for place in answers if own(messages, False)[: len(prompts[place])] != prompts[place]]
        tokens, _ = renderer.build_supervised_example(messages)
        for place in answers:
            prompt = renderer.build_generation_prompt(messages[:place]).to_ints()
            assert tokens[: len(prompt)] == prompt
            if not [at for at in split if at < place]:
                assert prompt == prompts[place]
        if not split:
            assert tokens == own(messages, False)
        elif kind not in LOSSY:
            assert tokenizer.decode(tokens) == tokenizer.decode(own(messages, False))

    check()


@by_kind
def test_an_answer_is_learned_with_its_end_and_read_back(kind: str) -> None:
    @quick
    @given(templates, st.integers(0, 4), chats(st.one_of(words, hostile)))
    def check(template: str, grasping: int, messages: list[dict[str, Any]]) -> None:
        tokenizer = generated_tokenizer(kind, template, grasping=grasping)
        renderer = get_renderer("chat_template", tokenizer)
        stops = renderer.get_stop_sequences()
        prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
        tokens, weights = renderer.build_supervised_example(messages, "last_assistant_message")
        said = [token for token, weight in zip(tokens, weights, strict=True) if weight]
        assert weights.index(1.0) == len(prompt)
        assert said[-1] in stops
        assert sum(token in stops for token in said) == 1
        message, end = renderer.parse_response(said)
        assert end.is_clean
        if kind not in LOSSY:
            # Behind a control token some tokenizers have one spelling for a text with a space before it and without.
            assert message["content"].strip() == messages[-1]["content"].strip()
        # Sampled ids go on as the same text does.
        question = {"role": "user", "content": "hi"}
        sampled = renderer.build_generation_prompt([*messages[:-1], message, question])
        assert sampled.to_ints() == renderer.build_generation_prompt([*messages, question]).to_ints()

    check()


@by_kind
def test_what_is_prefilled_goes_on_from_the_prompt(kind: str) -> None:
    for template in TEMPLATES:
        tokenizer = generated_tokenizer(kind, template)
        renderer = get_renderer("chat_template", tokenizer)
        prompt = renderer.build_generation_prompt([{"role": "user", "content": "what"}]).to_ints()
        longer = renderer.build_generation_prompt([{"role": "user", "content": "what"}], prefill="hello").to_ints()
        assert longer[: len(prompt)] == prompt
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "what"}], tokenize=False, add_generation_prompt=True
        )
        whole = tokenizer.encode(f"{text}hello", add_special_tokens=False)
        if whole[: len(prompt)] == prompt:
            assert longer == whole
        elif kind not in LOSSY:
            assert tokenizer.decode(longer) == tokenizer.decode(whole)
        end = renderer.get_stop_sequences()[0]
        assert renderer.parse_response([end], prefill="hello").message["tokens"] == [*longer[len(prompt) :], end]


@pytest.mark.parametrize("around", AROUND)
@by_kind
def test_a_text_is_what_the_tokenizer_makes_of_it(kind: str, around: str) -> None:
    tokenizer = generated_tokenizer(kind, "bare", around)

    @examples(8)
    @given(words)
    def check(text: str) -> None:
        tokens, weights = text_to_example(text, tokenizer)
        assert tokens == tokenizer.encode(text)
        assert weights == [1.0] * len(tokens)

    check()
    ends = (
        [tokenizer.bos_token_id] * (around in ("bos", "both")),
        [tokenizer.eos_token_id] * (around in ("eos", "both")),
    )
    spelled, _ = text_to_example("a</s><s>b", tokenizer)
    inner = spelled[len(ends[0]) : len(spelled) - len(ends[1])]
    assert spelled == [*ends[0], *inner, *ends[1]]
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(inner)


@by_kind
def test_role_colon(kind: str) -> None:
    tokenizer = generated_tokenizer(kind, "bare", "bos")
    if kind == "wordpiece":
        with pytest.raises(UserError, match=r"tokenizer: .*expected one that spells line breaks"):
            get_renderer("role_colon", tokenizer)
        return
    renderer = get_renderer("role_colon", tokenizer)

    @quick
    @given(words, words)
    def check(question: str, answer: str) -> None:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompt = renderer.build_generation_prompt(messages[:1]).to_ints()
        assert prompt == tokenizer.encode(f"User: {question}\n\nAssistant:")
        tokens, weights = renderer.build_supervised_example(messages)
        whole = tokenizer.encode(f"User: {question}\n\nAssistant: {answer}\n\nUser:")
        assert (
            tokens == whole if whole[: len(prompt)] == prompt else tokenizer.decode(tokens) == tokenizer.decode(whole)
        )
        said = [token for token, weight in zip(tokens, weights, strict=True) if weight]
        assert tokens == [*prompt, *said]
        message, end = renderer.parse_response(said)
        assert end.is_clean
        assert kind in LOSSY or message["content"] == answer.strip()

    check()


def test_the_second_space_of_a_prefix() -> None:
    """`[/INST]` and an answer, encoded alone, would each begin with a space that the template's text has not."""
    tokenizer = generated_tokenizer("prepend", "inst")
    renderer = get_renderer("chat_template", tokenizer)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    tokens, _ = renderer.build_supervised_example(messages)
    assert tokenizer.decode(tokens) == "<s> [INST] hi [/INST]hello</s>"
    assert tokens == tokenizer.encode("<s>[INST] hi [/INST]hello</s>", add_special_tokens=False)
