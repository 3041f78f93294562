"""Which samplers can be sampled from, which are still to come, which cannot be had and why."""

from __future__ import annotations

from collections import Counter


class KnownSamplers:
    """The samplers of one engine, by id. An id stands for the same weights for as long as it lives."""

    def __init__(self) -> None:
        # In the engine: what can be sampled from, and what only waits for its release.
        self._usable: set[str] = set()
        self._retired: set[str] = set()
        # How many operations are still to make it: a load may come while a snapshot of the same id waits.
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

    def gone(self, sampler_id: str) -> None:
        """The sampler is released."""
        self._usable.discard(sampler_id)
        self._retired.discard(sampler_id)
        self._broken.pop(sampler_id, None)

    def _arrived(self, sampler_id: str) -> None:
        self._coming[sampler_id] -= 1
        # A Counter keeps zeros; ids are many in a long run.
        if self._coming[sampler_id] <= 0:
            del self._coming[sampler_id]

    def is_usable(self, sampler_id: str) -> bool:
        """Whether one can sample from it now."""
        return sampler_id in self._usable

    def is_held(self, sampler_id: str) -> bool:
        """Whether the engine has it, though perhaps only until its release."""
        return sampler_id in self._usable or sampler_id in self._retired

    def coming(self, sampler_id: str) -> int:
        """Return how many operations that make it are waiting to run."""
        return self._coming.get(sampler_id, 0)

    def why_broken(self, sampler_id: str) -> str | None:
        """Why it could not be made, None where that has not been tried or did not fail."""
        return self._broken.get(sampler_id)
