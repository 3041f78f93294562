"""`SavedPath`: what a save returns: the checkpoint's address, known at once, and the future of its being there."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from tinsmith.client.transport.futures import APIFuture, share
from tinsmith.types.outputs import SaveWeightsForSamplerResponse, SaveWeightsResponse

R = TypeVar("R", SaveWeightsResponse, SaveWeightsForSamplerResponse)


class SavedPath(str, APIFuture[R]):
    """The `tinker://MODEL/KIND/NAME` address of a checkpoint that is being saved.

    It is a `str`, so it can be printed, stored and loaded from at once; operations of the same client keep their
    order. `.result()` and `await` give the service's answer, with `.path`, once the checkpoint is on disk.

    Raises:
        TinsmithError: from `.result()` and `await`, where the service saved to another address.
        RequestFailedError: from the same, where the save failed.
    """

    _future: Future[R]

    @classmethod
    def of(cls, path: str, future: Future[R]) -> SavedPath[R]:
        """Make the address of a save that was submitted."""
        saved = cls(path)
        saved._future = future
        return saved

    def future(self) -> Future[R]:
        """Return the `concurrent.futures.Future` of the service's answer."""
        return self._future

    @property
    def path(self) -> str:
        """The address as a plain `str`."""
        return str(self)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Another process gets the address; the waiting stays here.
        return (str, (str(self),))


async def settled(path: str) -> str:
    """Return a checkpoint's address as a plain `str`, once it is saved where this process is saving it just now.

    Raises:
        RequestFailedError: the save failed.
    """
    plain = str(path)
    # An address that was read from a file or printed is a plain text: whoever has it knows that it was saved.
    if isinstance(path, SavedPath):
        saving: Future[object] = path.future()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        await share(saving)
    return plain
