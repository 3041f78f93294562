"""The lineup: model names that the course and the hosted service know, and what they are.

A name says nothing about where its weights lie: the service maps it to a folder or a hub id. Facts here are only
those that are needed before a checkpoint is there (a planner, a listing, a learning rate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["base", "instruct", "hybrid", "reasoning"]
Family = Literal["llama", "qwen", "deepseek", "gpt_oss", "kimi"]

EMBEDDED_MODEL = "tinsmith-tiny"
# What the course suggests to start with.
SUGGESTED_MODELS = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model of the lineup.

    Attributes:
        name: hub-style name.
        family: who made it; the learning rate's exponent hangs on it.
        kind: `base`, `instruct`, `hybrid` (thinking on or off) or `reasoning` (always thinks).
        renderer: the cookbook's name of its chat format; `role_colon` for base models.
        parameters_b: parameters, in billions.
        hidden_size: width of the residual stream.
        context_length: tokens.
        is_moe: whether it has experts.
    """

    name: str
    family: Family
    kind: Kind
    renderer: str
    parameters_b: float
    hidden_size: int
    context_length: int
    is_moe: bool = False


def _llama() -> list[ModelFacts]:
    sizes: list[tuple[str, float, int]] = [
        ("meta-llama/Llama-3.2-1B", 1.24, 2048),
        ("meta-llama/Llama-3.2-3B", 3.21, 3072),
        ("meta-llama/Llama-3.1-8B", 8.03, 4096),
        ("meta-llama/Llama-3.1-70B", 70.6, 8192),
        ("meta-llama/Llama-3.1-405B", 406.0, 16384),
    ]
    rows = [ModelFacts("meta-llama/Llama-3.3-70B-Instruct", "llama", "instruct", "llama3", 70.6, 8192, 131072)]
    for name, size, hidden in sizes:
        rows.append(ModelFacts(name, "llama", "base", "role_colon", size, hidden, 131072))
        rows.append(ModelFacts(f"{name}-Instruct", "llama", "instruct", "llama3", size, hidden, 131072))
    return rows


def _qwen2_5() -> list[ModelFacts]:
    sizes: list[tuple[str, float, int, int]] = [
        ("Qwen/Qwen2.5-1.5B", 1.54, 1536, 32768),
        ("Qwen/Qwen2.5-7B", 7.62, 3584, 32768),
        ("Qwen/Qwen2.5-14B", 14.8, 5120, 131072),
        ("Qwen/Qwen2.5-32B", 32.8, 5120, 131072),
        ("Qwen/Qwen2.5-72B", 72.7, 8192, 131072),
    ]
    rows: list[ModelFacts] = []
    for name, size, hidden, context in sizes:
        rows.append(ModelFacts(name, "qwen", "base", "role_colon", size, hidden, context))
        rows.append(ModelFacts(f"{name}-Instruct", "qwen", "instruct", "qwen2_5", size, hidden, context))
    return rows


def _qwen3() -> list[ModelFacts]:
    sizes: list[tuple[str, Kind, str, float, int, int, bool]] = [
        ("Qwen/Qwen3-8B", "hybrid", "qwen3", 8.19, 4096, 40960, False),
        ("Qwen/Qwen3-8B-Base", "base", "role_colon", 8.19, 4096, 32768, False),
        ("Qwen/Qwen3-14B", "hybrid", "qwen3", 14.8, 5120, 40960, False),
        ("Qwen/Qwen3-32B", "hybrid", "qwen3", 32.8, 5120, 40960, False),
        ("Qwen/Qwen3-30B-A3B", "hybrid", "qwen3", 30.5, 2048, 40960, True),
        ("Qwen/Qwen3-30B-A3B-Base", "base", "role_colon", 30.5, 2048, 32768, True),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "instruct", "qwen3_instruct", 30.5, 2048, 262144, True),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "instruct", "qwen3_instruct", 235.0, 4096, 262144, True),
        ("Qwen/Qwen3-4B-Instruct-2507", "instruct", "qwen3_instruct", 4.02, 2560, 262144, False),
        ("Qwen/Qwen3.5-4B", "hybrid", "qwen3_5", 4.0, 2560, 262144, False),
        ("Qwen/Qwen3.5-9B", "hybrid", "qwen3_5", 9.0, 4096, 262144, False),
        ("Qwen/Qwen3.5-9B-Base", "base", "role_colon", 9.0, 4096, 262144, False),
        ("Qwen/Qwen3.5-27B", "hybrid", "qwen3_5", 27.0, 5120, 262144, False),
        ("Qwen/Qwen3.5-35B-A3B", "hybrid", "qwen3_5", 35.0, 2048, 262144, True),
        ("Qwen/Qwen3.5-35B-A3B-Base", "base", "role_colon", 35.0, 2048, 262144, True),
        ("Qwen/Qwen3.5-397B-A17B", "hybrid", "qwen3_5", 397.0, 4096, 262144, True),
    ]
    return [
        ModelFacts(name, "qwen", kind, renderer, size, hidden, context, is_moe)
        for name, kind, renderer, size, hidden, context, is_moe in sizes
    ]


# Their attention (MLA, sinks) is not served by our engine; they are listed for renderers, sizes and learning rates.
def _others() -> list[ModelFacts]:
    deepseek, kimi = "deepseek-ai/DeepSeek-V3", "moonshotai/Kimi-K2"
    return [
        ModelFacts(deepseek, "deepseek", "instruct", "deepseek_v3", 671.0, 7168, 163840, is_moe=True),
        ModelFacts(f"{deepseek}.1", "deepseek", "hybrid", "deepseek_v3_1", 671.0, 7168, 163840, is_moe=True),
        ModelFacts(f"{deepseek}.1-Base", "deepseek", "base", "role_colon", 671.0, 7168, 163840, is_moe=True),
        ModelFacts(
            "openai/gpt-oss-20b", "gpt_oss", "reasoning", "gpt_oss_medium_reasoning", 20.9, 2880, 131072, is_moe=True
        ),
        ModelFacts(
            "openai/gpt-oss-120b", "gpt_oss", "reasoning", "gpt_oss_medium_reasoning", 117.0, 2880, 131072, is_moe=True
        ),
        ModelFacts(f"{kimi}-Instruct", "kimi", "instruct", "kimi_k2_instruct", 1000.0, 7168, 131072, is_moe=True),
        ModelFacts(f"{kimi}-Thinking", "kimi", "reasoning", "kimi_k2", 1000.0, 7168, 262144, is_moe=True),
    ]


def _rows() -> list[ModelFacts]:
    tiny = ModelFacts(EMBEDDED_MODEL, "qwen", "instruct", "tinsmith_tiny", 0.0015, 160, 1024)
    return [tiny, *_llama(), *_qwen2_5(), *_qwen3(), *_others()]


# By exact name: a guess from a similar one would give a wrong renderer, and training in a wrong format is silent.
LINEUP: dict[str, ModelFacts] = {facts.name: facts for facts in _rows()}


def lookup(name: str) -> ModelFacts | None:
    """Return what is known of a model name, or None."""
    return LINEUP.get(name)
