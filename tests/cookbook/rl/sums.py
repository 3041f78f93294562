"""A small run of sums on the embedded model, which tests vary; as a program it is killed and started again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinsmith.cookbook import rl
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.runs import run_recipe
from tinsmith.cookbook.training import ModelSetup, TrainResult

PAIRS = [(a, b) for a in range(10) for b in range(10)]
FIELDS: dict[str, Any] = {
    "batch_size": 4, "group_size": 4, "lora_rank": 4, "learning_rate": 2e-3, "max_steps": 4, "max_tokens": 16,
    "eval_every": 2, "save_every": 2, "groups_shown": 2,
}  # fmt: skip


class Sum(rl.ProblemEnv):
    """A sum of two digits."""

    def __init__(self, renderer: Renderer, pair: tuple[int, int]) -> None:
        super().__init__(renderer)
        self.pair = pair

    def get_question(self) -> str:
        return f"{self.pair[0]} + {self.pair[1]} = ?"

    def check_format(self, sample: str) -> bool:
        return sample.isdigit()

    def check_answer(self, sample: str) -> bool:
        return re.sub(r"\D", "", sample) == str(sum(self.pair))


def config(folder: Path, **fields: Any) -> rl.RLConfig:
    return rl.RLConfig(log_path=str(folder), **{**FIELDS, **fields})


def sums(
    config: rl.RLConfig, make: Callable[..., Any] = Sum, pairs: Sequence[Any] = PAIRS
) -> Callable[[ModelSetup], rl.RLDataset]:
    def dataset(model: ModelSetup) -> rl.RLDataset:
        def group(pair: Any) -> rl.RepeatedEnv:
            return rl.RepeatedEnv(lambda: make(model.renderer, pair), config.group_size, ["sums"])

        return rl.ItemDataset(pairs, group, config.batch_size, config.seed)

    return dataset


def train(config: rl.RLConfig, make: Callable[..., Any] = Sum, **options: Any) -> TrainResult:
    return rl.train(config, "sums", sums(config, make), **options)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what belongs to the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def assert_same_rows(given: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Assert that two runs have the same metrics.

    Which requests the engine decodes together depends on the clock, and with it the last bit of a logprob; so the two
    are equal as far as float32 goes, not bit by bit. The loss is a sum in which most cancels. One token that was
    sampled otherwise would move the numbers of a batch by a hundredth at least.
    """
    assert [row.keys() for row in given] == [row.keys() for row in expected]
    apart = {
        (row["step"], name): (value, other[name])
        for row, other in zip(given, expected, strict=True)
        for name, value in row.items()
        if value != pytest.approx(other[name], rel=1e-3, abs=1e-3)
    }
    assert not apart, apart


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    run_recipe(train, rl.RLConfig, "sums", [f"{name}={value}" for name, value in {**FIELDS, **given}.items()])
