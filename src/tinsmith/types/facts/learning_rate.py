"""The learning-rate formula of the course, and the optimizer step that `optim_step()` takes without arguments."""

from __future__ import annotations

from typing import Literal

from tinsmith.types.params import AdamParams

Family = Literal["llama", "qwen"]

# All numbers are the course's.
BASE_LEARNING_RATE = 5e-5
LORA_MULTIPLIER = 10.0
_EXPONENTS: dict[Family, float] = {"llama": 0.781, "qwen": 0.0775}


def learning_rate(family: Family, hidden_size: int, *, is_lora: bool = True) -> float:
    """Return lr_base · M · (2000 / H)^P, the course's formula ("Hyperparameter Formulas").

    lr_base = 5e-5; M = 10 for LoRA and 1 for full fine-tuning; P = 0.781 for Llama and 0.0775 for Qwen. In practice
    good LoRA rates lie 20 to 100 times above those of full fine-tuning; the factor 10 is the safe end.

    Args:
        family: `llama` or `qwen`.
        hidden_size: H, width of the model's residual stream.
        is_lora: False gives the rate of full fine-tuning.
    """
    multiplier = LORA_MULTIPLIER if is_lora else 1.0
    return BASE_LEARNING_RATE * multiplier * (2000.0 / hidden_size) ** _EXPONENTS[family]


def family_of(model_type: str) -> Family:
    """Return the family whose exponent fits a `transformers` model type or a model name; Qwen's where unsure."""
    # Qwen's rate hardly changes with the width, which is the more careful guess for a family that is not known.
    return "llama" if "llama" in model_type.lower() else "qwen"


def default_adam_params(model_type: str, hidden_size: int) -> AdamParams:
    """Return the parameters of an `optim_step()` without arguments: the formula's rate, all else default."""
    return AdamParams(learning_rate=learning_rate(family_of(model_type), hidden_size))
