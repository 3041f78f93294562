"""When a generation ends, against decoding everything anew after each token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tests.support.checkpoints import make_tokenizer
from tests.support.examples import examples
from tinsmith.engine.sampling.stops import Decode, StopRule, TextStop, stop_rule

BYTES = make_tokenizer("qwen3").backend_tokenizer
END = BYTES.token_to_id("<|im_end|>")


def pieces_tokenizer() -> Tokenizer:
    """A decoder that adds spaces, drops the first one and spells rare bytes one by one, as sentencepiece models do."""
    words = ["▁", "▁a", "a", "b", "▁stop", "st", "op", "é", "▁b", "ab▁", "<unk>"]
    vocab = {word: i for i, word in enumerate(words)} | {f"<0x{b:02X}>": len(words) + b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


PIECES = pieces_tokenizer()


def decode_bytes(ids: list[int]) -> str:
    return BYTES.decode(ids, skip_special_tokens=False)


def decode_pieces(ids: list[int]) -> str:
    return PIECES.decode(ids, skip_special_tokens=False)


def naive_end(tokens: Sequence[int], stops: Sequence[str], decode: Decode) -> int | None:
    """Number of tokens up to the one that completes a stop string."""
    for n in range(1, len(tokens) + 1):
        if any(stop in decode(list(tokens[:n])) for stop in stops):
            return n
    return None


def end(rule: StopRule, tokens: Sequence[int]) -> int | None:
    for n, token in enumerate(tokens, 1):
        if rule.push(token):
            return n
    return None


def encode_bytes(text: str) -> list[int]:
    return BYTES.encode(text).ids


@examples(300)
@given(
    st.lists(st.text(alphabet="ab é€🦜\n", min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(st.one_of(st.text(alphabet="ab é€🦜\n", max_size=8), st.binary(max_size=3)), max_size=30),
)
def test_byte_tokens_equal_decoding_everything(stops: list[str], parts: list[str | bytes]) -> None:
    tokens: list[int] = []
    byte_ids = {bytes([b]): BYTES.token_to_id(c) for b, c in _byte_alphabet().items()}
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        tokens += [byte_ids[bytes([b])] for b in raw]
    assert end(TextStop(stops, decode_bytes), tokens) == naive_end(tokens, stops, decode_bytes)


def _byte_alphabet() -> dict[int, str]:
    """The characters that stand for bytes in byte-level tokenizers: printable ones for themselves, others shifted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


@examples(300)
@given(
    st.lists(st.text(alphabet="ab stopé ", min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(
        st.one_of(st.integers(0, 9), st.sampled_from([0xE2, 0x82, 0xAC, 0xC3, 0xA9]).map(lambda b: 11 + b)),
        max_size=120,
    ),
)
def test_pieces_equal_decoding_everything(stops: list[str], tokens: list[int]) -> None:
    assert end(TextStop(stops, decode_pieces), tokens) == naive_end(tokens, stops, decode_pieces)


def test_a_stop_string_far_into_a_text_and_across_tokens() -> None:
    tokens = encode_bytes("x" * 5000 + "€END🦜" + "tail")
    stop = "€END🦜"
    assert end(TextStop([stop], decode_bytes), tokens) == len(encode_bytes("x" * 5000 + stop))


def test_the_window_stays_short() -> None:
    seen: list[int] = []

    def decode(ids: list[int]) -> str:
        seen.append(len(ids))
        return decode_bytes(ids)

    assert end(TextStop(["\n\n"], decode), encode_bytes("word " * 2000)) is None
    assert max(seen) <= 21


def test_special_tokens_stop_by_their_text() -> None:
    tokens = [*encode_bytes("hello"), END, *encode_bytes("more")]
    assert end(TextStop(["<|im_end|>"], decode_bytes), tokens) == 6


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, 3), ([], None), ([2], 2), ([8, 4], 4), ("b", None), (["c", "b"], None), ((7,), None)],
)
def test_kinds_of_stops(stop: str | list[int] | None, expected: int | None) -> None:
    # EOS 3 stops only where no stop is given: stops replace it.
    rule = stop_rule(stop, eos=[3], decode=lambda ids: "x" * len(ids))
    assert end(rule, [1, 2, 3, 4, 5]) == expected


def test_stop_tokens_need_no_tokenizer() -> None:
    assert end(stop_rule([5], eos=[], decode=None), [4, 5]) == 2
