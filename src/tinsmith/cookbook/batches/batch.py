"""Batches of datums by number: what a training loop asks for at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinsmith.cookbook.batches.datums import cut, shift
from tinsmith.cookbook.batches.epoch_plan import EpochPlan
from tinsmith.cookbook.batches.examples import row_to_examples
from tinsmith.cookbook.batches.stream_plan import StreamPlan
from tinsmith.cookbook.batches.token_bytes import token_bytes
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer, SupervisedExample, TrainOnWhat
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, row_check
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid

ExampleFunction = Callable[[Row], Sequence[SupervisedExample]]


@dataclass
class Batch:
    """The datums of one step.

    Attributes:
        epoch: which pass over the rows it belongs to, from 0.
        rows: what it was made of, in the order of its epoch.
        datums: of the rows, in their order; a row may have several, or none where nothing is left to learn.
        truncated: examples that were longer than `max_length` and cut.
        unlearnable: examples without a weight, or too short to predict a token; the latter have no datum.
        tokens: positions of all datums.
        trained_tokens: sum of all weights.
        trained_bytes: UTF-8 bytes of the text that the tokens with a weight spell; special tokens spell none.
    """

    epoch: int
    rows: list[Row] = field(default_factory=list[Row])
    datums: list[Datum] = field(default_factory=list[Datum])
    truncated: int = 0
    unlearnable: int = 0
    tokens: int = 0
    trained_tokens: float = 0.0
    trained_bytes: int = 0


class Batches:
    """Rows as batches of datums, by number, so that a run that is resumed sees the same ones.

    Args:
        rows: of `load_rows`, or any sequence of rows; a list is checked whole, others row by row as they are rendered.
        renderer, tokenizer: of the model that learns them.
        batch_size: rows per batch; with fewer rows than that, a batch is all of them.
        seed: of the order of the rows, which is another one in each epoch.
        max_length: tokens kept of a longer example; None keeps all.
        train_on_what: which messages are learned.
        drop_last: whether the rest of an epoch that fills no batch is left out (`left_out` says how many rows), or
            becomes a smaller batch.
        examples: makes the examples of a row, of any shape, in place of the renderer; None renders.

    Attributes:
        batch_size: rows per batch.
        per_epoch: batches per epoch; None for a stream, which has no length.
        left_out: rows that each epoch leaves out; None for a stream.
        truncated: examples cut so far.
        unlearnable: examples so far that taught nothing.
        seen: examples so far.
        context_length: tokens that the model reads, once that is known; longer examples are cut, whatever `max_length`.
    """

    def __init__(
        self,
        rows: Sequence[Row] | RowStream,
        renderer: Renderer,
        tokenizer: Any,
        *,
        batch_size: int,
        seed: int = 0,
        max_length: int | None = None,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        drop_last: bool = True,
        examples: ExampleFunction | None = None,
    ) -> None:
        if batch_size < 1:
            raise invalid("batch_size", batch_size, "at least 1")
        if max_length is not None and max_length < 2:
            raise invalid("max_length", max_length, "at least 2 tokens")
        if examples is not None and train_on_what != TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            raise invalid("train_on_what", train_on_what, "the default: `examples` says itself what is learned")
        # Other sequences check their rows when they are opened; checking them here would read a whole file once more.
        if examples is None and isinstance(rows, list | tuple):
            _check_all(rows, row_check(renderer, train_on_what))
        if isinstance(rows, RowStream):
            # No seed: a stream brings the one of its own shuffle.
            self._plan = StreamPlan(rows, batch_size, drop_last)
        else:
            self._plan = EpochPlan(as_rows(rows), batch_size, seed, drop_last)
        self.batch_size = self._plan.batch_size
        self.per_epoch = self._plan.per_epoch
        self.left_out = self._plan.left_out
        self._token_bytes = token_bytes(tokenizer)
        self._max_length = max_length
        self._examples = examples or (lambda row: row_to_examples(row, renderer, tokenizer, train_on_what))
        self.seen = self.truncated = self.unlearnable = 0
        self.context_length: int | None = None

    def total_steps(self, epochs: int = 1, max_steps: int | None = None) -> int:
        """Return the steps of a run: `max_steps`, or those of `epochs`.

        Raises:
            UserError: the rows are a stream, and `max_steps` is None.
        """
        if max_steps is not None:
            return max_steps
        if self.per_epoch is None and epochs != 1:
            raise invalid("epochs", epochs, "max_steps in its place: the rows are a stream, which has no length")
        if self.per_epoch is None:
            raise invalid("max_steps", None, "a number of steps: the rows are a stream, which has no length")
        return epochs * self.per_epoch

    def get(self, step: int) -> Batch:
        """Return batch `step`, from 0.

        Raises:
            UserError: a row cannot be rendered, or none of the batch can be learned from; names file and line.
        """
        epoch, chosen = self._plan.get(step)
        batch = Batch(epoch)
        for place, row in chosen:
            self._add(batch, place, row)
        # There is nothing to send, and a step without a datum would count as one that has taught something.
        if not batch.datums:
            expected = "a row with a token to read and one to predict"
            raise invalid(f"{chosen[0][0]}, and all rows of batch {step}", "too few tokens", expected)
        self._warn(batch)
        return batch

    def _add(self, batch: Batch, place: str, row: Row) -> None:
        batch.rows.append(row)
        try:
            examples = [cut(example, self._longest) for example in self._examples(row)]
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        for example, was_cut in examples:
            tokens, weights = example
            self.seen += 1
            batch.truncated += was_cut
            # The first token is never predicted, so its weight counts for nothing.
            batch.unlearnable += not any(weights[1:])
            # One token: nothing predicts it, and it predicts nothing.
            if len(tokens) < 2:
                continue
            datum = shift(example)
            batch.datums.append(datum)
            batch.tokens += len(tokens) - 1
            batch.trained_tokens += sum(weights[1:])
            # [T] ids of the targets that carry weight.
            learned = datum.loss_fn_inputs["target_tokens"].to_numpy()[datum.loss_fn_inputs["weights"].to_numpy() != 0]
            # Ids that a model has beyond its tokenizer's spell nothing.
            batch.trained_bytes += int(self._token_bytes[learned[learned < len(self._token_bytes)]].sum())

    @property
    def _longest(self) -> int | None:
        """Tokens of the longest example; its last one is only predicted, not read."""
        # So an example may have one token more than the model reads.
        context = None if self.context_length is None else self.context_length + 1
        return min((n for n in (self._max_length, context) if n is not None), default=None)

    @property
    def _remedy(self) -> str:
        if self._longest == self._max_length:
            return "raise max_length, or shorten the data"
        return "the model reads no more: shorten the data, or split them"

    def _warn(self, batch: Batch) -> None:
        self.truncated += batch.truncated
        self.unlearnable += batch.unlearnable
        # The bound is part of the cause: once the model's context is known, its own bound is worth a word of its own.
        if batch.truncated:
            warn_once(
                f"truncated at {self._longest}",
                f"max_length: {self.truncated} of {self.seen} examples so far were longer than {self._longest} tokens "
                f"and were cut; {self._remedy}, to learn from whole examples",
            )
        if batch.unlearnable:
            warn_once(
                "all-zero weights",
                f"weights: {self.unlearnable} of {self.seen} examples so far have weight 0 everywhere and teach "
                "nothing; check train_on_what and max_length",
            )


def _check_all(rows: Sequence[Row], check: RowCheck) -> None:
    for index, row in enumerate(rows):
        try:
            check(row, notes=RowNotes())
        except UserError as error:
            raise UserError(f"row {index}: {error}") from None
