"""What is on disk: `db/`, `migrations/`, the `journal/`, checkpoints, listings, keys, base models.

`data_folder` and `folder_lock` are the data folder, `earlier_life` reads back what an earlier process left, and `core`
opens all of it for those above. May import `state/`; knows nothing of requests or of the engine.
"""
