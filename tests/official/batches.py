"""Datums of the official SDK with random content, and the losses of the protocol written out in numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tinker
from tinker import ModelInput

from tests.support.checkpoints import SHAPE

Array = npt.NDArray[Any]

# Options that make clipping happen on random data; the empty ones use the documented defaults.
LOSS_CASES: dict[str, tuple[str, dict[str, float]]] = {
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy_2d": ("cross_entropy", {}),
    "importance_sampling": ("importance_sampling", {}),
    "ppo": ("ppo", {}),
    "ppo_tight": ("ppo", {"clip_low_threshold": 0.95, "clip_high_threshold": 1.05}),
    "cispo": ("cispo", {"clip_low_threshold": 0.7, "clip_high_threshold": 1.3}),
    "dro": ("dro", {"beta": 0.1}),
    "gspo": ("gspo", {}),
    "gspo_tight": ("gspo", {"clip_low_threshold": 0.97, "clip_high_threshold": 1.03}),
}
# On `sampled_datums` only, whose sequences the service has recorded.
RECORDED_CASES: dict[str, tuple[str, dict[str, float]]] = {
    "stable_reinforce": ("stable_reinforce", {}),
    "stable_reinforce_tight": ("stable_reinforce", {"kl_coeff": 0.5, "clip_high_threshold": 1.1}),
}


def random_ids(rng: np.random.Generator, length: int) -> list[int]:
    """Return uniform token ids."""
    return [int(t) for t in rng.integers(0, SHAPE.vocab_size, length)]


def model_input(ids: Sequence[int]) -> ModelInput:
    """Return ids as the SDK's input."""
    return ModelInput.from_ints(list(ids))


def supervised(lengths: Sequence[int], seed: int = 0, *, two_d: bool = False) -> list[tinker.Datum]:
    """Return cross-entropy datums; a third of the positions have weight 0, the others a weight in (0, 1)."""
    rng = np.random.default_rng(seed)
    data = []
    for n in lengths:
        shape = (n, 3) if two_d else (n,)
        weights = np.where(rng.random(shape) < 1 / 3, 0, rng.random(shape)).astype(np.float32)
        inputs = {"target_tokens": rng.integers(0, SHAPE.vocab_size, shape), "weights": weights}
        data.append(tinker.Datum(model_input=model_input(random_ids(rng, n)), loss_fn_inputs=inputs))
    return data


def pairs(lengths: Sequence[tuple[int, int, int]], seed: int = 0) -> list[tinker.Datum]:
    """Return chosen and rejected datums in turn; each length is (prompt, chosen, rejected)."""
    rng = np.random.default_rng(seed)
    data: list[tinker.Datum] = []
    for prompt, *completions in lengths:
        start = random_ids(rng, prompt)
        for length in completions:
            tokens = start + random_ids(rng, length)
            weights = np.array([0] * (prompt - 1) + [1] * length, np.float32)
            inputs = {"target_tokens": np.array(tokens[1:]), "weights": weights}
            data.append(tinker.Datum(model_input=model_input(tokens[:-1]), loss_fn_inputs=inputs))
    return data


def policy(
    lengths: Sequence[int], seed: int = 0, near: Sequence[tinker.ForwardBackwardOutput] = ()
) -> list[tinker.Datum]:
    """Return policy-gradient datums, a third of the positions with advantage 0.

    Args:
        lengths: tokens of each datum.
        seed: of the content.
        near: the learner's outputs on these datums; the sampling logprobs then lie near them, so that ratios are
            near 1. Without, they are near those of a uniform model.
    """
    rng = np.random.default_rng(seed)
    data = []
    for i, n in enumerate(lengths):
        ids, targets = random_ids(rng, n), rng.integers(0, SHAPE.vocab_size, n)
        base = near[0].loss_fn_outputs[i]["logprobs"].to_numpy() if near else -np.log(SHAPE.vocab_size)
        inputs = {
            "target_tokens": targets,
            "logprobs": (base + 0.3 * rng.normal(size=n)).astype(np.float32),
            "advantages": np.where(rng.random(n) < 1 / 3, 0, rng.normal(size=n)).astype(np.float32),
        }
        data.append(tinker.Datum(model_input=model_input(ids), loss_fn_inputs=inputs))
    return data


def batch_for(case: str, lengths: Sequence[int], seed: int = 0) -> list[tinker.Datum]:
    """Return datums that a case of `LOSS_CASES` reads."""
    if case.startswith("cross_entropy"):
        return supervised(lengths, seed, two_d=case.endswith("2d"))
    data = policy(lengths, seed)
    return [with_mask(datum, i) for i, datum in enumerate(data)] if case.startswith("gspo") else data


def with_mask(datum: tinker.Datum, seed: int) -> tinker.Datum:
    """Return a datum with a random `sequence_ratio_mask`, set somewhere."""
    n = datum.model_input.length
    mask = (np.random.default_rng(seed).random(n) < 2 / 3).astype(np.float32)
    mask[-1] = 1
    return dataclasses.replace(datum, loss_fn_inputs={**datum.loss_fn_inputs, "sequence_ratio_mask": mask})


def sampled_datums(
    prompt: Sequence[int], response: tinker.SampleResponse, seed: int = 0, *, logprobs: bool = True
) -> list[tinker.Datum]:
    """Return a datum per sampled sequence, with provenance, as the flat loop of the official cookbook makes them.

    Args:
        prompt: what was sampled from.
        response: of a client that records.
        seed: of the advantages, a third of which are 0.
        logprobs: whether to send the sampled logprobs along.
    """
    rng, ahead = np.random.default_rng(seed), len(prompt) - 1
    data = []
    for sequence in response.sequences:
        name, drawn = sequence.sequence_id, len(sequence.tokens)
        advantages = np.where(rng.random(drawn) < 1 / 3, 0, rng.normal(size=drawn))
        inputs = {
            "target_tokens": np.array([0] * ahead + list(sequence.tokens), np.int64),
            "advantages": np.concatenate([np.zeros(ahead), advantages]).astype(np.float32),
        }
        if logprobs:
            inputs["logprobs"] = np.array([0.0] * ahead + list(sequence.logprobs or ()), np.float32)
        datum = tinker.Datum(model_input=model_input([*prompt, *sequence.tokens[:-1]]), loss_fn_inputs=inputs)
        data.append(
            datum.with_provenance(
                model_input=[
                    tinker.PromptProvenanceSpan(sequence_id=name, length=len(prompt)),
                    tinker.SampledProvenanceSpan(sequence_id=name, length=drawn - 1),
                ],
                loss_fn_inputs=[
                    tinker.PromptProvenanceSpan(sequence_id=name, offset=1, length=ahead),
                    tinker.SampledProvenanceSpan(sequence_id=name, length=drawn),
                ],
            )
        )
    return data


def numpy_loss(case: str, logprobs: Sequence[Array], data: Sequence[tinker.Datum]) -> float:
    """Return the loss that the protocol defines, from per-datum logprobs, in float64."""
    return float(sum(_datum_loss(case, lp.astype(np.float64), d) for lp, d in zip(logprobs, data, strict=True)))


def _datum_loss(case: str, lp: Array, datum: tinker.Datum) -> float:
    loss_fn, config = (LOSS_CASES | RECORDED_CASES)[case]
    inputs = {key: value.to_numpy().astype(np.float64) for key, value in datum.loss_fn_inputs.items()}
    if loss_fn == "cross_entropy":
        return -float(np.sum(inputs["weights"] * lp))
    q, advantage = inputs["logprobs"], inputs["advantages"]
    ratio = np.exp(lp - q)
    low, high = config.get("clip_low_threshold", 0.8), config.get("clip_high_threshold", 1.2)
    if loss_fn == "importance_sampling":
        return -float(np.sum(ratio * advantage))
    if loss_fn == "ppo":
        return -float(np.sum(np.minimum(ratio * advantage, np.clip(ratio, low, high) * advantage)))
    if loss_fn == "cispo":
        return -float(np.sum(np.clip(ratio, low, high) * lp * advantage))
    if loss_fn == "gspo":
        ratio = np.exp(np.mean((lp - q)[inputs["sequence_ratio_mask"] != 0]))
        return -float(np.sum(np.minimum(ratio * advantage, np.clip(ratio, low, high) * advantage)))
    on = advantage != 0
    if loss_fn == "stable_reinforce":
        cap, kl_coeff = config.get("clip_high_threshold", 2.0), config.get("kl_coeff", 0.01)
        tangent = cap - 1 - np.log(cap) + (cap - 1) * (lp - q - np.log(cap))
        penalty = np.where(ratio <= cap, ratio - 1 - (lp - q), tangent)
        return float(np.sum((-np.minimum(ratio, cap) * lp * advantage + kl_coeff * penalty)[on]))
    assert loss_fn == "dro"
    return -float(np.sum((lp * advantage - 0.5 * config["beta"] * (lp - q) ** 2)[on]))


def logprobs_of(output: tinker.ForwardBackwardOutput) -> list[Array]:
    """Return each datum's logprobs."""
    return [datum["logprobs"].to_numpy() for datum in output.loss_fn_outputs]


def worst(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Return max|difference| / max|wanted| over all arrays."""
    difference = max(float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=True))
    return difference / max(float(np.abs(w).max()) for w in wanted)
