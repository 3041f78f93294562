"""What SDK and service call things in HTTP: the common beginning of all routes, media types, headers."""

from __future__ import annotations

API_PREFIX = "/api/v1"

JSON = "application/json"
# Batches, and the results that carry arrays; a client of the protocol takes those in no other form.
PROTOBUF = "application/x-protobuf"
# A file as it is, e.g. an adapter's weights.
BINARY = "application/octet-stream"

# Written as the protocol writes them; HTTP itself makes no difference between large and small letters.
API_KEY_HEADER = "X-API-Key"
IDEMPOTENCY_KEY_HEADER = "X-Idempotency-Key"
