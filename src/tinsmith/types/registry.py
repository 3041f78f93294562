"""The lineup: model names that the course and the hosted service know, and what they are.

A name says nothing about where its weights lie: the service maps it to a folder or a hub id. Facts here are only
those that are needed before a checkpoint is there (a planner, a listing, a learning rate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinsmith.types.learning_rate import Family

Kind = Literal["base", "instruct", "hybrid"]

EMBEDDED_MODEL = "tinsmith-tiny"
# What the course suggests to start with.
SUGGESTED_MODELS = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model of the lineup.

    Attributes:
        name: hub-style name.
        family: `llama` or `qwen`, for the learning rate.
        kind: `base`, `instruct`, or `hybrid` (thinking on or off).
        parameters_b: parameters, in billions.
        hidden_size: width of the residual stream.
        context_length: tokens.
        is_moe: whether it has experts.
    """

    name: str
    family: Family
    kind: Kind
    parameters_b: float
    hidden_size: int
    context_length: int
    is_moe: bool = False


def _rows() -> list[ModelFacts]:
    llama: list[tuple[str, float, int]] = [
        ("meta-llama/Llama-3.2-1B", 1.24, 2048),
        ("meta-llama/Llama-3.2-3B", 3.21, 3072),
        ("meta-llama/Llama-3.1-8B", 8.03, 4096),
        ("meta-llama/Llama-3.1-70B", 70.6, 8192),
        ("meta-llama/Llama-3.1-405B", 406.0, 16384),
    ]
    qwen25: list[tuple[str, float, int]] = [
        ("Qwen/Qwen2.5-1.5B", 1.54, 1536),
        ("Qwen/Qwen2.5-7B", 7.62, 3584),
        ("Qwen/Qwen2.5-14B", 14.8, 5120),
        ("Qwen/Qwen2.5-32B", 32.8, 5120),
        ("Qwen/Qwen2.5-72B", 72.7, 8192),
    ]
    rows = [ModelFacts(EMBEDDED_MODEL, "qwen", "instruct", 0.0015, 160, 1024)]
    for name, size, hidden in llama:
        rows.append(ModelFacts(name, "llama", "base", size, hidden, 131072))
        rows.append(ModelFacts(f"{name}-Instruct", "llama", "instruct", size, hidden, 131072))
    rows.append(ModelFacts("meta-llama/Llama-3.3-70B-Instruct", "llama", "instruct", 70.6, 8192, 131072))
    for name, size, hidden in qwen25:
        context = 32768 if size in (1.54, 7.62) else 131072
        rows.append(ModelFacts(name, "qwen", "base", size, hidden, context))
        rows.append(ModelFacts(f"{name}-Instruct", "qwen", "instruct", size, hidden, context))
    rows += [
        ModelFacts("Qwen/Qwen3-8B", "qwen", "hybrid", 8.19, 4096, 40960),
        ModelFacts("Qwen/Qwen3-8B-Base", "qwen", "base", 8.19, 4096, 32768),
        ModelFacts("Qwen/Qwen3-14B", "qwen", "hybrid", 14.8, 5120, 40960),
        ModelFacts("Qwen/Qwen3-32B", "qwen", "hybrid", 32.8, 5120, 40960),
        ModelFacts("Qwen/Qwen3-30B-A3B", "qwen", "hybrid", 30.5, 2048, 40960, is_moe=True),
        ModelFacts("Qwen/Qwen3-30B-A3B-Base", "qwen", "base", 30.5, 2048, 32768, is_moe=True),
        ModelFacts("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen", "instruct", 30.5, 2048, 262144, is_moe=True),
        ModelFacts("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen", "instruct", 235.0, 4096, 262144, is_moe=True),
        ModelFacts("Qwen/Qwen3-4B-Instruct-2507", "qwen", "instruct", 4.02, 2560, 262144),
    ]
    return rows


LINEUP: dict[str, ModelFacts] = {facts.name: facts for facts in _rows()}


def lookup(name: str) -> ModelFacts | None:
    """Return what is known of a model name, or None."""
    return LINEUP.get(name)
