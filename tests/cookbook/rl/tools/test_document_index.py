"""The index of documents: what is found and in which order, whatever a query holds, from several threads."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.cookbook.rl.tools.document_index import Document, DocumentIndex
from tinsmith.types.errors import UserError

DOCUMENTS = [
    Document("Anna has the red key in the garden."),
    Document("Ben has the blue key in the house.", "Ben"),
    Document("Über den Wolken", "clouds"),
    Document("the same"),
    Document("the same"),
]
INDEX = DocumentIndex(DOCUMENTS)


def test_the_best_comes_first_and_of_equals_the_first() -> None:
    assert INDEX.search("Who has the RED key?", 2) == DOCUMENTS[:2]
    assert INDEX.search("uber") == INDEX.search("clouds") == [DOCUMENTS[2]]
    assert INDEX.search("Ben") == [DOCUMENTS[1]]
    assert INDEX.search("same", 1)[0] is not DOCUMENTS[3]
    assert [found.text for found in INDEX.search("same")] == ["the same", "the same"]
    assert len(INDEX.search("the", 3)) == 3
    assert INDEX.search("nobody") == []
    assert len(INDEX) == 5


@given(st.text(max_size=60) | st.lists(st.sampled_from(["OR", "NOT", "NEAR(", '"', "*", "^", "key", ":", "-", "\0"])))
def test_whatever_a_query_holds_it_is_words(query: Any) -> None:
    query = query if isinstance(query, str) else " ".join(query)
    found = INDEX.search(query, 10)
    assert set(found) <= set(DOCUMENTS)
    if "key" in query.split():
        assert DOCUMENTS[0] in found


def test_a_query_of_many_words_is_cut() -> None:
    assert INDEX.search(" ".join(f"w{i}" for i in range(50)) + " red " + "x " * 10_000, 1) == [DOCUMENTS[0]]
    assert INDEX.search(" ".join(f"w{i}" for i in range(5000)) + " red") == []


def test_it_can_be_searched_from_many_threads() -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: INDEX.search("red key", 1), range(300)))
    assert found == [[DOCUMENTS[0]]] * 300


def test_no_documents_and_no_full_text_search_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="documents: got 'none', expected at least one"):
        DocumentIndex([])

    class Without(sqlite3.Connection):
        def execute(self, *given: Any) -> Any:
            raise sqlite3.OperationalError("no such module: fts5")

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **options: connect(name, factory=Without, **options))
    with pytest.raises(
        UserError, match=r"SQLite .* of this Python has no full-text search .*no such module: fts5.*FTS5"
    ):
        DocumentIndex(DOCUMENTS)
