"""A recipe on the run skeleton alone: random token ids, one forward and backward pass a step, nothing supervised."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import chz

import tinsmith
from tinsmith.cookbook.runs import Run, RunConfig, due, run_recipe
from tinsmith.cookbook.runs.run_checkpoints import SavedFinal

LENGTH = 12


@chz.chz
class Config(RunConfig):
    seconds: float = chz.field(default=0.0, doc="to wait in every step")


def batch(step: int, size: int) -> list[tinsmith.Datum]:
    draw = random.Random(step)
    rows = [[draw.randrange(20, 200) for _ in range(LENGTH + 1)] for _ in range(size)]
    return [
        tinsmith.Datum(
            model_input=tinsmith.ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": row[1:], "weights": [1.0] * LENGTH},  # pyright: ignore[reportArgumentType]
        )
        for row in rows
    ]


def loss(result: tinsmith.ForwardBackwardOutput) -> float:
    return result.metrics["loss:sum"] / LENGTH


def main(config: Config) -> SavedFinal | None:
    """Train; every step's metrics depend on every step before it."""
    total = config.max_steps or 6
    with Run(config, "toy", free=("seconds",)) as run:
        if run.is_finished(total):
            return None
        run.announce(total, 1e-3, {"rows": total * config.batch_size})
        client = run.training_client()

        def evaluate() -> Mapping[str, float]:
            return {"test/nll": loss(client.forward(batch(-1, 2), "cross_entropy").result())}

        for step in run.steps(total):
            metrics = dict(evaluate()) if due(step, config.eval_every) else {}
            result = client.forward_backward(batch(step, config.batch_size), "cross_entropy")
            client.optim_step(tinsmith.AdamParams(learning_rate=1e-3 * (1 - step / total)))
            run.save_due(step + 1, client)
            time.sleep(config.seconds)
            run.log_metrics(step, metrics | {"train/nll": loss(result.result()), "time/step": time.time()})
            run.settle(step + 1)
        run.log_metrics(total, evaluate())
        return run.save_final(total, client)


if __name__ == "__main__":
    run_recipe(main, Config, "toy")
