"""What service and engine say to each other: `operations` in, `host_events` out, as frames by `operation_codec`.

`strict_fields` reads them back field by field. Imports only the data of `types/`.
"""
