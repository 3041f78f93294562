"""The loss on data that are held out."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.batches.loss_metrics import loss_metrics
from tinsmith.cookbook.eval.eval_context import EvalContext
from tinsmith.cookbook.renderers import Renderer, TrainOnWhat
from tinsmith.cookbook.rows.row_kinds import Row
from tinsmith.types.errors import invalid


class NLLEvaluator:
    """Gives the negative log-likelihood of rows: `NAME/nll` in nats per token, and `NAME/bits_per_byte`.

    Nothing is learned from them: they go through `forward`. They are rendered once, at the first evaluation.

    Args:
        rows: of any kind that can be trained on.
        name: what the metrics begin with.
        max_length: tokens kept of a longer example; None keeps all.
        train_on_what: the messages whose tokens count.

    Raises:
        UserError: there are no rows.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        name: str = "test",
        *,
        max_length: int | None = None,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    ) -> None:
        if not len(rows):
            raise invalid("rows", rows, "at least one row")
        self.name = name
        self._rows = rows
        self._max_length = max_length
        self._train_on_what = train_on_what
        self._rendered: tuple[Renderer, Batch] | None = None

    def __call__(self, context: EvalContext) -> dict[str, float]:
        """Measure the weights as they are now.

        Raises:
            UserError: the context has no training client, or no token of the rows counts.
        """
        if context.training_client is None:
            raise invalid("training_client", None, "a training client, whose `forward` gives the logprobs")
        batch = self._batch(context)
        # All rows in one call: the SDK cuts it into requests that fit, and nothing is learned from them.
        outputs = context.training_client.forward(batch.datums, "cross_entropy").result().loss_fn_outputs
        found = loss_metrics(self.name, outputs, batch.datums, batch.trained_bytes)
        if not found:
            raise invalid(f"{self.name} rows", "weight 0 everywhere", "a token that counts")
        return found

    def _batch(self, context: EvalContext) -> Batch:
        # Rendering a few thousand rows takes seconds and gives the same datums at every evaluation of a run.
        if self._rendered is None or self._rendered[0] is not context.renderer:
            batches = Batches(
                self._rows,
                context.renderer,
                context.tokenizer,
                # One batch of all of them: its order is another one than theirs, which a mean does not mind.
                batch_size=len(self._rows),
                max_length=self._max_length,
                train_on_what=self._train_on_what,
            )
            batches.context_length = context.context_length
            self._rendered = (context.renderer, batches.get(0))
        return self._rendered[1]
