"""The embedded model as a reward model, for tests that only need one that can be asked."""

from __future__ import annotations

import tinsmith
from tinsmith.cookbook.preference.reward_model import RewardModel

MODEL = "tinsmith-tiny"


def base_reward_model(service: tinsmith.ServiceClient) -> RewardModel:
    """Return the untrained model as a reward model: its scores mean nothing, but each answer has one."""
    sampler = service.create_sampling_client(base_model=MODEL)
    from tinsmith.cookbook.model_info import renderer_of

    return RewardModel(sampler, renderer_of(MODEL, sampler.get_tokenizer(), None), context_length=1024)
