"""Supervised fine-tuning in one loop, with nothing between you and the API.

    python -m tinsmith.cookbook.recipes.sl_loop
    python sl_loop.py model_name=Qwen/Qwen3-8B data=conversations.jsonl learning_rate=5e-5

Without arguments it shows the embedded model pig latin. Start with meta-llama/Llama-3.1-8B for work of your own.
A run that was stopped carries on when it is started again with the same log_path. For a held-out loss, schedules,
evaluators of your own and transcripts take `sl_basic.py`.
"""

import time

import chz

import tinsmith
from tinsmith.cookbook import model_info, renderers
from tinsmith.cookbook.rows.sources import load_conversations
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.supervised import compute_mean_nll, conversation_to_datum
from tinsmith.cookbook.utils import at_least, positive, recommended_lr


# Step 1: Configuration. Every field can be set on the command line: batch_size=64. RunConfig has those that all
# recipes share: model_name, base_url, log_path, batch_size=128, lora_rank=32, save_every, wandb_project, ...
@chz.chz
class Config(RunConfig):
    data: str | None = chz.field(
        default=None,
        doc='JSONL, Parquet or CSV of {"messages": [...]}; or a hub data set, or a mixture; None: pig latin',
    )
    learning_rate: float | None = chz.field(
        default=1e-4, validator=positive, doc="of Adam; None: the course's formula for the model"
    )
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the data are gone through")
    train_on_what: renderers.TrainOnWhat = chz.field(
        default=renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES, doc="which messages are learned"
    )
    max_length: int | None = chz.field(
        default=None, validator=at_least(2), doc="longer examples are cut to so many tokens; None: whole"
    )
    skip_bad_rows: bool = chz.field(default=False, doc="leave out rows of a file that cannot be used; they are counted")


def main(config: Config) -> None:
    # Step 2: Setup. The run owns the log path; the renderer turns conversations into tokens, and weights that say which
    # of them to learn.
    with Run(config, "sl_loop", free=("epochs",)) as run:
        service_client = run.service_client()
        tokenizer = service_client.get_tokenizer(config.model_name)
        renderer_name = config.renderer_name or model_info.get_recommended_renderer_name(config.model_name, tokenizer)
        renderer = renderers.get_renderer(renderer_name, tokenizer)
        rows = load_conversations(
            config.data, config.seed, renderer, config.train_on_what, skip_bad_rows=config.skip_bad_rows
        )
        run.hold("data", rows.facts())  # taken up again with other data, it would be another run
        batch_size = min(config.batch_size, rows.epoch_size)
        n_batches_per_epoch = rows.epoch_size // batch_size  # rows that fill no batch are left out
        n_train_batches = config.max_steps or config.epochs * n_batches_per_epoch
        learning_rate = config.learning_rate or recommended_lr(config.model_name)
        adam_params = tinsmith.AdamParams(learning_rate=learning_rate, beta1=0.9, beta2=0.95, eps=1e-8)
        if run.is_finished(n_train_batches):
            return
        facts = {"rows": len(rows), "renderer": renderer_name, **rows.remarks()}
        run.announce(n_train_batches, learning_rate, facts)

        # Step 3: The training client: a new adapter, or the one of where the run stopped.
        training_client = run.training_client()
        context_length = training_client.get_info().model_data.context_length
        limits = (config.max_length, context_length and context_length + 1)  # the last token is predicted, not read
        max_length = min((limit for limit in limits if limit), default=None)

        # Step 4: The training loop, from the first batch that is not done yet.
        for batch_idx in run.steps(n_train_batches):
            started = time.perf_counter()
            epoch, position = divmod(batch_idx, n_batches_per_epoch)
            order = rows.order(config.seed, epoch)  # of seed and epoch alone, so that a resumed run has the same one
            batch_rows = [rows[int(i)] for i in order[position * batch_size : (position + 1) * batch_size]]
            batch = [
                conversation_to_datum(
                    row["messages"], renderer, max_length, config.train_on_what, tools=row.get("tools")
                )
                for row in batch_rows
            ]

            # Both are submitted before either is waited for, so that the service is never idle in between.
            fwd_bwd_future = training_client.forward_backward(batch, loss_fn="cross_entropy")
            optim_step_future = training_client.optim_step(adam_params)
            run.save_due(batch_idx + 1, training_client)
            fwd_bwd_result = fwd_bwd_future.result()
            optim_result = optim_step_future.result()

            logprobs = [output["logprobs"] for output in fwd_bwd_result.loss_fn_outputs]
            weights = [datum.loss_fn_inputs["weights"] for datum in batch]
            metrics = {
                "train/nll": compute_mean_nll(logprobs, weights),
                "train/tokens": sum(datum.model_input.length for datum in batch),
                "learning_rate": learning_rate,
                "time/step": time.perf_counter() - started,
                **{f"optim/{name}": value for name, value in (optim_result.metrics or {}).items()},
            }
            run.log_metrics(batch_idx, metrics)
            run.settle(batch_idx + 1)  # records the checkpoint of this step, if one was due
        run.save_final(n_train_batches, training_client)


if __name__ == "__main__":
    run_recipe(main, Config, "sl_loop")
