"""Ids are the template's own with every kind of tokenizer: those that put spaces before a text, and all others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cookbook.renderers.generated import AROUND, KINDS, LOSSY, TEMPLATES, generated_tokenizer
from tinsmith.cookbook import renderers
from tinsmith.cookbook.batches.examples import text_to_example
from tinsmith.cookbook.renderers import get_renderer

quick = settings(max_examples=6, deadline=None)
words = st.lists(
    st.sampled_from(["hello", " there", "hi", " ", "\n", "[", "]", " is", "12", "é", "<", ">", "what", " 45", "日"]),
    min_size=1,
    max_size=6,
).map("".join)
hostile = st.lists(
    st.sampled_from(["hello", " there", "</s>", "<|end|>", "<|end|> \n", "<s>", "[INST]", "<|im_end|>", " ", "<", "\n"]),
    min_size=1,
    max_size=6,
).map("".join)


def chats(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    turns = st.lists(st.tuples(text, text), min_size=1, max_size=2)
    return turns.map(
        lambda pairs: [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
    )


@pytest.fixture(autouse=True)
def no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_template(kind: str, template: str) -> None:
    tokenizer = generated_tokenizer(kind, template)
    renderer = get_renderer("chat_template", tokenizer)

    def own(messages: list[dict[str, Any]], prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return tokenizer.encode(str(text), add_special_tokens=False)

    @quick
    @given(chats(words))
    def check(messages: list[dict[str, Any]]) -> None:
        answers = range(1, len(messages), 2)
        prompts = {place: own(messages[:place], True) for place in answers}
        # What the template's own ids of an example begin with is not the prompt where a merge spans the border.
        split = [place for place in answers if own(messages, False)[: len(prompts[place])] != prompts[place]]
        tokens, weights = renderer.build_supervised_example(messages)
        for place in answers:
            prompt = renderer.build_generation_prompt(messages[:place]).to_ints()
            assert tokens[: len(prompt)] == prompt
            if not [at for at in split if at < place]:
                assert prompt == prompts[place]
        if not split:
            assert tokens == own(messages, False)
        elif kind not in LOSSY:
            assert tokenizer.decode(tokens) == tokenizer.decode(own(messages, False))
        assert len(weights) == len(tokens)

    check()
