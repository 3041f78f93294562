"""A page of a listing: which part of it a client wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select

from tinsmith.types.responses import Cursor

Query = TypeVar("Query", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Paging:
    """At most `limit` rows, after the first `offset` ones."""

    limit: int
    offset: int

    def of(self, query: Query) -> Query:
        """Return a query's rows of this page only."""
        return query.limit(self.limit).offset(self.offset)

    def cursor(self, total: int) -> Cursor:
        """Return what the answer says about the page and the whole."""
        return Cursor(offset=self.offset, limit=self.limit, total_count=total)
