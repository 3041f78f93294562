"""What is alive in this process: sessions, training runs and samplers (`live`), operations (`records`, `future_store`).

`notes` is what a record keeps of its request, `tasks` holds background tasks, `prometheus` the gauges. The lowest room
of the server: it imports only `types/`.
"""
