"""What all kinds of requests go through: read, placed in the order of their model, stored, acknowledged.

`bodies` and `upload` read a request, `limits` says what its key may take, `model_order` gives it its place, `intake`
stores and acknowledges it.
"""
