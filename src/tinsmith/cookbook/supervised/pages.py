"""Training examples on a page of a transcript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.runs.transcripts.transcript import Transcript
from tinsmith.cookbook.token_text import token_texts
from tinsmith.types.datum import Datum
from tinsmith.types.tensor import TensorData


def show_examples(
    page: Transcript,
    tokenizer: Any,
    datums: Sequence[Datum],
    outputs: Sequence[Mapping[str, TensorData]],
    count: int = 3,
) -> None:
    """Show the tokens of the first examples of a batch, with weights and logprobs.

    Args:
        page: takes a heading and the examples.
        tokenizer: spells the tokens.
        datums: of the batch.
        outputs: of `forward_backward`, one per datum.
        count: examples to show.
    """
    page.heading(f"Training examples: {min(count, len(datums))} of {len(datums)}")
    for datum, output in list(zip(datums, outputs, strict=True))[:count]:
        # [T]: the first input, and the T - 1 targets.
        tokens = [datum.model_input.to_ints()[0], *datum.loss_fn_inputs["target_tokens"].tolist()]
        # Nothing predicts the first token.
        page.tokens(
            token_texts(tokenizer, tokens),
            weights=[0.0, *datum.loss_fn_inputs["weights"].tolist()],
            logprobs=[None, *output["logprobs"].tolist()],
            ids=tokens,
        )
