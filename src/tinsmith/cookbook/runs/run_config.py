"""What every recipe takes; recipes add fields of their own in subclasses."""

from __future__ import annotations

from typing import Any

import chz

from tinsmith.cookbook.runs.fields import check_types
from tinsmith.cookbook.utils import at_least, positive
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.paths import CheckpointPath

# Settings that say where and how often, not what is learned; they may change when a run is taken up again.
FREE = frozenset(
    {
        "base_url",
        "log_path",
        "max_steps",
        "eval_every",
        "save_every",
        "rolling_save_every",
        "ttl_seconds",
        "wandb_project",
        "wandb_name",
        "tensorboard",
    }
)


def _checkpoint(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, str):
        CheckpointPath.parse(value, field.removeprefix("X_"))


def _rank(config: Any, field: str) -> None:
    value = getattr(config, field)
    # What the service has slots for. What is no number is for the check of types, which says so better.
    if isinstance(value, int) and not 1 <= value <= 256:
        raise invalid(field.removeprefix("X_"), value, "1 to 256")


@chz.chz
class RunConfig:
    """The settings that all recipes share."""

    model_name: str = chz.field(default=EMBEDDED_MODEL, doc="a name that the service knows, or a checkpoint folder")
    base_url: str | None = chz.field(default=None, doc="the service; None: TINSMITH_BASE_URL, else in this process")
    log_path: str | None = chz.field(
        default=None, doc="folder of the run, which the same command takes up again; None: a new one under ./runs"
    )
    load_checkpoint_path: str | None = chz.field(
        default=None, validator=_checkpoint, doc="tinker:// state whose weights to begin with; None: the base model"
    )
    renderer_name: str | None = chz.field(default=None, doc="chat format, or module:Class; None: the model's own")
    learning_rate: float | None = chz.field(
        default=None, validator=positive, doc="peak rate of Adam; None: the course's formula for the model"
    )
    # The course's: large enough for a steady gradient, small enough for some hundred steps.
    batch_size: int = chz.field(default=128, validator=at_least(1), doc="examples per step")
    lora_rank: int = chz.field(default=32, validator=_rank, doc="rank of the adapter, 1 to 256")
    # None, not the value that it stands for: a checkpoint to begin with has its own, and so has a run from before.
    train_attn: bool | None = chz.field(default=None, doc="adapt the attention projections; None: yes")
    train_mlp: bool | None = chz.field(default=None, doc="adapt the MLP, or the experts; None: yes")
    train_unembed: bool | None = chz.field(
        default=None,
        doc="adapt the output projection (vLLM, SGLang: only merged); None: of the embedded model only",
    )
    max_steps: int | None = chz.field(default=None, validator=at_least(1), doc="steps to do; None: all there are")
    seed: int = chz.field(default=0, doc="of the adapter, of the order of the data and of what is sampled")
    eval_every: int = chz.field(default=10, validator=at_least(0), doc="steps between evaluations; 0: only at the end")
    save_every: int = chz.field(
        default=20, validator=at_least(0), doc="steps between checkpoints that are kept; 0: only at the end"
    )
    rolling_save_every: int = chz.field(
        default=0, validator=at_least(0), doc="steps between states of which only the newest is kept; 0: none"
    )
    ttl_seconds: int | None = chz.field(
        default=None, validator=at_least(1), doc="lifetime of checkpoints but the final one; None: for ever"
    )
    wandb_project: str | None = chz.field(default=None, doc="project of Weights & Biases; None: not used")
    wandb_name: str | None = chz.field(default=None, doc="name of the run there; None: that of its folder")
    tensorboard: bool = chz.field(default=False, doc="write event files for TensorBoard, too")

    # chz checks the types of a command line; what is made in Python would go through as it is.
    @chz.validate
    def _types(self) -> None:
        check_types(self)

    @chz.validate
    def _trains(self) -> None:
        if self.train_attn is False and self.train_mlp is False and not self.train_unembed:
            raise invalid("train_attn, train_mlp", "False, False", "one of them, or train_unembed=True")
