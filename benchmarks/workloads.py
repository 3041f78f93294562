"""The workloads of `benchmarks.service`: what a training script does through the official SDK, timed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import tinker

from benchmarks.common import Column, equal_lengths, lognormal_lengths, random_tokens, stopwatch

ADAM = tinker.AdamParams(learning_rate=1e-4)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        rank: of every adapter.
        batch: datums of a supervised step.
        length: tokens of a datum; of log-normal ones the mean.
        longest: longest log-normal datum, tokens.
        steps: supervised steps that are timed.
        latency_steps: tiny steps that are timed, one by one.
        clients: training clients at once.
        prompts: prompts that are sampled at once; of an RL iteration too.
        prompt_length: tokens.
        samples: completions of each prompt.
        max_tokens: tokens of each completion.
    """

    rank: int = 32
    batch: int = 64
    length: int = 128
    longest: int = 1000
    steps: int = 6
    latency_steps: int = 50
    clients: int = 4
    prompts: int = 16
    prompt_length: int = 32
    samples: int = 8
    max_tokens: int = 64


USUAL = Sizes()
QUICK = Sizes(
    rank=4, batch=4, length=8, longest=32, steps=2, latency_steps=3, clients=2, prompts=2, samples=2, max_tokens=4
)


class Driver:
    """One user of a service: a session, its clients, and token ids drawn from a seed."""

    def __init__(self, url: str, key: str, model: str, vocab_size: int) -> None:
        self.service = tinker.ServiceClient(base_url=url, api_key=key)
        self.model = model
        self.vocab_size = vocab_size
        self._rng = np.random.default_rng(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.service.close("success" if kind is None else "errored").result()

    def training_client(self, rank: int) -> tinker.TrainingClient:
        """Create an adapter and wait for it."""
        return self.service.create_lora_training_client(self.model, rank=rank, seed=0).result()

    def prompt(self, length: int) -> tinker.ModelInput:
        """Return a prompt of random ids."""
        return tinker.ModelInput.from_ints(random_tokens(self._rng, length, self.vocab_size))

    def supervised(self, lengths: list[int]) -> list[tinker.Datum]:
        """Return next-token datums of random ids with weight 1 everywhere."""
        data = []
        for length in lengths:
            ids = random_tokens(self._rng, length + 1, self.vocab_size)
            inputs = {"target_tokens": np.array(ids[1:]), "weights": np.ones(length, np.float32)}
            data.append(tinker.Datum(model_input=tinker.ModelInput.from_ints(ids[:-1]), loss_fn_inputs=inputs))
        return data


def measure(driver: Driver, sizes: Sizes, system: str) -> Column:
    """Run every workload once warm."""
    column = Column(system)
    training = driver.training_client(sizes.rank)
    _train(training, driver.supervised([8, 8]), steps=1)
    equal = driver.supervised(equal_lengths(sizes.batch, sizes.length))
    column.add("supervised, equal lengths", _train(training, equal, sizes.steps), "tokens/s")
    spread = driver.supervised(lognormal_lengths(sizes.batch, sizes.length, sizes.longest))
    column.add("supervised, log-normal lengths", _train(training, spread, sizes.steps), "tokens/s")
    _measure_latency(driver, training, sizes, column)
    _measure_clients(driver, sizes, column)
    _measure_sampling(driver, training, sizes, column)
    _measure_rl(driver, training, sizes, column)
    return column


def _train(training: tinker.TrainingClient, data: list[tinker.Datum], steps: int) -> float:
    """Return tokens per second of pipelined steps: all are submitted before the first result is read."""
    tokens = steps * sum(datum.model_input.length for datum in data)
    with stopwatch() as watch:
        futures = []
        for _ in range(steps):
            futures += [training.forward_backward(data, "cross_entropy"), training.optim_step(ADAM)]
        for future in futures:
            future.result()
    return tokens / watch.seconds


def tiny_steps(driver: Driver, training: tinker.TrainingClient, steps: int, *, ahead: bool = False) -> list[float]:
    """Return the seconds of steps so small that only the service counts, one after the other.

    Args:
        driver: makes the datum.
        training: whose steps they are.
        steps: how many.
        ahead: whether both halves of a step are submitted before the first result is waited for, as training loops do.
    """
    data = driver.supervised([8])
    waits = []
    for _ in range(steps):
        with stopwatch() as watch:
            passed = training.forward_backward(data, "cross_entropy")
            if not ahead:
                passed.result()
            stepped = training.optim_step(ADAM)
            passed.result()
            stepped.result()
        waits.append(watch.seconds)
    return waits


def _measure_latency(driver: Driver, training: tinker.TrainingClient, sizes: Sizes, column: Column) -> None:
    """Time steps so small that only the service counts: one by one, and submitted without waiting in between."""
    waits = tiny_steps(driver, training, sizes.latency_steps)
    for percent in (50, 95):
        value = float(np.percentile(waits, percent)) * 1e3
        column.add(f"tiny step, p{percent}", value, "ms", higher_is_better=False)
    column.add("tiny steps, each awaited", sizes.latency_steps / sum(waits), "steps/s")
    data = driver.supervised([8])
    tokens_per_s = _train(training, data, sizes.latency_steps)
    column.add("tiny steps, back to back", tokens_per_s / data[0].model_input.length, "steps/s")


def _measure_clients(driver: Driver, sizes: Sizes, column: Column) -> None:
    clients = [driver.training_client(sizes.rank) for _ in range(sizes.clients)]
    share = max(1, sizes.batch // sizes.clients)
    batches = [driver.supervised(equal_lengths(share, sizes.length)) for _ in clients]
    tokens = sizes.steps * sizes.clients * share * sizes.length
    with ThreadPoolExecutor(len(clients)) as pool, stopwatch() as watch:
        list(pool.map(lambda pair: _train(*pair, sizes.steps), zip(clients, batches, strict=True)))
    column.add(f"supervised, {sizes.clients} clients at once, all", tokens / watch.seconds, "tokens/s")


def refresh(training: tinker.TrainingClient) -> tuple[tinker.SamplingClient, float]:
    """Return a sampler of the present weights, and the seconds until it was there."""
    with stopwatch() as watch:
        sampler = training.save_weights_and_get_sampling_client().result()
    return sampler, watch.seconds


def _sample(
    driver: Driver, sampler: tinker.SamplingClient, sizes: Sizes
) -> list[tuple[tinker.ModelInput, tinker.SampleResponse]]:
    params = tinker.SamplingParams(max_tokens=sizes.max_tokens, temperature=1.0, stop=[])
    prompts = [driver.prompt(sizes.prompt_length) for _ in range(sizes.prompts)]
    futures = [sampler.sample(prompt, sizes.samples, params) for prompt in prompts]
    return [(prompt, future.result()) for prompt, future in zip(prompts, futures, strict=True)]


def _measure_sampling(driver: Driver, training: tinker.TrainingClient, sizes: Sizes, column: Column) -> None:
    sampler, seconds = refresh(training)
    column.add("sampler refresh", seconds * 1e3, "ms", higher_is_better=False)
    _sample(driver, sampler, QUICK)
    with stopwatch() as watch:
        results = _sample(driver, sampler, sizes)
    tokens = sum(len(sequence.tokens) for _, response in results for sequence in response.sequences)
    column.add("sampling", tokens / watch.seconds, "tokens/s")


def _measure_rl(driver: Driver, training: tinker.TrainingClient, sizes: Sizes, column: Column) -> None:
    column.add("one RL iteration", rl_iteration(driver, training, sizes), "s", higher_is_better=False)


def rl_iteration(driver: Driver, training: tinker.TrainingClient, sizes: Sizes) -> float:
    """Refresh the sampler, roll out groups, train with importance sampling, step; return the seconds it took."""
    with stopwatch() as watch:
        sampler, _ = refresh(training)
        data = []
        for prompt, response in _sample(driver, sampler, sizes):
            rewards = np.array([np.mean(sequence.tokens) for sequence in response.sequences])
            for sequence, advantage in zip(response.sequences, rewards - rewards.mean(), strict=True):
                data.append(_policy_datum(prompt.to_ints(), sequence, float(np.sign(advantage))))
        futures = training.forward_backward(data, "importance_sampling"), training.optim_step(ADAM)
        for future in futures:
            future.result()
    return watch.seconds


def _policy_datum(prompt: list[int], sequence: tinker.SampledSequence, advantage: float) -> tinker.Datum:
    assert sequence.logprobs is not None
    before = len(prompt) - 1
    inputs = {
        "target_tokens": np.array(prompt[1:] + list(sequence.tokens)),
        "logprobs": np.array([0.0] * before + list(sequence.logprobs), np.float32),
        "advantages": np.array([0.0] * before + [advantage] * len(sequence.tokens), np.float32),
    }
    tokens = prompt + list(sequence.tokens)[:-1]
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)
