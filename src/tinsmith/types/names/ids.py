"""Ids that a client can foretell: the protocol makes them of the session's id and the client's own counters.

A client asks for something under the next number of its session; a repeat of the request carries the same number, so
that the service makes nothing twice. Knowing the id before the answer, a client can name a checkpoint at once.
"""

from __future__ import annotations


def training_run_id(session_id: str, model_seq_id: int) -> str:
    """Return the id of a session's model, which is the id of its training run."""
    return f"{session_id}:train:{model_seq_id}"


def sampling_session_id(session_id: str, sampling_session_seq_id: int) -> str:
    """Return the id of a session's sampler."""
    return f"{session_id}:sample:{sampling_session_seq_id}"
