"""What a finished request is answered with."""

from __future__ import annotations

import numpy as np

from tinsmith.engine.sampling.prompt_scores import fill_top, top_table
from tinsmith.engine.sampling.sequence import SampleGroup, Sequence
from tinsmith.types.outputs import SampledSequence, SampleResponse


def make_response(group: SampleGroup) -> SampleResponse:
    """Return the answer to a request all of whose samples have ended."""
    samples = [_sampled(s) for s in group.samples]
    # Told once, for the leader: the others never compute the prompt, they fork it.
    response = SampleResponse(samples, prompt_cache_hit_tokens=group.prompt_cached or 0)
    if group.scores is not None:
        group.scores.fill(response)
    return response


def _sampled(sequence: Sequence) -> SampledSequence:
    assert sequence.stop_reason is not None
    table = None
    k = sequence.group.job.topk_sample_logprobs
    if k:
        # Where fewer than k tokens could be drawn, the rest of a row stays empty.
        table = top_table(len(sequence.top), k)
        for row, (ids, logprobs) in enumerate(sequence.top):
            fill_top(table, row, np.array([ids]), np.array([logprobs]))
    generated = sequence.tokens[sequence.group.prompt_length :]
    return SampledSequence(sequence.stop_reason, generated, sequence.logprobs, table)
