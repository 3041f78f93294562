"""Rows to datums, and datums to batches by number.

`examples` renders a row, `datums` shifts and cuts what was rendered, `epoch_plan` and `stream_plan` choose the rows
of a batch, `batch` is all of it; `held_out` splits rows, `loss_metrics` and `token_bytes` say what a batch came to.
"""
