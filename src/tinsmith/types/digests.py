"""Digests of what is stored, so that whoever reads it can tell whether it is what was written."""

from __future__ import annotations

import hashlib


def digest(*parts: bytes) -> str:
    """Return the digest of bytes: BLAKE2b of 128 bits, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()
