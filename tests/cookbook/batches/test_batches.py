"""Batches by number: every row once per epoch, the same after a resume, and what was cut or teaches nothing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tests.cookbook.renderers.formats import byte_tokenizer, merging_tokenizer
from tests.support.examples import examples
from tinsmith.cookbook import notices
from tinsmith.cookbook.batches.epoch_plan import EpochPlan
from tinsmith.cookbook.batches.token_bytes import token_bytes
from tinsmith.cookbook.renderers import SupervisedExample, get_renderer
from tinsmith.cookbook.rows.mixture import Mixture
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.supervised import Batches, JsonlRows, RowStream, row_to_datums, split_held_out
from tinsmith.types.errors import UserError

TOKENIZER = byte_tokenizer("llama", "llama3")
RENDERER = get_renderer("llama3", TOKENIZER)


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def texts(count: int, prefix: str = "row ") -> list[Row]:
    return [{"text": f"{prefix}{i}"} for i in range(count)]


def chat(answer: str) -> Row:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]}


def batches(rows: Any, **options: Any) -> Batches:
    return Batches(rows, RENDERER, TOKENIZER, **{"batch_size": 4, **options})


def said(rows: list[Row]) -> list[str]:
    return [row["text"] for row in rows]


@examples(80)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(-5, 5),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_an_epoch_visits_each_row_at_most_once_and_by_number(
    count: int, batch_size: int, seed: int, drop_last: bool, data: st.DataObject
) -> None:
    def plan() -> EpochPlan:
        return EpochPlan(as_rows(texts(count)), batch_size, seed, drop_last)

    first = plan()
    epochs = [[first.get(epoch * first.per_epoch + i) for i in range(first.per_epoch)] for epoch in range(2)]
    for number, epoch in enumerate(epochs):
        visited = Counter(row["text"] for _, rows in epoch for _, row in rows)
        assert set(visited.values()) == {1}
        assert len(visited) + first.left_out == count
        assert {e for e, _ in epoch} == {number}
        assert all(len(rows) == first.batch_size for _, rows in epoch[:-1])
    assert drop_last or first.left_out == 0
    step = data.draw(st.integers(0, 2 * first.per_epoch - 1))
    assert plan().get(step) == [*epochs[0], *epochs[1]][step]


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    data = batches(texts(64), batch_size=64)
    orders = [
        said(data.get(0).rows),
        said(data.get(1).rows),
        said(batches(texts(64), batch_size=64, seed=1).get(0).rows),
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_what_fills_no_batch_is_left_out_or_a_smaller_batch() -> None:
    dropped, kept = batches(texts(10)), batches(texts(10), drop_last=False)
    assert (dropped.per_epoch, dropped.left_out, kept.per_epoch, kept.left_out) == (2, 2, 3, 0)
    assert [len(kept.get(i).rows) for i in range(4)] == [4, 4, 2, 4]
    assert [kept.get(i).epoch for i in range(4)] == [0, 0, 0, 1]
    assert (dropped.total_steps(3), dropped.total_steps(3, max_steps=4)) == (6, 4)
    few = batches(texts(3))
    assert (few.batch_size, few.per_epoch, few.left_out) == (3, 1, 0)


def test_a_batch_counts_what_is_learned() -> None:
    rows = [chat("é"), {"text": "日本"}]
    batch = batches(rows, batch_size=2).get(0)
    assert batch.trained_bytes == len("é日本".encode()) - 1  # nothing comes before a text's first token, one byte here
    assert batch.trained_tokens == sum(d.loss_fn_inputs["weights"].to_numpy().sum() for d in batch.datums) == 2 + 1 + 5
    assert batch.tokens == sum(datum.model_input.length for datum in batch.datums)
    expected = [datum for row in batch.rows for datum in row_to_datums(row, RENDERER, TOKENIZER)]
    assert [d.model_input.to_ints() for d in batch.datums] == [d.model_input.to_ints() for d in expected]


def test_bytes_are_those_of_the_text_whatever_the_tokenizer() -> None:
    text = "User: hello é 日本"
    merging = merging_tokenizer("qwen3", "qwen3")
    ids = merging.encode(text, add_special_tokens=False)
    assert len(ids) < len(text.encode()) == token_bytes(merging)[ids].sum()
    assert token_bytes(merging)[merging.convert_tokens_to_ids(["<|im_end|>", "<think>"])].tolist() == [0, 7]
    vocab = {"▁hello": 0, "▁": 1, "<0xE6>": 2, "<0x97>": 3, "<0xA5>": 4, "é": 5}
    pieces = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    pieces.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert pieces.decode([0, 1, 2, 3, 4, 5]) == " hello 日é"
    assert token_bytes(pieces).sum() == len(" hello 日é".encode())


def test_a_row_may_have_several_datums() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    row = {"messages": [*chat("one")["messages"], *chat("two")["messages"]]}
    batch = Batches([row], renderer, tokenizer, batch_size=1).get(0)
    assert len(batch.datums) == len(row_to_datums(row, renderer, tokenizer)) == 2
    assert len(batch.rows) == 1


@pytest.mark.row(118)
def test_cut_examples_are_counted_and_said_once_with_how_many_so_far(caplog: pytest.LogCaptureFixture) -> None:
    data = batches([chat("4" * 50), chat("5" * 50), chat("6"), chat("7")], max_length=40, drop_last=False)
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        assert [data.get(i).truncated for i in range(2)] == [2, 2]
    assert (data.truncated, data.seen) == (4, 8)
    assert [r.message.split(";")[0] for r in caplog.records] == [
        "max_length: 2 of 4 examples so far were longer than 40 tokens and were cut"
    ]


@pytest.mark.row(118)
@pytest.mark.parametrize(("max_length", "kept"), [(None, 31), (60, 31), (31, 31), (28, 28)])
def test_what_the_model_cannot_read_is_cut_and_counted(
    max_length: int | None, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = batches([chat("4" * 90), chat("6")], max_length=max_length)
    data.context_length = 30
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        batch = data.get(0)
    # The last token is only predicted.
    assert max(datum.model_input.length for datum in batch.datums) == kept - 1
    assert batch.truncated == data.truncated == 1
    (told,) = (record.message for record in caplog.records if "were cut" in record.message)
    assert f"longer than {kept} tokens" in told
    assert ("the model reads no more" in told) == (max_length in (None, 60))


@pytest.mark.row(118)
def test_examples_that_teach_nothing_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = batches([chat("4"), {"text": "x"}], batch_size=2, max_length=6)
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        batch = data.get(0)
    # The conversation is cut before its answer; the text is one token, so there is nothing to predict.
    assert (batch.unlearnable, len(batch.datums), batch.trained_tokens, batch.trained_bytes) == (2, 1, 0, 0)
    assert any("weights: 2 of 2 examples so far have weight 0 everywhere" in r.message for r in caplog.records)
    with pytest.raises(UserError, match="row 0, and all rows of batch 0: got 'too few tokens', expected a row with"):
        batches([{"text": "x"}], batch_size=1).get(0)


def test_a_row_that_cannot_be_rendered_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    tool = {"role": "tool", "content": "7"}
    path.write_text(json.dumps({"messages": [*chat("4")["messages"], tool]}) + "\n")
    renderer = get_renderer("role_colon", TOKENIZER)
    data = Batches(JsonlRows(path), renderer, TOKENIZER, batch_size=1)
    with pytest.raises(UserError, match=r"data.jsonl, line 1: messages\[2\].role: got 'tool', expected no tools"):
        data.get(0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"foo": 1}, r"row 1: row: got \['foo'\], expected either"),
        ({"text": 3}, "row 1: text: got 3, expected a text"),
        ({"messages": [{"role": "tool", "content": "7"}]}, r"row 1: messages\[0\].role: got 'tool', expected no tools"),
    ],
)
def test_rows_of_a_list_are_checked_before_anything_is_trained(row: Row, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Batches([chat("4"), row], get_renderer("role_colon", TOKENIZER), TOKENIZER, batch_size=1)
    with pytest.raises(UserError, match=r"row 0: messages\[0\].trainable: got None, expected true or false"):
        batches([chat("4")], train_on_what="customized")
    with pytest.raises(UserError, match=r"row: got \['foo'\], expected either"):
        row_to_datums({"foo": 1}, RENDERER, TOKENIZER)


def test_a_resumed_run_has_the_datums_of_the_first() -> None:
    def made(steps: range) -> list[list[list[int]]]:
        data = batches(Mixture([(texts(20, "a"), 2.0), ([chat(str(i)) for i in range(9)], 1.0)]))
        return [[datum.model_input.to_ints() for datum in data.get(step).datums] for step in steps]

    assert made(range(5, 14)) == made(range(14))[5:]


def test_a_data_set_of_ones_own_is_a_function_of_a_row() -> None:
    def examples(row: Row) -> list[SupervisedExample]:
        return [SupervisedExample([row["a"], row["b"], row["a"] + row["b"]], [0.0, 0.0, 2.0])]

    batch = batches([{"a": 1, "b": 5000}], examples=examples).get(0)
    assert batch.datums[0].loss_fn_inputs["target_tokens"].tolist() == [5000, 5001]
    assert (batch.trained_tokens, batch.trained_bytes) == (2.0, 0)
    with pytest.raises(UserError, match=r"row 0: weights: got '1 values', expected 2"):
        batches([{}], examples=lambda row: [SupervisedExample([1, 2], [1.0])]).get(0)
    with pytest.raises(UserError, match="train_on_what: got 'all_tokens', expected the default"):
        batches([{}], examples=examples, train_on_what="all_tokens")


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"batch_size": 0}, "batch_size: got 0"), ({"max_length": 1}, "max_length: got 1")],
)
def test_bad_sizes_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        batches(texts(4), **options)
    with pytest.raises(UserError, match="rows: got 'none', expected at least one row"):
        batches([])


# -- mixtures ---------------------------------------------------------------------------------------------------------


@examples(60)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 60), st.floats(0.2, 3.0)), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_a_mixture_takes_from_each_source_what_its_weight_says(sizes: list[tuple[int, float]], seed: int) -> None:
    mixture = Mixture([(texts(size, f"{i}-"), weight) for i, (size, weight) in enumerate(sizes)])
    assert any(share == size for share, (size, _) in zip(mixture.shares, sizes, strict=True))
    total = sum(weight for _, weight in sizes)
    epoch = mixture.order(seed, 0)
    assert len(epoch) == len(set(epoch.tolist())) == mixture.epoch_size
    taken = Counter(mixture[int(index)]["text"][0] for index in epoch)
    for i, (_, weight) in enumerate(sizes):
        assert taken[str(i)] == mixture.shares[i]
        assert abs(mixture.shares[i] - weight / total * mixture.epoch_size) <= 1.5
    assert (mixture.order(seed, 0) == epoch).all()


def test_the_weights_hold_all_through_an_epoch_and_all_rows_are_seen_in_time() -> None:
    mixture = Mixture([(texts(3000, "a"), 0.75), (texts(4000, "b"), 0.25)])
    assert mixture.shares == [3000, 1000]
    data = batches(mixture, batch_size=100)
    shares = [sum(text.startswith("a") for text in said(data.get(i).rows)) for i in range(40)]
    # Drawn without replacement: mean 75 of 100, standard deviation below the binomial's 4.3.
    assert sum(shares) == 3000
    assert 60 < min(shares) <= max(shares) < 90
    assert 2 < (sum((n - 75) ** 2 for n in shares) / 40) ** 0.5 < 6
    seen = {text for i in range(160) for text in said(data.get(i).rows)}
    assert len(seen) == 7000


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], r"mixture: got \[\], expected at least one source"),
        ([(texts(1), 0.0)], r"mixture\[0\].weight: got 0.0, expected a finite number above 0"),
        ([(texts(1), float("nan"))], r"mixture\[0\].weight: got nan"),
        ([(texts(9), 1.0), ([], 1.0)], r"mixture\[1\].rows: got 'none'"),
        ([(texts(9), 1.0), (texts(9), 0.01)], r"mixture\[1\].weight: got 0.01, expected one that takes at least one"),
    ],
)
def test_mixtures_that_are_none(parts: list[Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Mixture(parts)


# -- held-out rows ----------------------------------------------------------------------------------------------------


@given(count=st.integers(2, 30), held_out=st.integers(0, 29) | st.floats(0, 0.9), seed=st.integers(0, 3))
def test_held_out_rows_are_no_training_rows(count: int, held_out: int | float, seed: int) -> None:
    rows = texts(count)
    wanted = round(held_out * count) if isinstance(held_out, float) else held_out
    if wanted >= count:
        with pytest.raises(UserError, match="held_out: got"):
            split_held_out(rows, held_out, seed)
        return
    train, kept = split_held_out(rows, held_out, seed)
    assert not isinstance(train, RowStream)
    assert len(kept) == wanted
    assert sorted(said([*train, *kept])) == sorted(said(rows))
    assert said(list(kept)) == [text for text in said(rows) if text in set(said(list(kept)))]
    again, _ = split_held_out(rows, held_out, seed)
    assert list(again) == list(train)  # type: ignore[arg-type]


def test_held_out_rows_of_a_mixture_are_of_its_kind() -> None:
    mixture = Mixture([(texts(90, "a"), 2.0), (texts(60, "b"), 1.0)])
    train, kept = split_held_out(mixture, 30)
    assert Counter(text[0] for text in said(list(kept))) == {"a": 20, "b": 10}
    assert isinstance(train, Mixture)
    assert not {*said(list(train))} & {*said(list(kept))}
    assert train.shares == [70, 35]
    with pytest.raises(UserError, match="held_out: got 135, expected fewer: 90 would be of a source of 90 rows"):
        split_held_out(mixture, 135)


@pytest.mark.parametrize("held_out", [-1, 1.0, 4, 1.5, float("nan")])
def test_held_out_that_leaves_nothing_is_refused(held_out: Any) -> None:
    with pytest.raises(UserError, match="held_out: got"):
        split_held_out(texts(4), held_out)
