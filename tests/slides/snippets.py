"""The code of the course slides "Introduction to Tinker", word for word, and how it is run here.

The import name is replaced, `...` is filled in where a slide leaves something out, and nothing else.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from typing import Any

CORE_API = """
# Training step
forward_backward(data, loss_fn)  # Compute gradients
optim_step()                      # Update weights

# Sampling
sample(prompts, params)           # Generate text

# Checkpointing
save_weights_for_sampler()        # Save for inference
save_state() / load_state()       # Full training state
"""

API_CLIENTS = """
from tinker import ServiceClient, TrainingClient

# Service client: manage training sessions
service = ServiceClient()

# Training client: actual training operations
training = TrainingClient(
    model_name="meta-llama/Llama-3.1-8B",
    lora_config={"rank": 32}
)
"""

DATUM = """
from tinker.types import Datum

datum = Datum(
    tokens=[1234, 5678, 9012],      # Token IDs
    targets=[5678, 9012, 3456],     # Next token (shifted)
    weights=[0.0, 0.0, 1.0]         # Loss weight per position
)
"""

BASIC_WORKFLOW = """
# 1. Create clients
training = TrainingClient(model_name="meta-llama/Llama-3.1-8B")

# 2. Prepare data
data = [datum1, datum2, ...]

# 3. Training step
training.forward_backward(data, loss_fn="cross_entropy")
training.optim_step()

# 4. Sample
response = training.sample(prompts=["Hello"], params={...})
"""

TRAIN_ON_WHAT = """
class TrainOnWhat(StrEnum):
    # Only final response
    LAST_ASSISTANT_MESSAGE = "last_assistant_message"

    # All assistant turns (most common)
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"

    # Everything (including user)
    ALL_MESSAGES = "all_messages"

    # No masking
    ALL_TOKENS = "all_tokens"
"""

# The right-hand column of the drawing "The Complete Data Flow".
DATA_FLOW_DATUM = """
tinker.Datum(
    model_input=[...],
    loss_fn_inputs={
        "target_tokens": [...],
        "weights": [0,0,1,1,...]
    }
)
"""

RENDERERS = """
renderer_name = model_info.get_recommended_renderer_name(config.model_name)
renderer = renderers.get_renderer(renderer_name, tokenizer)
"""

FUTURES_PATTERN = """
# Submit request, get future
future = await training.sample_async(prompts, params)

# Later: wait for result
result = await future

# Or combine: double await
result = await (await training.sample_async(prompts, params))
"""

CONFIG = """
@chz.chz
class Config:
    model_name: str = "meta-llama/Llama-3.1-8B"
    batch_size: int = 128
    learning_rate: float = 1e-4
    lora_rank: int = 32
    train_on_what: renderers.TrainOnWhat = ALL_ASSISTANT_MESSAGES
"""

# The slide goes on with `datasets.load_dataset`, which needs the network.
SETUP = """
# Get tokenizer and renderer
tokenizer = get_tokenizer(config.model_name)
renderer = renderers.get_renderer(renderer_name, tokenizer)
"""

TRAINING_CLIENT = """
service_client = tinker.ServiceClient(base_url=config.base_url)

training_client = service_client.create_lora_training_client(
    base_model=config.model_name,
    rank=config.lora_rank
)
"""

TRAINING_LOOP = """
for batch_idx in range(start_batch, n_train_batches):
    # 1. Prepare batch
    batch_rows = train_dataset.select(range(batch_start, batch_end))
    batch = [
        conversation_to_datum(
            row["messages"],      # Raw chat messages
            renderer,             # Converts to tokens + weights
            config.max_length,
            config.train_on_what,
        )
        for row in batch_rows
    ]

    # 2. Forward + backward pass
    fwd_bwd_future = training_client.forward_backward(
        batch, loss_fn="cross_entropy"
    )

    # 3. Optimizer step
    optim_step_future = training_client.optim_step(adam_params)

    # 4. Wait for results
    fwd_bwd_result = fwd_bwd_future.result()
    _optim_result = optim_step_future.result()
"""

ASYNC_PATTERN = """
# Submit both operations (non-blocking)
fwd_bwd_future = training_client.forward_backward(batch, loss_fn="cross_entropy")
optim_step_future = training_client.optim_step(adam_params)

# Then wait (blocking)
fwd_bwd_result = fwd_bwd_future.result()
optim_result = optim_step_future.result()
"""

CROSS_ENTROPY = """
training.forward_backward(
    data=batch,
    loss_fn="cross_entropy"
)
"""

LEARNING_RATE = """
from tinker_cookbook.utils import get_lr
lr = get_lr("meta-llama/Llama-3.1-8B")
"""

ENVIRONMENT = """
class Env:
    def initial_observation(self) -> list[int]:
        \"\"\"Return initial prompt tokens\"\"\"

    def step(self, action: int) -> tuple[list[int], float, bool]:
        \"\"\"
        Args: action (token ID)
        Returns: (observation, reward, done)
        \"\"\"
"""

COMPUTE_REWARD = """
def compute_reward(answer: str) -> float:
    predicted = extract_number(answer)
    reward = 1.0 if predicted == correct else 0.0
    if has_boxed_answer(answer):
        reward += 0.1
    return reward
"""

ROLLOUTS = """
# Sample completions
responses = training.sample(prompts, {"temperature": 1.0})

# Score and create training data
rewards = [compute_reward(r) for r in responses]
data = create_rl_data(responses, rewards, advantages)
"""

IMPORTANCE_SAMPLING = """
training.forward_backward(
    data=batch,
    loss_fn="importance_sampling"
)
"""

TWENTY_QUESTIONS = """
class TwentyQuestionsEnv(Env):
    def step(self, action):
        if is_question(action):
            obs = self.answer_question()
            return obs, 0.0, False  # No reward yet
        else:
            reward = 1.0 if correct_guess() else -1.0
            return [], reward, True  # Episode ends
"""

MATH_ENV = """
class MathEnv(ProblemEnv):
    def get_question(self) -> str:
        return self.problem + " Write in \\\\boxed{}."

    def check_format(self, sample: str) -> bool:
        return has_boxed(sample)

    def check_answer(self, sample: str) -> bool:
        return safe_grade(extract_boxed(sample), self.answer)
"""

# The last lines of the slide "Group-Based Training (GRPO)"; those before are a drawing of a group.
GROUP_ADVANTAGES = """
# Center rewards within the group
# This helps the model learn relative quality
advantages = rewards - mean(rewards)

# Update model: increase probability of high-advantage attempts
"""

DPO_LOSS = """
training.forward_backward(
    data=preference_pairs,
    loss_fn="dpo",
    dpo_beta=0.1  # Temperature parameter
)
"""

PREFERENCE_FORMAT = """
{
    "prompt": "How do I bake a cake?",
    "chosen": "Here's a simple recipe...",
    "rejected": "I don't know."
}
"""

PREFERENCE_MODEL = """
# Compare two completions
reward_a = model(prompt + completion_a)
reward_b = model(prompt + completion_b)

# Loss: Bradley-Terry model
prob_a_better = sigmoid(reward_a - reward_b)
loss = -log(prob_a_better)  # If A was preferred
"""

CHECKPOINTS = """
# For inference only (lightweight)
uri = training.save_weights_for_sampler()

# Full state (for resuming training)
uri = training.save_state()

# Later: load
training.load_state(uri)
"""


def run(code: str, names: dict[str, Any], *filled_in: tuple[str, str]) -> None:
    """Run a snippet in a namespace, which it reads and extends.

    Args:
        code: one of the above.
        names: what the slides before it have defined.
        filled_in: pairs of what a slide leaves out and what stands there instead.
    """
    code = code.replace("tinker_cookbook", "tinsmith.cookbook").replace("tinker", "tinsmith")
    for left_out, text in filled_in:
        assert left_out in code
        code = code.replace(left_out, text)
    compiled = compile(code, "slide", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    running = eval(compiled, names)
    if inspect.isawaitable(running):

        async def drive() -> None:
            await running

        asyncio.run(drive())
