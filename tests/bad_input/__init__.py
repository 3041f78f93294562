"""Requests that are wrong: each is refused with field, value and expectation, and nobody else is disturbed."""
