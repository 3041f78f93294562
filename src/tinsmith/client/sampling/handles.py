"""Samplers that other processes use, too: what a pickled `SamplingClient` or a handle holds, and joining in with it."""

from __future__ import annotations

import base64
import json
import os
import random
import weakref
from dataclasses import asdict, dataclass
from typing import Any

from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.responses import ClientConfigResponse

# Copies of a sampler count from a multiple of this, chosen at random, so that their numbers never meet: two requests
# of one number are one request to the service. Stride and bound are the protocol's; both together fit into 64 bits.
_COPY_STRIDE = 1_000_000_000

# Copies of samplers of one session share its heartbeat, and the connection. By process, because a fork inherits the
# table but neither socket nor loop; weak, so that the last copy takes the session with it.
_joined: weakref.WeakValueDictionary[tuple[int, str, str, str | None], ClientSession] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class SamplerHandle:
    """All that another process needs besides the API key, which a text that is passed around should not hold.

    Attributes:
        session_id: of the session that keeps the sampler alive.
        sampling_session_id: the sampler.
        base_model: its base.
        base_url: the service.
        headers: of every request.
        config: how the service wants to be spoken to, so that no copy has to ask.
        record_stability_info: whether the service is to record what is sampled.
    """

    session_id: str
    sampling_session_id: str
    base_model: str
    base_url: str
    headers: dict[str, str]
    config: dict[str, Any]
    record_stability_info: bool = False

    def encode(self) -> str:
        """Return the handle as a text of letters that survive a command line and a URL."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode()

    @classmethod
    def decode(cls, text: str) -> SamplerHandle:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is no base64, or no JSON.
            TypeError: it is JSON of something else.
        """
        return cls(**json.loads(base64.urlsafe_b64decode(text)))

    def join(self, api_key: str | None) -> ClientSession:
        """Return the session, joined by this process once for all copies with the same key."""
        key = (os.getpid(), self.base_url, self.session_id, api_key)
        session = _joined.get(key)
        if session is None:
            connection = open_connection(self.base_url, api_key, self.headers)
            connection.adopt_config(ClientConfigResponse.model_validate(self.config))
            session = _joined[key] = ClientSession(connection, session_id=self.session_id)
            # At once, for the heartbeat: the process that made the session may end before the first request.
            session.open()
        return session


def first_seq_id() -> int:
    """Return where the sequence numbers of a copy start."""
    return random.randint(1, _COPY_STRIDE) * _COPY_STRIDE
