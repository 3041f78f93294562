"""What is alive in this process: sessions, training runs and samplers (`live`), operations (`records`, `future_store`).

`tasks` holds background tasks, `prometheus` the gauges. The lowest room of the server: it imports only `types/`.
"""
