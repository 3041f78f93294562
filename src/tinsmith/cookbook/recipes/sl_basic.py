"""Supervised fine-tuning with all that the trainer has: schedule, held-out loss, sampled answers, transcripts.

    python -m tinsmith.cookbook.recipes.sl_basic
    python sl_basic.py model_name=Qwen/Qwen3-8B data=conversations.jsonl held_out=200 log_path=runs/mine

Without arguments the embedded model learns pig latin, and words it never trained on say how well. The loop itself is
`training/training_loop.py`, a step of it `supervised/trainer.py`; `sl_loop.py` is the same without any of it, to be
read first.
"""

from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval import AccuracyEvaluator, Evaluator
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import train
from tinsmith.cookbook.words import MAX_LENGTH

TEST_WORDS = 200
# A word of the longest length, "ay" and the end of the turn, in a vocabulary of letters.
_ANSWER_TOKENS = MAX_LENGTH + 4


def evaluators_of(config: SupervisedConfig) -> list[Evaluator]:
    """Return what is measured beside the loss on held-out rows, which the trainer adds where `held_out` asks for it."""
    # Of data of one's own nobody here knows what is right.
    if config.data is not None:
        return []
    words = pig_latin.draw_words("held_out", TEST_WORDS, config.seed)
    return [AccuracyEvaluator(pig_latin.rows(words), name="pig_latin", max_tokens=_ANSWER_TOKENS)]


def main(config: SupervisedConfig) -> None:
    """Train, evaluate and save.

    Raises:
        UserError: a setting or a row cannot be used.
        TinsmithError: the service failed.
    """
    train(config, "sl_basic", evaluators=evaluators_of(config))


if __name__ == "__main__":
    run_recipe(main, SupervisedConfig, "sl_basic")
