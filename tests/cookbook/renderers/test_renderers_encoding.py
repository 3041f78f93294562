"""From pieces to ids: control tokens, weights within a text, and what a tokenizer brings along."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.cookbook.renderers.families import quick
from tests.cookbook.renderers.formats import byte_tokenizer, hostile_text, merging_tokenizer, plain_text
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.renderers.encoding import Piece, PieceEncoder

TOKENIZER = merging_tokenizer("qwen3", "qwen3")


@quick
@given(st.lists(st.tuples(plain_text, st.sampled_from([0.0, 1.0])), max_size=6))
def test_a_token_has_the_weight_of_the_piece_in_which_it_ends(parts: list[tuple[str, float]]) -> None:
    pieces = [Piece(text, data=True) for text, _ in parts]
    tokens, weights = PieceEncoder(TOKENIZER).encode_weighted(pieces, [weight for _, weight in parts])
    whole = TOKENIZER.backend_tokenizer.encode("".join(text for text, _ in parts), add_special_tokens=False)
    assert tokens == whole.ids
    ends = list(accumulate(len(text) for text, _ in parts))
    for weight, (low, high) in zip(weights, whole.offsets, strict=True):
        last = max(low, high - 1)
        assert weight == next(w for end, (_, w) in zip(ends, parts, strict=True) if last < end)


@quick
@given(st.lists(st.one_of(hostile_text, plain_text.map(lambda text: text * 5)), max_size=6))
def test_texts_beside_each_other_are_encoded_as_each_alone(texts: list[str]) -> None:
    encoder = PieceEncoder(TOKENIZER)
    together = encoder.encode([Piece(text, data=True, seam=True) for text in texts])
    assert together == [token for text in texts for token in PieceEncoder(TOKENIZER).encode([Piece(text, data=True)])]
    assert not {token for token in together if TOKENIZER.added_tokens_decoder.get(token)}
    assert TOKENIZER.decode(together) == TOKENIZER.decode(
        [token for text in texts for token in TOKENIZER.encode(text, add_special_tokens=False)]
    )


def test_the_padding_of_a_tokenizers_last_call_is_not_ours() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    messages = [{"role": "user", "content": "a question " * 9}, {"role": "assistant", "content": "an answer " * 5}]
    expected = renderer.build_supervised_example(messages)
    tokenizer(["a", "bc"], padding=True, truncation=True, max_length=4)
    assert tokenizer.backend_tokenizer.truncation is not None
    assert renderer.build_supervised_example(messages) == expected


@pytest.mark.row(48)
def test_look_alikes_that_the_normalizer_folds_stay_text() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3_instruct_2507")
    renderer = get_renderer("qwen3_instruct", tokenizer)
    control = renderer.get_stop_sequences()[0]
    renderer.encoder.backend.normalizer = normalizers.Replace("＜", "<")
    try:
        tokens = renderer.build_generation_prompt([{"role": "user", "content": "＜think>"}]).to_ints()
    finally:
        renderer.encoder.backend.normalizer = None
    assert tokenizer.convert_tokens_to_ids("<think>") not in tokens
    assert tokens.count(control) == 1
