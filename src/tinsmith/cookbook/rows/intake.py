"""The door of a data source: every row is checked there once, and what cannot be used is counted and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.rows.row_kinds import Row, RowCheck
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import UserError

# Bad rows that are named, of all that there are.
_NAMED = 3


class Intake:
    """Checks the rows of a source while it is opened.

    Args:
        name: of the source.
        check: what every row has to pass.
        skip: whether rows that fail are left out; None where whoever opens the source cannot ask for that.

    Attributes:
        good, bad: rows that passed, and rows that did not.
    """

    def __init__(self, name: str, check: RowCheck, skip: bool | None = None) -> None:
        self.good = self.bad = 0
        self._name = name
        self._check = check
        self._skip = skip
        self._notes = RowNotes()
        self._first: list[tuple[str, str]] = []

    def take(self, place: str, read: Callable[[], Any]) -> Row | None:
        """Return the row that `read` gives as training has it, or None where it cannot be used."""
        self._notes.begin(place)
        try:
            row = self._check(read(), notes=self._notes)
        except UserError as error:
            self.bad += 1
            if len(self._first) < _NAMED:
                # Lists and warnings name the source once.
                self._first.append((place.removeprefix(f"{self._name}, "), str(error)))
            return None
        self._notes.commit()
        self.good += 1
        return row

    def close(self) -> dict[str, object]:
        """Return what a run's header says of the rows; warn of what is left out, and of what looks wrong.

        Raises:
            UserError: there are bad rows and they are not to be left out, or no other rows.
        """
        total = self.good + self.bad
        if self.bad and not (self._skip and self.good):
            raise UserError(self._refusal(total))
        facts = self._notes.facts()
        if self.bad:
            facts["bad rows left out"] = f"{self.bad} of {total}"
            place, error = self._first[0]
            told = f"data: {self.bad} of {total} rows of {self._name} are left out; {place}: {error}"
            warn_once(f"rows of {self._name}", told)
        self._notes.warn(self._name)
        return facts

    def _refusal(self, total: int) -> str:
        place, error = self._first[0]
        if self._skip:
            return f"{self._name}: no row can be trained on; the first, {place}: {error}"
        # Nothing would be left without them.
        hint = self._skip is not None and self.good > 0
        if self.bad == 1:
            return f"{self._name}, {place}: {error}" + (" (skip_bad_rows=true leaves the row out)" if hint else "")
        listed = "".join(f"\n  {place}: {error}" for place, error in self._first)
        more = f"\n  and {self.bad - _NAMED} more" if self.bad > _NAMED else ""
        remedy = "\nskip_bad_rows=true leaves them out" if hint else ""
        return f"{self._name}: {self.bad} of {total} rows cannot be used:{listed}{more}{remedy}"
