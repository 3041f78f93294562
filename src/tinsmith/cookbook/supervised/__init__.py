"""Supervised data: `sources` finds rows, `files` reads them, `data` makes datums, `common` shifts and measures NLL."""

from tinsmith.cookbook.supervised.common import compute_mean_nll, datum_from_tokens_weights
from tinsmith.cookbook.supervised.data import conversation_to_datum, row_to_datum, text_to_datum
from tinsmith.cookbook.supervised.files import JsonlRows
from tinsmith.cookbook.supervised.sources import load_rows

__all__ = [
    "JsonlRows",
    "compute_mean_nll",
    "conversation_to_datum",
    "datum_from_tokens_weights",
    "load_rows",
    "row_to_datum",
    "text_to_datum",
]
