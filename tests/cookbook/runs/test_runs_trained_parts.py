"""What a run's adapter acts on: vLLM and SGLang load it, unless the run asks for more."""

from __future__ import annotations

import pytest

from tinsmith.cookbook.runs.run_config import RunConfig
from tinsmith.cookbook.runs.trained_parts import TrainedParts
from tinsmith.types.errors import UserError
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.responses import WeightsInfoResponse

OTHER = "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_name": OTHER}, "attention, MLP"),
        ({"model_name": OTHER, "train_unembed": True}, "attention, MLP, output projection (vLLM and SGLang need it"),
        ({"model_name": OTHER, "train_mlp": False}, "attention"),
        ({"model_name": EMBEDDED_MODEL}, "attention, MLP, output projection (vLLM"),
        ({"model_name": EMBEDDED_MODEL, "train_unembed": False}, "attention, MLP"),
    ],
)
def test_a_new_adapter(settings: dict[str, object], words: str) -> None:
    found = TrainedParts.of(RunConfig(**settings)).words()
    assert found.startswith(words)
    assert ("vLLM" in found) == ("vLLM" in words)


def test_a_checkpoint_to_begin_with_has_its_own() -> None:
    info = WeightsInfoResponse(base_model=OTHER, lora_rank=32, train_attn=True, train_mlp=False, train_unembed=True)
    assert TrainedParts.saved(RunConfig(model_name=OTHER), info, "it") == TrainedParts(True, False, True)
    with pytest.raises(UserError, match=r"train_unembed: got False, expected True, as load_checkpoint_path has it"):
        TrainedParts.saved(RunConfig(model_name=OTHER, train_unembed=False), info, "load_checkpoint_path")
    # A service that says nothing has the protocol's default.
    assert TrainedParts.saved(RunConfig(), WeightsInfoResponse(base_model=OTHER), "it") == TrainedParts(
        True, True, True
    )


def test_nothing_to_train() -> None:
    with pytest.raises(UserError, match="expected one of them, or train_unembed=True"):
        RunConfig(train_attn=False, train_mlp=False)
    assert RunConfig(train_attn=False, train_mlp=False, train_unembed=True).train_unembed
