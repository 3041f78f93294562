"""`adapter_config.json` of a LoRA, whoever made it: ranks, scalings, and what of it is not computed here. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinsmith.types.errors import UserError, invalid

# Options that say how an adapter was made or is to be loaded, and change nothing in what it computes.
_HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
_READ = frozenset(
    {
        "alpha_pattern",
        "bias",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_parameters",
        "use_rslora",
    }
)
# First weights that leave the base as it is; the others (PiSSA, OLoRA, LoftQ, ...) change it too.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
# What a pattern may be made of: names, escaped dots, and at most two repetitions, so that it is matched in no time.
_PATTERN = re.compile(r"(?:\^|\$|[\w.-]|\\\.|\.\*|\\d\+|\[0-9\]\+){1,500}")
# More than the linear layers of any model that is served; each weight's name is tried against all of them.
_MOST_PATTERNS = 4096


@dataclass(frozen=True)
class AdapterConfig:
    """What of an adapter's config counts.

    Attributes:
        where: its name in messages.
        base_model: the base that it was made for, as its maker called it; empty where it does not say.
        rank: of weights that no pattern names.
        alpha: likewise.
        rslora: whether B·A is scaled by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732), not alpha / rank.
        rank_pattern, alpha_pattern: exceptions by pattern; the first that matches counts.
        parameters: ends of the names of weights that PEFT adapts as parameters, not as modules.
    """

    where: str
    base_model: str
    rank: int
    alpha: float
    rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    parameters: frozenset[str]

    def rank_of(self, weight: str) -> int:
        """Return the rank of the adapter of a weight, by its path in the model."""
        return self._first(self._rank_patterns, weight, self.rank)

    def scale_of(self, weight: str) -> float:
        """Return the factor on B·A of a weight."""
        rank, alpha = self.rank_of(weight), self._first(self._alpha_patterns, weight, self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)

    def adapts_parameter(self, weight: str) -> bool:
        """Whether PEFT adapts a weight as a parameter."""
        return any(weight == name or weight.endswith(f".{name}") for name in self.parameters)

    @cached_property
    def _rank_patterns(self) -> list[tuple[re.Pattern[str], int]]:
        return _compiled(self.rank_pattern)

    @cached_property
    def _alpha_patterns(self) -> list[tuple[re.Pattern[str], float]]:
        return _compiled(self.alpha_pattern)

    @staticmethod
    def _first(patterns: list[tuple[re.Pattern[str], Any]], weight: str, default: Any) -> Any:
        return next((value for pattern, value in patterns if pattern.match(weight)), default)


def _compiled(patterns: Mapping[str, Any]) -> list[tuple[re.Pattern[str], Any]]:
    return [(re.compile(rf"(.*\.)?({key})$"), value) for key, value in patterns.items()]  # as PEFT matches them


def parse_config(where: str, data: bytes) -> AdapterConfig:
    """Read an `adapter_config.json`.

    Args:
        where: what messages call it.
        data: of the file.

    Raises:
        UserError: it is no LoRA adapter, or one with options that are not computed here.
    """
    config = _read_object(where, data)
    _check_options(where, config)
    return AdapterConfig(
        where=where,
        base_model=_base_model(f"{where}: base_model_name_or_path", config.get("base_model_name_or_path")),
        rank=_rank(f"{where}: r", config.get("r")),
        alpha=_alpha(f"{where}: lora_alpha", config.get("lora_alpha")),
        rslora=bool(config.get("use_rslora")),
        rank_pattern={
            key: _rank(f"{where}: rank_pattern.{key}", value)
            for key, value in _pattern(where, "rank_pattern", config).items()
        },
        alpha_pattern={
            key: _alpha(f"{where}: alpha_pattern.{key}", value)
            for key, value in _pattern(where, "alpha_pattern", config).items()
        },
        parameters=_names(f"{where}: target_parameters", config.get("target_parameters")),
    )


def _read_object(where: str, data: bytes) -> dict[str, Any]:
    try:
        config: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: got a file that is no JSON ({error}), expected PEFT's config of a LoRA") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise invalid(f"{where}: peft_type", found, "LORA, PEFT's config of a LoRA")
    return config


def _check_options(where: str, config: dict[str, Any]) -> None:
    # Unknown options are refused where they are on: a later PEFT may compute something else with them.
    for option, value in config.items():
        if value and option not in _HARMLESS and option not in _READ:
            raise invalid(f"{where}: {option}", value, "it to be off")
    # A text would count as true whatever it says.
    if type(config.get("use_rslora", False)) not in (bool, type(None)):
        raise invalid(f"{where}: use_rslora", config["use_rslora"], "true or false")
    if config.get("bias", "none") != "none":
        raise invalid(f"{where}: bias", config["bias"], "none")
    if config.get("init_lora_weights", True) not in _INITS:
        raise invalid(
            f"{where}: init_lora_weights", config["init_lora_weights"], "first weights that leave the base as it is"
        )


def _base_model(field: str, value: object) -> str:
    if not isinstance(value, str | None):
        raise invalid(field, value, "the name of a model")
    return value or ""


def _rank(field: str, value: object) -> int:
    # bool is an int to Python. The bound keeps products of ranks and widths far from any overflow.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**20:
        raise invalid(field, value, "a whole number from 1")
    return value


def _alpha(field: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 2**40:
        raise invalid(field, value, "a number above 0")
    return float(value)


def _pattern(where: str, option: str, config: dict[str, Any]) -> dict[str, object]:
    found = config.get(option) or {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        shown = f"{len(found)} patterns" if isinstance(found, dict) else found
        raise invalid(f"{where}: {option}", shown, f"at most {_MOST_PATTERNS} patterns, each with a number")
    for key in found:
        # Each repetition multiplies the ways to match a name; with two a match is quadratic at worst.
        repetitions = key.count("*") + key.count("+")
        if not _PATTERN.fullmatch(key) or repetitions > 2:
            raise invalid(f"{where}: {option}", key, r"names of weights, with '\.', '\d+' or '.*' at most")
    return found


def _names(field: str, value: object) -> frozenset[str]:
    names = value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid(field, value, "a list of names")
    return frozenset(names)
