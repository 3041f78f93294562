"""What is on disk: the `folder/`, the `db/` with `migrations/`, the `journal/`, checkpoints, listings, keys, models.

`earlier_life` reads back what an earlier process left, and `core` opens all of it for those above. May import
`state/`; knows nothing of requests or of the engine.
"""
