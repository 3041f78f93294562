"""What is on disk: `db/`, `migrations/`, the `journal` with its `blobs`, checkpoints, listings, keys, base models.

`operation_rows` is the form of the journal's rows, `folders` and `folder_lock` are the data folder, `earlier_life`
reads back what an earlier process left.
May import `state/`; knows nothing of requests or of the engine.
"""
