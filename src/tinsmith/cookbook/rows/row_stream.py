"""Rows that come one after another and cannot be counted: a data set of the hub that is streamed, any generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck, check_row
from tinsmith.cookbook.rows.row_notes import RowNotes, tell_facts
from tinsmith.cookbook.rows.seeds import seeded
from tinsmith.types.errors import UserError, invalid


class RowStream:
    """Rows of an iterator that can be started anew, shuffled within a buffer.

    Args:
        start: returns a fresh iterator over the same rows in the same order; called once per pass.
        name: of the stream, for messages about its rows.
        shuffle_buffer: rows held at a time, of which one is drawn for the next; 1 keeps the order.
        seed: of the draws; each pass has its own.
        check: what every row has to pass.
        skip: rows at the beginning of each pass that are passed over.
        leave_out: whether a row that fails the check is left out, with a warning at the first, or an error.
    """

    def __init__(
        self,
        start: Callable[[], Iterable[Row]],
        *,
        name: str = "stream",
        shuffle_buffer: int = 1000,
        seed: int = 0,
        check: RowCheck = check_row,
        skip: int = 0,
        leave_out: bool = False,
    ) -> None:
        if shuffle_buffer < 1:
            raise invalid("shuffle_buffer", shuffle_buffer, "at least 1 row")
        self.name = name
        self._start = start
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed
        self._check = check
        self._skip = skip
        self._leave_out = leave_out

    def split(self, count: int) -> tuple[RowStream, list[Row]]:
        """Return the stream without its first `count` rows, and these.

        Raises:
            UserError: there are not more rows than that.
        """
        # One more than asked for, to know that something is left to train on. Unshuffled: the first rows as they come.
        first = [row for _, row in islice(self._checked(), count + 1)]
        if len(first) <= count:
            raise invalid("held_out", count, f"fewer than the {len(first)} rows of {self.name}")
        rest = RowStream(
            self._start,
            name=self.name,
            shuffle_buffer=self._shuffle_buffer,
            seed=self._seed,
            check=self._check,
            skip=self._skip + count,
            leave_out=self._leave_out,
        )
        return rest, first[:count]

    def epoch(self, number: int) -> Iterator[tuple[str, Row]]:
        """Go through the rows once, in the order of pass `number`; yields (place, row) pairs.

        Raises:
            UserError: a row cannot be trained on; names stream and row.
        """
        rng = seeded("stream", self._seed, number)
        buffer: list[tuple[str, Row]] = []
        for found in self._checked():
            if len(buffer) < self._shuffle_buffer:
                buffer.append(found)
                continue
            # One row leaves the buffer for each that comes, as `datasets` shuffles its streams.
            index = rng.randint(len(buffer))
            drawn, buffer[index] = buffer[index], found
            yield drawn
        # The end of the stream: what is still in the buffer, in an order of its own.
        for index in rng.permutation(len(buffer)):
            yield buffer[index]

    def _checked(self) -> Iterator[tuple[str, Row]]:
        passed = 0
        notes = RowNotes()
        for number, row in enumerate(self._start()):
            place = f"{self.name}, row {number}"
            notes.begin(place)
            try:
                checked = self._check(row, notes=notes)
            except UserError as error:
                if not self._leave_out:
                    raise UserError(f"{place}: {error}") from None
                warn_once(f"rows of {self.name}", f"data: {place}, and others like it, are left out; {error}")
                continue
            notes.commit()
            self._tell(notes)
            # Only rows that pass count, so that a held-out split is the same whatever is left out before it.
            if passed >= self._skip:
                yield place, checked
            passed += 1

    def _tell(self, notes: RowNotes) -> None:
        """Say what there is to say of the rows so far: nobody has seen the whole stream when the header is written."""
        notes.warn(self.name)
        tell_facts(self.name, notes.facts(counted=False))
