"""The way to the engine and back: `dispatcher` hands operations over, `events` and `outcomes` take what comes back.

`recovery` rebuilds what an engine lost, from `recovery_points` and the journal; `resting` says which samplers may go.
May import `store/` and `state/`; knows nothing of requests.
"""
