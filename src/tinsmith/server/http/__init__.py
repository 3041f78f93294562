"""The service on HTTP: `app` (the ASGI app), `listener` (a TCP port), `routes/` (one module per resource).

`error_answers` words faults, `json_results` serves clients without protobuf. May import every other room.
"""
