"""One client of `benchmarks.chaos`, a process of its own: a training script that knows nothing of what goes on around.

python -m benchmarks.chaos.script --sdk tinker --url URL --seed 0 --until FILE --out FILE

What it asks for follows from its seed and from the number of its step alone, so that two runs of the same length differ
only in what happened to the service.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

# Long: what is measured is whether an answer comes, not how fast.
PATIENCE_S = 900
SAMPLE_EVERY = 4
SAVE_EVERY = 6
LOAD_EVERY = 9
_FULL = "No space left on device"
# The embedded model's byte tokens lie below.
_TOKENS = 200


def main() -> None:
    """Train and sample, then write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", choices=["tinsmith", "tinker"], required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, help="how many steps; without it, until `--until` exists")
    parser.add_argument("--until", type=Path, help="a file that ends the run")
    parser.add_argument("--out", type=Path, required=True, help="where losses, tokens and the last state's path go")
    parser.add_argument("--times", type=Path, required=True, help="when each step was asked for and done, line by line")
    args = parser.parse_args()
    client = _Client(args.sdk, args.url, args.model, args.seed)
    with args.times.open("a") as times:
        step = 0
        while step < args.steps if args.steps is not None else not args.until.exists():
            asked = time.time()
            client.step(step)
            times.write(f"{asked} {time.time()}\n")
            times.flush()
            step += 1
    found = {"steps": step, "path": client.save("end"), "losses": client.losses, "tokens": client.tokens}
    # Renamed when whole: whoever waits for it reads all or nothing.
    aside = args.out.with_suffix(".partial")
    aside.write_text(json.dumps(found))
    os.replace(aside, args.out)


class _Client:
    def __init__(self, sdk: str, url: str, model: str, seed: int) -> None:
        self._sdk: Any = importlib.import_module(sdk)
        self._seed = seed
        self._service = self._sdk.ServiceClient(base_url=url)
        self._training = self._wait(self._service.create_lora_training_client(model, rank=8, seed=seed))
        # A larger eps than usual: with a small one the step of an entry whose gradient is all rounding is a coin toss,
        # and how batches of several clients are merged is another one.
        self._adam = self._sdk.AdamParams(learning_rate=2e-3, eps=1e-3)
        self._saved = ""
        self.losses: list[float] = []
        self.tokens: list[list[int]] = []

    @staticmethod
    def _wait(future: Any) -> Any:
        return future.result(timeout=PATIENCE_S) if hasattr(future, "result") else future

    def step(self, number: int) -> None:
        """Two gradients and a step, and from time to time a sample, a save or a load."""
        futures = [
            self._training.forward_backward([self._datum(number, part, length)], "cross_entropy")
            for part, length in enumerate((24, 9))
        ]
        futures.append(self._training.optim_step(self._adam))
        self.losses += [float(self._wait(future).metrics["loss:sum"]) for future in futures[:2]]
        self._wait(futures[2])
        if number % SAMPLE_EVERY == SAMPLE_EVERY - 1:
            self._sample(number)
        if number % SAVE_EVERY == SAVE_EVERY - 1:
            self._saved = self.save(f"step{number}")
        if number % LOAD_EVERY == LOAD_EVERY - 1 and self._saved:
            self._wait(self._training.load_state_with_optimizer(self._saved))

    def _sample(self, number: int) -> None:
        sampler = self._wait(self._training.save_weights_and_get_sampling_client())
        params = self._sdk.SamplingParams(max_tokens=8, temperature=1.0, seed=number, stop=[])
        prompt = self._sdk.ModelInput.from_ints(self._ids(number, 7, 6))
        answer = self._wait(sampler.sample(prompt, num_samples=2, sampling_params=params))
        self.tokens += [[int(token) for token in sequence.tokens] for sequence in answer.sequences]

    def save(self, name: str) -> str:
        """Save weights and optimizer, again where the service says that its disk is full; return the path."""
        while True:
            try:
                return str(self._wait(self._training.save_state(name)).path)
            except Exception as error:
                # What the service promises then is a clear error and nothing half-written, not the save.
                if _FULL not in str(error):
                    raise
                time.sleep(1)

    def _ids(self, number: int, part: int, length: int) -> list[int]:
        return np.random.default_rng([self._seed, number, part]).integers(1, _TOKENS, length).tolist()

    def _datum(self, number: int, part: int, length: int) -> Any:
        ids = self._ids(number, part, length + 1)
        inputs = {"target_tokens": np.array(ids[1:]), "weights": np.ones(length, np.float32)}
        return self._sdk.Datum(model_input=self._sdk.ModelInput.from_ints(ids[:-1]), loss_fn_inputs=inputs)


if __name__ == "__main__":
    main()
