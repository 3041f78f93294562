"""`DocumentIndex`: full-text search over documents, in SQLite (FTS5), inside the process."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from tinsmith.types.errors import UserError, invalid

_WORD = re.compile(r"\w+")
# SQLite refuses longer expressions; nobody searches for more on purpose.
_MOST_WORDS = 100


@dataclass(frozen=True)
class Document:
    """What can be found.

    Attributes:
        text: what it says.
        title: what it is called; searched, too.
    """

    text: str
    title: str = ""


class DocumentIndex:
    """Documents that can be searched by their words.

    Found is what holds at least one of the words; the best by BM25 (Robertson & Zaragoza 2009, equation 3.15; k1 1.2,
    b 0.75) comes first, of equals the one that was given first. Capitals and accents make no difference. The index is a
    file that SQLite keeps in its temporary folder and removes at the end; what fits stays in memory. It may be used
    from several threads.

    Args:
        documents: at least one.

    Raises:
        UserError: there are no documents, or this Python's SQLite has no FTS5.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self._lock = threading.Lock()
        # The empty name is that of a database on disk that is nobody else's.
        self._database = sqlite3.connect("", check_same_thread=False)
        try:
            self._database.execute("CREATE VIRTUAL TABLE documents USING fts5(title, text)")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"documents: SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error}), "
                "expected one that was built with FTS5, as those of python.org, conda and Debian are"
            ) from None
        with self._database:
            self._database.executemany(
                "INSERT INTO documents (title, text) VALUES (?, ?)", ((one.title, one.text) for one in documents)
            )
        (self._count,) = self._database.execute("SELECT count(*) FROM documents").fetchone()
        if not self._count:
            raise invalid("documents", "none", "at least one")

    def __len__(self) -> int:
        return self._count

    def search(self, query: str, limit: int = 3) -> list[Document]:
        """Return the documents that fit a query best.

        Args:
            query: words; any other character only parts them. The first 100 count.
            limit: how many at most.

        Returns:
            The best first; none where no word is found.
        """
        words = list(dict.fromkeys(_WORD.findall(query)))[:_MOST_WORDS]
        if not words or limit < 1:
            return []
        # In quotes a word is a word, also where it spells an operator: OR, NOT, NEAR.
        expression = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            rows = self._database.execute(
                "SELECT text, title FROM documents WHERE documents MATCH ? ORDER BY rank, rowid LIMIT ?",
                (expression, limit),
            ).fetchall()
        return [Document(text, title) for text, title in rows]
