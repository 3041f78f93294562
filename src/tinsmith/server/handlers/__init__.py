"""What a request becomes, one module per kind: training, sampling, saving, creation, importing, sessions, closing.

`bodies` and `upload` read it, `model_order` gives it its place, `intake` stores and acknowledges it.
May import `engine_link/`, `store/` and `state/`; knows nothing of routes.
"""
