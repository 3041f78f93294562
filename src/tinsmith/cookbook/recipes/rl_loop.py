"""Reinforcement learning in one loop, with nothing between you and the API.

    python -m tinsmith.cookbook.recipes.rl_loop
    python rl_loop.py model_name=Qwen/Qwen3-8B env=gsm8k group_size=64 max_tokens=512

Without arguments the embedded model learns to add. Start with meta-llama/Llama-3.1-8B for work of your own. A run that
was stopped carries on when it is started again with the same log_path. For held-out problems, other losses,
environments of many turns and sampling that runs ahead of training take `rl_basic.py`.
"""

import time
from statistics import fmean

import chz
import numpy as np

import tinsmith
from tinsmith.cookbook import model_info, renderers
from tinsmith.cookbook.grading import extract_boxed, has_boxed, safe_grade
from tinsmith.cookbook.problems import load_problems
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.rows.default_sizes import rows_per_batch
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.utils import at_least, recommended_rl_lr


# Step 1: Configuration. Every field can be set on the command line: batch_size=64. RunConfig has those that all
# recipes share: model_name, base_url, log_path, learning_rate, lora_rank=32, save_every, wandb_project, ...
@chz.chz
class Config(RunConfig):
    env: str = chz.field(
        default="arithmetic", doc="arithmetic, gsm8k, math, or a JSONL file of problem and answer; see math_rl"
    )
    batch_size: int | None = chz.field(
        default=None, validator=at_least(1), doc="problems per step; None: 16, or fewer where 10 batches are not filled"
    )
    group_size: int = chz.field(default=16, validator=at_least(2), doc="answers to each, which are compared")
    max_tokens: int = chz.field(default=256, validator=at_least(1), doc="longest answer")
    epochs: int = chz.field(default=1, validator=at_least(1), doc="how often the problems are gone through")


def question(problem: str) -> dict[str, str]:
    return {"role": "user", "content": problem + " Write in \\boxed{}."}


def grade(said: str, answer: str) -> tuple[bool, bool]:
    return safe_grade(extract_boxed(said), answer), has_boxed(said)


def to_datum(prompt: tinsmith.ModelInput, sequence: tinsmith.SampledSequence, advantage: float) -> tinsmith.Datum:
    # The ids that were sampled, never their text encoded again: each has to keep its own logprob. Position i predicts
    # token i + 1; where it predicts the prompt, there is no advantage and so no gradient.
    tokens, read = prompt.to_ints() + sequence.tokens, [0.0] * (prompt.length - 1)
    return tinsmith.Datum(
        model_input=tinsmith.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "logprobs": read + (sequence.logprobs or []),
            "advantages": read + [advantage] * len(sequence.tokens),
        },
    )


def main(config: Config) -> None:
    # Step 2: Setup. The run owns the log path; the renderer turns questions into tokens, and tokens into answers.
    problems = load_problems(config.env, seed=config.seed)
    train_problems = problems.train  # the others are held out, for rl_basic to ask
    with Run(config, "rl_loop", free=("epochs",)) as run:
        run.hold("problems", problems.facts())  # taken up again with other problems, it would be another run
        service_client = run.service_client()
        tokenizer = service_client.get_tokenizer(config.model_name)
        renderer_name = config.renderer_name or model_info.get_recommended_renderer_name(config.model_name, tokenizer)
        renderer = renderers.get_renderer(renderer_name, tokenizer)
        batch_size = rows_per_batch(config.batch_size, len(train_problems), usual=16, what="problems")
        batch_size = min(batch_size, len(train_problems))
        n_batches_per_epoch = len(train_problems) // batch_size  # problems that fill no batch are left out
        n_train_batches = config.max_steps or config.epochs * n_batches_per_epoch
        learning_rate = config.learning_rate or recommended_rl_lr(config.model_name)
        adam_params = tinsmith.AdamParams(learning_rate=learning_rate, beta1=0.9, beta2=0.95, eps=1e-8)
        if run.is_finished(n_train_batches):
            return
        run.announce(n_train_batches, learning_rate, {"problems": len(train_problems), "renderer": renderer_name})

        # Step 3: The training client: a new adapter, or the one of where the run stopped.
        training_client = run.training_client()

        # Step 4: The training loop, from the first batch that is not done yet.
        for batch_idx in run.steps(n_train_batches):
            started = time.perf_counter()
            epoch, position = divmod(batch_idx, n_batches_per_epoch)
            order = seeded("items", config.seed, epoch).permutation(
                len(train_problems)
            )  # a resumed run has the same one
            batch = [train_problems[i] for i in order[position * batch_size : (position + 1) * batch_size]]

            # Sample from the weights as they are. All groups are submitted before the first of them is waited for, so
            # that the service draws them side by side.
            sampling_client = training_client.save_weights_and_get_sampling_client()
            prompts = [renderer.build_generation_prompt([question(problem.problem)]) for problem in batch]
            sample_futures = [
                sampling_client.sample(
                    prompt,
                    num_samples=config.group_size,
                    sampling_params=tinsmith.SamplingParams(
                        max_tokens=config.max_tokens,
                        temperature=1.0,
                        stop=renderer.get_stop_sequences(),
                        seed=derived_seed(derived_seed(config.seed, batch_idx, place), "first"),  # those of rl_basic
                    ),
                )
                for place, prompt in enumerate(prompts)
            ]

            # Grade, and compare within each group: what did better than its group's mean is made more likely.
            datums, spoken, graded = [], [], []
            for problem, prompt, sample_future in zip(batch, prompts, sample_futures, strict=True):
                sequences = sample_future.result().sequences
                answers = [renderer.parse_response(sequence.tokens)[0] for sequence in sequences]
                grades = [grade(renderers.get_text_content(answer), problem.answer) for answer in answers]
                rewards = [correct + 0.1 * boxed for correct, boxed in grades]
                graded += [(*each, reward) for each, reward in zip(grades, rewards, strict=True)]
                if len(set(rewards)) == 1:
                    continue  # nothing to tell apart: all advantages are zero
                for sequence, reward in zip(sequences, rewards, strict=True):
                    datums.append(to_datum(prompt, sequence, reward - fmean(rewards)))
                    spoken.append(sequence.logprobs)
            correct, boxed, reward = np.mean(graded, axis=0)
            metrics = {"env/correct": correct, "env/format": boxed, "env/reward": reward, "train/examples": len(datums)}

            # Both are submitted before either is waited for, so that the service is never idle in between.
            if datums:
                fwd_bwd_future = training_client.forward_backward(datums, loss_fn="importance_sampling")
                optim_step_future = training_client.optim_step(adam_params)
            run.save_due(batch_idx + 1, training_client)
            if datums:
                outputs, optim_result = fwd_bwd_future.result().loss_fn_outputs, optim_step_future.result()
                learner = [out["logprobs"].to_numpy()[-len(q) :] for out, q in zip(outputs, spoken, strict=True)]
                q, p = np.concatenate(spoken), np.concatenate(learner)
                metrics |= {"train/kl_sampler_learner": (q - p).mean(), "rollout/entropy": -q.mean()}
                metrics |= {f"optim/{name}": value for name, value in (optim_result.metrics or {}).items()}
            metrics |= {"learning_rate": learning_rate, "time/step": time.perf_counter() - started}
            run.log_metrics(batch_idx, metrics)
            run.settle(batch_idx + 1)  # records the checkpoint of this step, if one was due
        run.save_final(n_train_batches, training_client)


if __name__ == "__main__":
    run_recipe(main, Config, "rl_loop")
