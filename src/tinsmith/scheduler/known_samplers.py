"""Which samplers can be sampled from, which are still to come, which cannot be had and why."""

from __future__ import annotations

from collections import Counter


class KnownSamplers:
    """The samplers of one engine, by id. An id stands for the same weights for as long as it lives."""

    def __init__(self) -> None:
        self._usable: set[str] = set()
        self._retired: set[str] = set()
        self._coming: Counter[str] = Counter()
        self._broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._usable)

    def expect(self, sampler_id: str) -> None:
        """An operation that makes this sampler is waiting to run."""
        self._coming[sampler_id] += 1
        self._broken.pop(sampler_id, None)

    def made(self, sampler_id: str) -> None:
        """The sampler can be used."""
        self._arrived(sampler_id)
        self._usable.add(sampler_id)

    def broke(self, sampler_id: str, why: str) -> None:
        """The operation that should have made the sampler failed."""
        self._arrived(sampler_id)
        self._broken[sampler_id] = why

    def retire(self, sampler_id: str) -> None:
        """The sampler is about to be released: no further sample may begin."""
        if sampler_id in self._usable:
            self._usable.remove(sampler_id)
            self._retired.add(sampler_id)

    def gone(self, sampler_id: str) -> bool:
        """The sampler is released; return whether the engine has it."""
        self.retire(sampler_id)
        self._broken.pop(sampler_id, None)
        held = sampler_id in self._retired
        self._retired.discard(sampler_id)
        return held

    def _arrived(self, sampler_id: str) -> None:
        self._coming[sampler_id] -= 1
        if self._coming[sampler_id] <= 0:
            del self._coming[sampler_id]

    def is_usable(self, sampler_id: str) -> bool:
        """Whether one can sample from it now."""
        return sampler_id in self._usable

    def coming(self, sampler_id: str) -> int:
        """Return how many operations that make it are waiting to run."""
        return self._coming.get(sampler_id, 0)

    def why_broken(self, sampler_id: str) -> str | None:
        """Why it could not be made, None where that has not been tried or did not fail."""
        return self._broken.get(sampler_id)
