"""What a request becomes, one module per kind: training, sampling, saving, creation, importing, sessions, closing.

`bodies` and `upload` read it, `model_order` gives it its place, `intake` stores and acknowledges it; `provenance` and
`references` look up what a training request names.
May import `engine_link/`, `store/` and `state/`; knows nothing of routes.
"""
