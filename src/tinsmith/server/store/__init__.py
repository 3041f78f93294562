"""What is on disk: `db/`, `migrations/`, the `journal` with its `blobs`, checkpoints, listings, keys, base models.

`operation_rows` is the form of the journal's rows, `data_folder` and `folder_lock` are the data folder, `earlier_life`
reads back what an earlier process left, and `core` opens all of it for those above. May import `state/`; knows nothing
of requests or of the engine.
"""
