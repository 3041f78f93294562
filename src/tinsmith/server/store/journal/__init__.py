"""The journal of operations: what is acknowledged is stored before, bulky parts as `blobs`.

`journal` is the database's, `memory_journal` that of a service that dies with its clients, `operation_rows` the form of
a row.
"""
