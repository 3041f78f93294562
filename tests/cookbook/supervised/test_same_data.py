"""A run is taken up again with the data it was begun with, and says so where they are others."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.cookbook.supervised.training import config_for
from tinsmith.cookbook.batches.epoch_plan import EpochPlan
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.cookbook.rows.row_sequence import Listed, Rows
from tinsmith.cookbook.supervised import Mixture, load_rows
from tinsmith.cookbook.supervised.train import train
from tinsmith.types.errors import UserError

PAIRS: list[Row] = [{"prompt": f"say {number}", "completion": str(number)} for number in range(10)]
OTHER = [*PAIRS[:4], {"prompt": "say 4", "completion": "5"}, *PAIRS[5:]]


def jsonl(folder: Path, rows: list[Row]) -> Rows:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return opened(path)


def parquet(folder: Path, rows: list[Row]) -> Rows:
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return opened(path)


def table(folder: Path, rows: list[Row]) -> Rows:
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(rows)
    return opened(path)


def listed(folder: Path, rows: list[Row]) -> Rows:
    return Listed(rows)


def mixed(folder: Path, rows: list[Row]) -> Rows:
    return Mixture([(Listed(PAIRS), 0.5), (jsonl(folder, rows), 0.5)])


def opened(path: Path) -> Rows:
    rows = load_rows(str(path))
    assert isinstance(rows, Rows)
    return rows


@pytest.mark.row(110)
@pytest.mark.parametrize("kind", [jsonl, parquet, table, listed, mixed])
def test_a_digest_is_of_all_rows_in_their_order(kind: Callable[[Path, list[Row]], Rows], tmp_path: Path) -> None:
    digest = kind(tmp_path, PAIRS).digest()
    assert kind(tmp_path, PAIRS).digest() == digest
    for others in (OTHER, PAIRS[:-1], PAIRS[::-1]):
        assert kind(tmp_path, others).digest() != digest


def test_what_is_not_learned_from_changes_no_digest_of_rows() -> None:
    class Source:
        """What prints as its address, another one at every start."""

    noted = [{**row, "source": Source()} for row in PAIRS]
    assert Listed(noted).digest() == Listed(PAIRS).digest()
    as_ids = [{"messages": [{"role": "assistant", "content": "a", "tokens": Source()}]} for _ in range(2)]
    assert Listed(as_ids[:1]).digest() == Listed(as_ids[1:]).digest()


def test_a_file_that_is_gone_is_named_with_the_row(tmp_path: Path) -> None:
    rows = jsonl(tmp_path, PAIRS)
    plan = EpochPlan(rows, 4, seed=0, drop_last=True)
    plan.get(0)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"rows\.jsonl, line \d+: cannot be read any more \(No such file"):
        plan.get(1)


@pytest.mark.row(110)
def test_other_data_are_refused_once_a_state_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    path = tmp_path / "rows.jsonl"

    def start(rows: list[Row], steps: int) -> None:
        jsonl(tmp_path, rows)
        train(config_for(tmp_path, data=str(path), batch_size=4, max_steps=steps), "test")

    with pytest.raises(UserError, match="line 2"):
        start([PAIRS[0], {"prompt": "no completion"}], 1)
    start(PAIRS, 1)  # nothing was learned yet, so the data could be mended
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as told:
        start(OTHER[:9], 2)
    assert str(told.value).startswith("data.rows: got 9, expected 10; data.sha256: got '")
    assert "take another log_path" in str(told.value)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    start(PAIRS, 2)
    (tmp_path / "run" / "data.json").write_text("[]\n")
    with pytest.raises(UserError, match=r"data\.json: got what cannot be read"):
        start(PAIRS, 3)
