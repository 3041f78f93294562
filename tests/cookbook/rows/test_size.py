"""A large file: seconds from the command to the first batch, and what the client holds meanwhile."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

# Opens a file with every check that a recipe asks for, and makes the first batch.
_CHILD = """
import json, resource, sys, time
began = time.perf_counter()
from tinsmith import get_tokenizer
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import Batches, load_rows
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
tokenizer = get_tokenizer("tinsmith-tiny")
renderer = get_renderer("tinsmith_tiny", tokenizer)
before = peak_mb()
rows = load_rows(sys.argv[1], 0, renderer, "all_assistant_messages")
batch = Batches(rows, renderer, tokenizer, batch_size=128).get(0)
print(json.dumps({"rows": len(rows), "datums": len(batch.datums), "seconds": time.perf_counter() - began,
                  "peak_mb": peak_mb(), "grown_mb": peak_mb() - before}))
"""


def write(path: Path, count: int) -> float:
    """Write conversations of six messages, about 2 kB each; returns megabytes."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ijklmnop\n", k=350)) for _ in range(500)]
    with path.open("w") as file:
        for number in range(count):
            messages = [
                {"role": role, "content": f"{number} {rng.choice(texts)}"}
                for _ in range(3)
                for role in ("user", "assistant")
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path.stat().st_size / 2**20


def measure(path: Path) -> dict[str, float]:
    child = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


def test_a_file_is_checked_whole_and_stays_on_disk(tmp_path: Path) -> None:
    size_mb = write(tmp_path / "data.jsonl", 10_000)
    found = measure(tmp_path / "data.jsonl")
    assert (found["rows"], found["datums"]) == (10_000, 128)
    assert found["grown_mb"] < size_mb  # the rows as Python objects would be more than the file
    assert found["seconds"] < 30


@pytest.mark.slow
def test_a_hundred_thousand_conversations_are_open_in_ten_seconds_and_under_a_gigabyte(tmp_path: Path) -> None:
    assert write(tmp_path / "data.jsonl", 100_000) > 200
    found = measure(tmp_path / "data.jsonl")
    assert (found["rows"], found["datums"]) == (100_000, 128)
    assert found["seconds"] < 10
    assert found["peak_mb"] < 1000
