"""Supervised fine-tuning in one loop, with nothing between you and the API.

    python -m tinsmith.cookbook.recipes.sl_loop
    python sl_loop.py model_name=Qwen/Qwen3-8B data=conversations.jsonl learning_rate=5e-5

Without arguments it teaches the embedded model pig latin. Start with meta-llama/Llama-3.1-8B for work of your own.
A run that was stopped carries on when it is started again with the same log_path.
"""

import functools
import logging
import random
import time

import chz

import tinsmith
from tinsmith.cookbook import model_info, renderers
from tinsmith.cookbook.run_log import RunLog
from tinsmith.cookbook.supervised import compute_mean_nll, load_rows, row_to_datum
from tinsmith.cookbook.tokenizer_utils import get_tokenizer
from tinsmith.cookbook.utils import at_least, check_plan, get_lr, positive


# Step 1: Configuration. Every field can be set on the command line: batch_size=64
@chz.chz
class Config:
    model_name: str = chz.field(default="tinsmith-tiny", doc="a name that the service knows, or a checkpoint folder")
    base_url: str | None = chz.field(default=None, doc="the service; None: TINSMITH_BASE_URL, else in this process")
    data: str | None = chz.field(
        default=None, doc='JSONL of {"messages": [...]} or {"text": ...}, or a hub data set; None: pig latin'
    )
    batch_size: int = chz.field(default=128, validator=at_least(1), doc="conversations per step")
    learning_rate: float | None = chz.field(default=1e-4, validator=positive, doc="None: get_lr(model_name)")
    lora_rank: int = chz.field(default=32, validator=at_least(1), doc="rank of the adapter, 1 to 256")
    train_on_what: renderers.TrainOnWhat = chz.field(
        default=renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES, doc="which messages are learned"
    )
    max_length: int | None = chz.field(
        default=None, validator=at_least(2), doc="longer examples are cut to so many tokens; None: whole"
    )
    renderer_name: str | None = chz.field(default=None, doc="chat format; None: the model's own")
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the data are gone through")
    max_steps: int | None = chz.field(default=None, validator=at_least(1), doc="steps to do, whatever epochs says")
    seed: int = chz.field(default=0, doc="of the adapter and of the order of the data")
    log_path: str | None = chz.field(default=None, doc="folder of the run; None: a new one under ./runs")
    save_every: int = chz.field(default=20, validator=at_least(0), doc="steps between saved states; 0: only at the end")


# Settings that may change when a run is taken up again.
FREE = ("base_url", "epochs", "max_steps", "log_path", "save_every")


@functools.lru_cache(maxsize=1)
def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch goes through the rows."""
    order = list(range(count))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order


def main(config: Config) -> None:
    # Step 2: Setup. The renderer turns conversations into tokens, and weights that say which tokens to learn.
    service_client = tinsmith.ServiceClient(base_url=config.base_url)  # which also knows the tokenizers of its models
    tokenizer = get_tokenizer(config.model_name)
    renderer_name = config.renderer_name or model_info.get_recommended_renderer_name(config.model_name, tokenizer)
    renderer = renderers.get_renderer(renderer_name, tokenizer)
    rows = load_rows(config.data, config.seed, renderer)
    batch_size = min(config.batch_size, len(rows))
    batches_per_epoch = len(rows) // batch_size  # the rest of an epoch, less than a batch, is left out
    n_train_batches = config.epochs * batches_per_epoch if config.max_steps is None else config.max_steps
    learning_rate = get_lr(config.model_name) if config.learning_rate is None else config.learning_rate
    adam_params = tinsmith.AdamParams(learning_rate=learning_rate, beta1=0.9, beta2=0.95, eps=1e-8)
    check_plan(config.model_name, learning_rate, n_train_batches)
    print(
        f"{len(rows)} rows, {n_train_batches} steps of {batch_size}, renderer {renderer_name}, rate {learning_rate:g}"
    )
    log = RunLog(config.log_path, "sl_loop", chz.asdict(config), free=FREE)
    print(f"run: {log.path}")
    if log.is_finished(n_train_batches):
        print(f"the run in {log.path} is finished; set epochs or max_steps higher, or choose another log_path")
        return

    # Step 3: Create the training client, from where the run stopped if there is such a place.
    if log.last_state:
        start_batch = log.last_state.step
        training_client = service_client.create_training_client_from_state_with_optimizer(log.last_state.path)
        print(f"carrying on after step {start_batch}, from {log.last_state.path}")
    else:
        start_batch = 0
        training_client = service_client.create_lora_training_client(
            base_model=config.model_name, rank=config.lora_rank, seed=config.seed
        )

    def save_state(steps: int) -> None:
        path = training_client.save_state(f"{steps:06d}").result().path
        log.log_state(steps, path)

    # Step 4: The training loop.
    for batch_idx in range(start_batch, n_train_batches):
        started = time.perf_counter()
        epoch, position = divmod(batch_idx, batches_per_epoch)
        chosen = shuffled(len(rows), config.seed, epoch)[position * batch_size : (position + 1) * batch_size]
        batch = [
            row_to_datum(rows[index], renderer, tokenizer, config.max_length, config.train_on_what) for index in chosen
        ]

        # Both operations are submitted before either is waited for, so that the service is never idle in between.
        fwd_bwd_future = training_client.forward_backward(batch, loss_fn="cross_entropy")
        optim_step_future = training_client.optim_step(adam_params)
        fwd_bwd_result = fwd_bwd_future.result()
        optim_result = optim_step_future.result()

        metrics = {
            "nll": compute_mean_nll(
                [output["logprobs"] for output in fwd_bwd_result.loss_fn_outputs],
                [datum.loss_fn_inputs["weights"] for datum in batch],
            ),
            "tokens": sum(datum.model_input.length for datum in batch),
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - started,
            **{f"optim/{name}": value for name, value in (optim_result.metrics or {}).items()},
        }
        log.log_metrics(batch_idx, metrics)
        print(
            f"step {batch_idx + 1}/{n_train_batches}  nll {metrics['nll']:.4f}  {metrics['seconds']:.2f} s", flush=True
        )
        if config.save_every and (batch_idx + 1) % config.save_every == 0 and batch_idx + 1 < n_train_batches:
            save_state(batch_idx + 1)

    if start_batch < n_train_batches:
        save_state(n_train_batches)
    sampler_path = training_client.save_weights_for_sampler(f"final-{n_train_batches:06d}").result().path
    log.log_sampler(n_train_batches, sampler_path)
    where = f" --base-url {config.base_url}" if config.base_url else ""
    print(f"saved {sampler_path}\nchat with it: tinsmith chat {sampler_path}{where}")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # offline it logs every try; we say it once
    try:
        chz.nested_entrypoint(main, allow_hyphens=True)
    except (tinsmith.UserError, tinsmith.TinsmithError) as error:
        raise SystemExit(f"sl_loop: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("sl_loop: stopped; the same settings with log_path= of this run carry on") from None
