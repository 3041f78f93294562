"""Supervised learning: `train` with its `config`, `pages` for its transcripts, `viewer` to look at data beforehand.

Rows and batches lie below, in `cookbook/rows` and `cookbook/batches`; what scripts need of them is imported from here.
`common` and `data` are modules of the hosted service's cookbook, for scripts that import from them.
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
from tinsmith.cookbook.batches.batch import Batch, Batches
from tinsmith.cookbook.batches.datums import datum_from_tokens_weights
from tinsmith.cookbook.batches.examples import conversation_to_datum, row_to_datums, text_to_datum
from tinsmith.cookbook.batches.held_out import split_held_out
from tinsmith.cookbook.batches.loss_metrics import compute_mean_nll
from tinsmith.cookbook.rows.files.jsonl_rows import JsonlRows
from tinsmith.cookbook.rows.mixture import Mixture
from tinsmith.cookbook.rows.row_kinds import Row, check_row
from tinsmith.cookbook.rows.row_stream import RowStream
from tinsmith.cookbook.rows.sources import load_rows

__all__ = [
    "Batch",
    "Batches",
    "JsonlRows",
    "Mixture",
    "Row",
    "RowStream",
    "check_row",
    "compute_mean_nll",
    "conversation_to_datum",
    "datum_from_tokens_weights",
    "load_rows",
    "row_to_datums",
    "split_held_out",
    "text_to_datum",
]
