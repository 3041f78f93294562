"""A checkpoint, made on the spot, and the contestants that work on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.contestants import Job, TinsmithEngine, TransformersPeft
from benchmarks.engine import QUICK, check_losses
from benchmarks.gpu.shapes import Shape, write
from benchmarks.service import TINY_MODEL, TINY_VOCAB, Target, spawned_noop, spawned_tinsmith
from benchmarks.targets.sides import Make, MakePool, Side, own_process
from tinsmith.cluster.child_environment import engine_environment
from tinsmith.models import path as model_folder

TENANTS = 8
_OURS, _PLAIN = "tinsmith engine", "transformers + PEFT"


def _qwen3(name: str, hidden: int, layers: int, vocab_size: int, **config: int) -> Shape:
    usual = {"head_dim": 64, "intermediate_size": hidden * 8 // 3 // 64 * 64, "tie_word_embeddings": True}
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocab_size}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": max(1, hidden // 192)}
    return Shape(
        name,
        "qwen3",
        usual | sizes | heads | {"max_position_embeddings": 8192} | config,
        batch=0,
        length=0,
        gigabytes=0,
    )


SMALL = _qwen3("5M", 256, 4, 8192, intermediate_size=768, num_key_value_heads=2)
LARGE = _qwen3("0.11B", 768, 12, 32768)
# The small one with the large vocabulary: on the larger one the plain loop's step needs more memory than most have.
WIDE = _qwen3("5M, vocabulary 32k", 256, 4, 32768, intermediate_size=768, num_key_value_heads=2)
TOY = _qwen3("toy", 64, 2, 256)
# The one that is not made: it is shipped.
EMBEDDED = Shape(TINY_MODEL, "qwen3", {"vocab_size": TINY_VOCAB}, batch=0, length=0, gigabytes=0)


@dataclass(frozen=True)
class Spot:
    """Where and how the contestants work.

    Attributes:
        scratch: folder for checkpoints and adapters.
        dtype: of the base model and the computation.
        rank: of every adapter.
        pool: makes the process of a side.
    """

    scratch: Path
    dtype: str = "float32"
    rank: int = 32
    pool: MakePool = own_process


class Bench:
    """One checkpoint; its contestants start when they are first asked for and end with the `with`."""

    def __init__(self, shape: Shape, spot: Spot) -> None:
        self.shape = shape
        self.spot = spot
        self._sides: list[Side] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for side in self._sides:
            side.close()

    @cached_property
    def folder(self) -> Path:
        """The checkpoint, written when it is first asked for."""
        if self.shape is EMBEDDED:
            return model_folder(TINY_MODEL)
        folder = self.spot.scratch / self.shape.name
        write(self.shape, folder, "cpu")
        return folder

    @property
    def label(self) -> str:
        """The checkpoint and the dtype, as the table has them."""
        return self.shape.name if self.spot.dtype == "float32" else f"{self.shape.name}, {self.spot.dtype}"

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.shape.config["vocab_size"]

    def _job(self, dtype: str, adapters: int) -> Job:
        return Job(
            str(self.folder),
            "cpu",
            dtype,
            self.spot.rank,
            adapters,
            self.spot.scratch / f"adapters of {self.shape.name}",
        )

    @cached_property
    def job(self) -> Job:
        """What the sides have in common: one adapter."""
        return self._job(self.spot.dtype, 1)

    @cached_property
    def adapters(self) -> list[str]:
        """Names of our adapters."""
        return self._job(self.spot.dtype, TENANTS).names

    @cached_property
    def ours(self) -> Side:
        """The engine, with an adapter for each tenant, in the environment that the service gives it."""
        return self._start(_OURS, TinsmithEngine, self._job(self.spot.dtype, TENANTS), engine_environment(os.environ))

    @cached_property
    def plain(self) -> Side:
        """The plain loop in our dtype; computes the same losses, or the benchmark ends."""
        return self._plain(self.spot.dtype)

    @cached_property
    def plain_float32(self) -> Side:
        """The plain loop in float32."""
        return self.plain if self.spot.dtype == "float32" else self._plain("float32")

    def _plain(self, dtype: str) -> Side:
        ours = self.ours  # first: it writes the adapter that the other side starts from
        job = replace(self.job, dtype=dtype)
        side = self._start(_PLAIN, TransformersPeft, job, {})
        check_losses([side, ours], self.job, QUICK, self.vocab_size)
        return side

    def _start(self, system: str, make: Make, job: Job, environment: Mapping[str, str]) -> Side:
        side = Side(system, make, job, environment, self.spot.pool)
        self._sides.append(side)
        return side

    @contextmanager
    def serve(self) -> Iterator[Target]:
        """Serve the checkpoint over HTTP while the body runs."""
        with spawned_tinsmith(self.spot.scratch, self.shape.name, self.folder, self.vocab_size) as target:
            yield target

    @contextmanager
    def serve_nothing(self) -> Iterator[Target]:
        """Run a service that answers as one with the checkpoint would, and computes nothing, while the body runs."""
        with spawned_noop(self.spot.scratch, self.shape.name, self.vocab_size) as target:
            yield target
