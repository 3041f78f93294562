"""Readers of files and data sets, each a sequence of rows: `jsonl_rows` (whole JSON documents by `json_documents`),
`csv_rows` and `parquet_rows` (columns by `table_columns`), `hub_rows`. `file_kinds` says what a file is.
"""
