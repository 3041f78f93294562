"""Does the learner compute what the sampler did? Sample, recompute every token on the learner, and compare.

    python -m tinsmith.cookbook.recipes.rl_numerics_check
    python -m tinsmith.cookbook.recipes.rl_numerics_check base_url=URL model_name=Qwen/Qwen3-8B long_tokens=16384

Reinforcement learning takes the two for one policy. It speaks to any service with the Tinker protocol, on the base
model, then on an adapter that is trained between the checks, with short answers and with long sequences. Temperature is
1: any other makes the sampled distribution another one than the learner's. The exit code is 1 where KL or the largest
difference of a token is above its bound; the folder of the run has every check's numbers, and a page with its worst
sequence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chz
import numpy as np
from rich.console import Console
from rich.table import Table

import tinsmith
from tinsmith import ModelInput, SamplingClient, SamplingParams, TrainingClient
from tinsmith.cookbook.datasets import arithmetic
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.cookbook.rl.learning.policy_metrics import Floats, action_logprobs, kl_estimates
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.token_text import token_texts
from tinsmith.cookbook.training import ModelSetup, set_up_model
from tinsmith.cookbook.utils import at_least, positive, recommended_rl_lr

RECIPE = "rl_numerics_check"
# Where nobody says how long: half of what the model reads, up to this.
_LONG_TOKENS = 4096
# Of a long sequence, this share is read and the rest is said.
_READ = 0.75
_STEPS = 3
# Tokens before the worst one that are told.
_TOLD = 24


@chz.chz
class Config(RunConfig):
    """How much is sampled, and how far the two may be apart."""

    group_size: int = chz.field(default=4, validator=at_least(1), doc="answers to each prompt")
    max_tokens: int = chz.field(default=64, validator=at_least(1), doc="longest short answer")
    long_tokens: int | None = chz.field(
        default=None,
        validator=at_least(32),
        doc="length of the long sequences; None: half of what the model reads, at most 4096",
    )
    max_kl: float = chz.field(
        default=0.01,
        validator=positive,
        doc="largest KL(sampler||learner) in nats per token, by either estimator; float32 on a CPU keeps below 1e-6",
    )
    max_delta: float = chz.field(
        default=1.0, validator=positive, doc="largest difference of one token's logprob, in nats; float32: 1e-4"
    )
    batch_size: int = chz.field(
        default=8, validator=at_least(1), doc="short prompts per check, and half as many long ones"
    )
    max_steps: int | None = chz.field(
        default=None, validator=at_least(1), doc="training steps between the checks; None: 3"
    )


class Asked(NamedTuple):
    """Prompts of one kind, and how they are answered.

    Attributes:
        prompts: what is read.
        max_tokens: longest answer.
        stop: what ends one.
    """

    prompts: list[ModelInput]
    max_tokens: int
    stop: list[str] | list[int]


class Checked(NamedTuple):
    """Sequences that were sampled and recomputed.

    Attributes:
        examples: S sequences, with the logprobs that the sampler gave.
        sampler, learner: S arrays of the logprobs of their sampled tokens, in nats, float64.
    """

    examples: list[Example]
    sampler: list[Floats]
    learner: list[Floats]

    def metrics(self) -> dict[str, float]:
        """Return both estimates of KL(sampler||learner), the largest difference, and the number of sampled tokens."""
        q, p = np.concatenate(self.sampler), np.concatenate(self.learner)
        kl = kl_estimates(q, p)
        return {
            "kl_k1": kl["kl_sampler_learner"],
            "kl_k2": kl["kl_sampler_learner_k2"],
            "max_delta": float(np.abs(q - p).max()),
            "tokens": q.size,
        }

    def worst(self) -> tuple[int, int]:
        """Return the sequence with the largest difference, and which of its sampled tokens has it."""
        # NaN is as bad as can be, and no comparison would find it.
        deltas = [np.nan_to_num(np.abs(q - p), nan=np.inf) for q, p in zip(self.sampler, self.learner, strict=True)]
        sequence = int(np.argmax([delta.max() for delta in deltas]))
        return sequence, int(deltas[sequence].argmax())


def main(config: Config) -> None:
    """Check, train a step, check again, and so on.

    Raises:
        SystemExit: 1 where KL or a difference is above its bound, or no number.
        UserError: a setting cannot be used.
        TinsmithError: the service failed.
    """
    total = config.max_steps or _STEPS
    # A finished run may be judged by other bounds.
    with Run(config, RECIPE, free=("max_kl", "max_delta")) as run:
        if not run.is_finished(total):
            _checks(config, run, set_up_model(run, config), total)
        path = run.path
    _judge(config, read_rows(path / "metrics.jsonl"))


def _checks(config: Config, run: Run, model: ModelSetup, total: int) -> None:
    learner = run.training_client()
    kinds = _asked(config, model.renderer, learner.get_info().model_data.context_length)
    for step in run.steps(total):
        sampler = learner.save_weights_and_get_sampling_client()
        checked = {kind: _check(config, sampler, learner, asked, step) for kind, asked in kinds.items()}
        # A new adapter changes nothing: its weights are the base model, by another way through the service.
        if step == 0 and config.load_checkpoint_path is None:
            base = model.service.create_sampling_client(base_model=config.model_name)
            checked |= {f"base_{kind}": _check(config, base, learner, asked, step) for kind, asked in kinds.items()}
        metrics = _tell(run, model, step, checked)
        trained = [example.datum() for kind in kinds for example in checked[kind].examples]
        learner.forward_backward(trained, "importance_sampling")
        rate = config.learning_rate or recommended_rl_lr(config.model_name)
        stepped = learner.optim_step(tinsmith.AdamParams(learning_rate=rate)).result()
        run.save_due(step + 1, learner)
        run.log_metrics(step, metrics | {f"optim/{name}": value for name, value in (stepped.metrics or {}).items()})
        run.settle(step + 1)
    sampler = learner.save_weights_and_get_sampling_client()
    checked = {kind: _check(config, sampler, learner, asked, total) for kind, asked in kinds.items()}
    run.log_metrics(total, _tell(run, model, total, checked))
    run.save_final(total, learner)


def _asked(config: Config, renderer: Renderer, context: int | None) -> dict[str, Asked]:
    """Return the prompts of both kinds: one sum, and a long conversation of sums."""
    length = config.long_tokens or min(_LONG_TOKENS, (context or 2 * _LONG_TOKENS) // 2)
    read = round(_READ * length)
    few, many = max(1, config.batch_size // 2), config.batch_size
    return {
        "short": Asked(
            [_conversation(renderer, config.seed + i, 1) for i in range(many)],
            config.max_tokens,
            renderer.get_stop_sequences(),
        ),
        # Nothing ends a long one early: what goes wrong far behind the beginning has to be seen.
        "long": Asked([_long_conversation(renderer, config.seed + i, read) for i in range(few)], length - read, []),
    }


def _conversation(renderer: Renderer, seed: int, sums: int) -> ModelInput:
    """Return a conversation in which all sums but the last are answered."""
    drawn = arithmetic.rows("train", sums, seed)
    turns = [[("user", row["problem"]), ("assistant", row["answer"])] for row in drawn]
    messages = [{"role": role, "content": content} for turn in turns for role, content in turn]
    return renderer.build_generation_prompt(messages[:-1])


def _long_conversation(renderer: Renderer, seed: int, tokens: int) -> ModelInput:
    """Return a conversation of about so many tokens."""
    one, eleven = (_conversation(renderer, seed, sums).length for sums in (1, 11))
    return _conversation(renderer, seed, 1 + max(0, round((tokens - one) * 10 / (eleven - one))))


def _check(config: Config, sampler: SamplingClient, learner: TrainingClient, asked: Asked, step: int) -> Checked:
    # All are in flight before the first is waited for, so that they are decoded in one batch, as rollouts are.
    futures = [
        sampler.sample(
            prompt,
            num_samples=config.group_size,
            sampling_params=SamplingParams(
                max_tokens=asked.max_tokens,
                temperature=1.0,
                seed=derived_seed(config.seed, step, place),
                stop=asked.stop,
            ),
        )
        for place, prompt in enumerate(asked.prompts)
    ]
    examples: list[Example] = []
    for prompt, future in zip(asked.prompts, futures, strict=True):
        for place, sequence in enumerate(future.result().sequences):
            if sequence.logprobs is None:
                raise tinsmith.TinsmithError(
                    "the service gives no logprobs of what it samples: nothing can be compared"
                )
            example = Example()
            example.read(prompt.to_ints())
            # Every second answer is made less likely, so that training moves the weights and not only sharpens them.
            example.say(sequence.tokens, sequence.logprobs, -1.0 if place % 2 else 1.0)
            examples.append(example)
    outputs = learner.forward([example.datum() for example in examples], "importance_sampling").result().loss_fn_outputs
    pairs = [action_logprobs([example], [output])[:2] for example, output in zip(examples, outputs, strict=True)]
    return Checked(examples, [q for q, _ in pairs], [p for _, p in pairs])


def _tell(run: Run, model: ModelSetup, step: int, checked: dict[str, Checked]) -> dict[str, float]:
    """Write the worst sequence of each kind on the step's page, print the worst token, and return the metrics."""
    metrics: dict[str, float] = {}
    with run.transcript(step) as page:
        for kind, found in checked.items():
            metrics |= {f"check/{kind}/{name}": value for name, value in found.metrics().items()}
            sequence, place = found.worst()
            example, q, p = found.examples[sequence], found.sampler[sequence], found.learner[sequence]
            texts = token_texts(model.tokenizer, example.tokens)
            spoken = np.flatnonzero(example.action)
            at = int(spoken[place])
            told = (
                f"step {step}, {kind}: the worst token is {texts[at]!r}, number {place} of sequence {sequence}, behind "
                f"{''.join(texts[max(0, at - _TOLD) : at])!r}: sampler {q[place]:.7g}, learner {p[place]:.7g}"
            )
            print(told)
            page.heading(told)
            deltas = np.zeros(len(example.tokens))
            deltas[spoken] = q - p
            page.tokens(texts, deltas.tolist(), example.logprobs, example.tokens)
    return metrics


def _judge(config: Config, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print all checks; end with code 1 where one is above its bound."""
    table = Table("after step", "sequences", "tokens", "KL (k1)", "KL (k2)", "largest difference")
    failed: list[str] = []
    for row in rows:
        for name in (name for name in row if name.startswith("check/") and name.endswith("/tokens")):
            kind = name.removesuffix("/tokens")
            k1, k2, delta = (row[f"{kind}/{n}"] for n in ("kl_k1", "kl_k2", "max_delta"))
            table.add_row(str(row["step"]), kind.removeprefix("check/"), f"{row[name]:g}", *map(_told, (k1, k2, delta)))
            where = f"{kind.removeprefix('check/')} after step {row['step']}"
            for what, value, bound, limit in (
                ("KL (k1)", k1, "max_kl", config.max_kl),
                ("KL (k2)", k2, "max_kl", config.max_kl),
                ("difference", delta, "max_delta", config.max_delta),
            ):
                # `metrics.jsonl` has null for NaN and infinity.
                if value is None or abs(value) > limit:
                    failed.append(f"{what} of {where} is {_told(value)}, expected at most {bound}={limit:g}")
    Console().print(table)
    if failed:
        print("\n".join(f"{RECIPE}: {line}" for line in failed), file=sys.stderr)
        raise SystemExit(1)
    print(
        f"sampler and learner agree: every KL is below {config.max_kl:g}, every difference below {config.max_delta:g}"
    )


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
