"""What a request becomes, one module per kind: training, sampling, saving, creation, importing, sessions, closing.

`intake/` is the way that all of them take; `provenance` and `references` look up what a training request names,
`waiting` says why there is no outcome yet.
May import `engine_link/`, `store/` and `state/`; knows nothing of routes.
"""
