"""Adapters in memory: `slots` (where weights lie, each by its `layouts`), `trained_adapters` (masters, gradients,
moments), `snapshots`, `references` (what preferences are measured against).

`optimizer` steps them. The lowest room of the engine: it imports only `types/`.
"""
