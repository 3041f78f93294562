"""Texts that go on from others: prompts and completions, pairs, what was sampled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.generated import AROUND, KINDS, LOSSY, generated_tokenizer
from tests.support.examples import examples
from tinsmith import hub
from tinsmith.client.sampling.completions import Completion
from tinsmith.client.sampling.text_sampling import encode_prompt
from tinsmith.client.tokenizer.joints import Joints, Place, ids_around
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.training.preference_pairs import PreferenceRow, render
from tinsmith.types.outputs import SampledSequence

by_kind = pytest.mark.parametrize("kind", KINDS)
pieces = st.lists(
    st.sampled_from(["hello", " there", " ", "\n", "[", " is", "12", "é", "</s>", "<|end|>", "<|user|>", "hi"]),
    min_size=1,
    max_size=5,
).map("".join)


def ours(kind: str, around: str = "none") -> Tokenizer:
    theirs = generated_tokenizer(kind, "bare", around)
    return Tokenizer(theirs.backend_tokenizer, theirs.init_kwargs, str(theirs.chat_template))


@by_kind
def test_a_text_behind_another(kind: str) -> None:
    tokenizer = ours(kind)

    @examples(25)
    @given(pieces, pieces)
    def check(before: str, text: str) -> None:
        ahead, whole = (tokenizer.encode(t, add_special_tokens=False) for t in (before, before + text))
        behind = tokenizer.joints.encode_following(before, text)
        if whole[: len(ahead)] == ahead:
            assert ahead + behind == whole or not before.strip()
        if kind not in LOSSY:
            assert tokenizer.decode(ahead + behind) == tokenizer.decode(whole)
            if "<" not in text:
                # Behind a control token some have one spelling for a text with a space before it and without.
                assert tokenizer.decode_following(ahead, behind) in (text, text.removeprefix(" "))

    check()


@by_kind
def test_a_part_is_decoded_as_it_was_encoded(kind: str) -> None:
    joints = Joints(generated_tokenizer(kind, "bare").backend_tokenizer)
    if kind in LOSSY:
        return
    for place in Place:
        for text in ("hello", "hello there", "\nhi", "é"):
            assert joints.decode(joints.encode(text, place).ids, place) == text
    assert joints.decode(joints.encode(" hello", Place.TEXT).ids, Place.TEXT) == " hello"


@pytest.mark.parametrize("around", AROUND)
@by_kind
def test_a_prompt_begins_as_a_text_and_does_not_end(kind: str, around: str) -> None:
    tokenizer = ours(kind, around)
    bos = [tokenizer.bos_token_id] * (around in ("bos", "both"))
    eos = [tokenizer.eos_token_id] * (around in ("eos", "both"))
    assert ids_around(tokenizer.backend_tokenizer) == (bos, eos)
    assert [*encode_prompt(tokenizer, "hello there"), *eos] == tokenizer.encode("hello there")
    spelled = encode_prompt(tokenizer, "<s>hello")
    assert spelled == tokenizer.encode("<s>hello", add_special_tokens=False)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LOSSY])
def test_a_pair_s_completion_goes_on_from_the_prompt(kind: str) -> None:
    tokenizer = ours(kind, "both")
    row = PreferenceRow("what is 1", "2", " there")
    chat = PreferenceRow(
        [{"role": "user", "content": "hi"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "assistant", "content": "b"}],
    )
    for index, expected in enumerate(["what is 12</s>", "what is 1 there</s>"]):
        datum = render([row], tokenizer)[index]
        tokens = [*datum.model_input.to_ints(), int(datum.loss_fn_inputs["target_tokens"].tolist()[-1])]
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(tokens[1:]).strip() == expected
    for index, answer in enumerate("ab"):
        datum = render([chat], tokenizer)[index]
        tokens = [*datum.model_input.to_ints(), int(datum.loss_fn_inputs["target_tokens"].tolist()[-1])]
        whole = [*chat.prompt, {"role": "assistant", "content": answer}]
        assert tokens == tokenizer.apply_chat_template(whole)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LOSSY])
def test_a_completion_has_the_space_that_was_sampled(kind: str) -> None:
    tokenizer = ours(kind)
    prompt = encode_prompt(tokenizer, "what is")
    said = tokenizer.joints.encode_following("what is", " there hi")
    sequence = SampledSequence(tokens=[*said, tokenizer.eos_token_id], logprobs=None, stop_reason="stop")
    assert Completion.of(sequence, prompt, tokenizer, None) == " there hi"


def test_chat_templates_of_a_hub_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    class Api:
        def list_repo_tree(self, repository: str, folder: str) -> Any:
            if repository == "a/plain":
                raise EntryNotFoundError("404")
            return [huggingface_hub.RepoFile(path=f"{folder}/tool_use.jinja", size=1, oid="x")]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    assert hub.list_files("a/b", "additional_chat_templates") == ["tool_use.jinja"]
    assert hub.list_files("a/plain", "additional_chat_templates") == []
    monkeypatch.setattr(hub, "unreachable", lambda: "is away")
    assert hub.list_files("no/such", "additional_chat_templates") == []
