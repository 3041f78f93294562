"""Sizes that nobody gave: a recipe runs on sixty rows as it does on ten thousand, and says what it took."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.cookbook import notices
from tinsmith.cookbook.preference import load_comparisons
from tinsmith.cookbook.problems import load_problems
from tinsmith.cookbook.recipes.distillation.distillation_dataset import load_prompts
from tinsmith.cookbook.recipes.prompt_distillation.prompt_distillation_dataset import load_queries
from tinsmith.cookbook.rows.default_sizes import held_out_count, rows_per_batch
from tinsmith.types.errors import UserError


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(notices, "_said", set())
    caplog.set_level(logging.INFO, "tinsmith.cookbook")
    return caplog


@pytest.mark.row(8)
def test_of_sixty_rows_a_tenth_is_held_out_and_a_line_says_so(told: pytest.LogCaptureFixture) -> None:
    assert held_out_count(None, 60, 200) == held_out_count(None, 60, 200) == 6
    assert told.messages == [
        "held_out: 6 of 60 rows are not trained on, a tenth (of 2,000 or more it would be 200); "
        "held_out= says otherwise"
    ]
    assert held_out_count(None, 2000, 200) == held_out_count(None, 10**6, 200) == 200
    assert [held_out_count(asked, 60, 200) for asked in (7, 0.5, 0, 900)] == [7, 30, 0, 900]
    assert len(told.messages) == 1


@pytest.mark.row(8)
def test_batches_of_few_rows_are_smaller_and_a_line_says_so(told: pytest.LogCaptureFixture) -> None:
    assert rows_per_batch(None, 54, 64) == 4
    assert told.messages == [
        "batch_size: 4 rows, so that the 54 of an epoch fill 13 batches (of 640 or more a batch would have 64); "
        "batch_size= says otherwise"
    ]
    assert rows_per_batch(None, 640, 64) == rows_per_batch(None, 10**6, 64) == 64
    assert [rows_per_batch(asked, 54, 64) for asked in (1, 64, 1000)] == [1, 64, 1000]


@given(total=st.integers(1, 10_000), usual=st.integers(1, 256))
def test_whatever_the_size_something_is_left_to_learn_from(total: int, usual: int) -> None:
    held_out = held_out_count(None, total, usual)
    assert (held_out > 0) == (total > 1)
    assert held_out <= usual
    assert total - held_out >= 0.5 * total
    size = rows_per_batch(None, total, usual)
    assert 1 <= size <= usual
    assert total // size >= min(10, total)


def test_every_reader_of_a_small_file_holds_some_of_it_out(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "data.jsonl"

    def write(row: Any) -> str:
        path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)))
        return str(path)

    problems = load_problems(write(lambda n: {"problem": f"{n}+1", "answer": n + 1}))
    assert (len(problems.train), len(problems.test)) == (54, 6)
    pairs = load_comparisons(write(lambda n: {"prompt": f"{n}?", "chosen": "a", "rejected": "b"}))
    assert (len(pairs.train), len(pairs.test)) == (54, 6)
    prompts = load_prompts(write(lambda n: {"prompt": f"{n}?", "source": "x"}), None, 0)
    assert [len(side) for side in prompts] == [54, 6]
    queries = load_queries(write(lambda n: {"query": f"{n}?"}), None, 0)
    assert [len(side) for side in queries] == [54, 6]
    sizes = [message for message in told.messages if message.startswith("held_out")]
    assert [message.split(" are")[0] for message in sizes] == [
        f"held_out: 6 of 60 {what}" for what in ("problems", "comparisons", "prompts", "queries")
    ]
    # What no header tells of is told at once.
    assert f"{path}: keys not used: source" in told.messages
    with pytest.raises(UserError, match="held_out: got 200, expected"):
        load_queries(str(path), 200, 0)
