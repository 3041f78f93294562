"""What was noticed about rows while they were checked: said once in a run's header, or as one warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tinsmith.cookbook.notices import tell_once, warn_once

# Names that are told; a table of a hundred columns should not fill the header.
_TOLD = 12


def tell_facts(name: str, facts: Mapping[str, object]) -> None:
    """Log, once, what a header would say of rows, where no header of theirs is written."""
    for fact, told in facts.items():
        tell_once(f"{fact} of {name}", f"{name}: {fact}: {told}")


class Spelled(NamedTuple):
    """A control token that somebody spelled in a row: its field, the token, and what becomes of it."""

    field: str
    token: str
    remedy: str


@dataclass
class _OfARow:
    format: str | None = None
    unused: dict[str, None] = field(default_factory=dict[str, None])
    spelled: Spelled | None = None


class RowNotes:
    """Collects notes row by row; those of a row that fails are dropped with it.

    Attributes:
        place: of the row that is being checked.
    """

    def __init__(self) -> None:
        self.place = ""
        self._row = _OfARow()
        self._formats: Counter[str] = Counter()
        self._unused: dict[str, None] = {}
        self._spelled: tuple[str, Spelled] | None = None
        self._spelling = 0

    def begin(self, place: str) -> None:
        """Begin a row."""
        self.place = place
        self._row = _OfARow()

    @property
    def format(self) -> str | None:
        """The format that the row came in, where it is not ours."""
        return self._row.format

    def converted(self, name: str) -> None:
        """Note that the row came in another format."""
        self._row.format = name

    def unused(self, key: str) -> None:
        """Note a key that nothing is done with."""
        self._row.unused[key] = None

    def spelled(self, found: Spelled) -> None:
        """Note a control token that the row spells; the first of a row is told."""
        self._row.spelled = self._row.spelled or found

    def commit(self) -> None:
        """Keep the notes of the row, which has passed."""
        row = self._row
        if row.format is not None:
            self._formats[row.format] += 1
        if row.unused:
            self._unused.update(row.unused)
        if row.spelled is not None:
            self._spelling += 1
            self._spelled = self._spelled or (self.place, row.spelled)

    def facts(self, *, counted: bool = True) -> dict[str, object]:
        """Return what a run's header says of the rows, by name; counts are left out of rows that go on coming."""
        found: dict[str, object] = {}
        if self._formats:
            names = self._formats.items()
            found["converted"] = ", ".join(f"{_rows(count)} of {name}" if counted else name for name, count in names)
        if self._unused:
            names = list(self._unused)
            more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
            found["keys not used"] = ", ".join(names[:_TOLD]) + more
        return found

    def warn(self, name: str) -> None:
        """Warn of control tokens that rows spell.

        Args:
            name: of the data.
        """
        if self._spelled is None:
            return
        place, (field_, token, remedy) = self._spelled
        warn_once(
            f"control tokens in {name}",
            f"data: {_rows(self._spelling)} of {name} with a control token of the model as text; the first, {place}: "
            f"{field_} has {token!r}, which {remedy}",
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
