"""From a SAMPLE operation to what the engine's sampler takes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tinsmith.engine.jobs import SampleJob
from tinsmith.types.engine_messages.operations import Operation
from tinsmith.types.requests import SampleRequest
from tinsmith.types.sample_inputs import read_sample_inputs


def sample_job(op: Operation, sampler_id: str) -> SampleJob:
    """Read the request of a SAMPLE operation."""
    inputs = read_sample_inputs(SampleRequest.model_validate_json(op.read_body()))
    params = inputs.params.model_copy(update={"seed": sample_seed(inputs.params.seed, op.request_id)})
    return SampleJob(
        request_id=op.request_id, sampler_id=sampler_id, owner=op.owner, **vars(replace(inputs, params=params))
    )


def sample_seed(seed: int | None, request_id: str) -> int:
    """Return the seed of a request; where it brings none, one made of its id.

    The only place where a sample's seed is chosen. Ids are random and journalled, so that requests without a seed
    differ from each other, and each draws the same tokens when it is run again after a loss.
    """
    if seed is not None:
        return seed
    # Seven bytes, so that it fits a signed 64-bit number. Not `hash`, which differs from process to process.
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:7], "big")
