"""Which block of the KV cache belongs to whom: reference counts and the prefix cache. Knows ids, never tensors.

A block is in one of three states: held (reference count > 0), cached (nobody holds it, but its content can be found
by digest until it is needed for something else, least recently used first) or free. Only full blocks have a digest.
The digest of a block covers all tokens up to its end and the adapter version that computed them, so that equal
digests mean equal keys and values.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b


class OutOfBlocks(Exception):
    """No block is free or cached; the caller preempts somebody."""


def first_digest(namespace: int) -> bytes:
    """Return the digest that the first block of a sequence is chained to.

    Args:
        namespace: identity of the weights that compute the keys, e.g. the version of an adapter snapshot.
    """
    return blake2b(namespace.to_bytes(8, "little", signed=True), digest_size=16).digest()


def next_digest(previous: bytes, tokens: Sequence[int]) -> bytes:
    """Return the digest of a full block, given its tokens and the digest of the block before it."""
    # A cryptographic digest of 128 bits, because tenants share the cache: whoever could make two prefixes collide would
    # be answered from another's.
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockManager:
    """Hands out the ids 1 to `num_blocks`; id 0 is the padding of block tables and is never handed out.

    Fresh ids are given out in rising order before any cached block is evicted, so that storage can grow on demand.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks: got {num_blocks}, expected at least 1")
        self.num_blocks = num_blocks
        self.highest = 0
        self._references: dict[int, int] = {}
        self._free: list[int] = []
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return self.num_blocks - len(self._references)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and whose content can still be found."""
        return len(self._cached)

    def allocate(self) -> int:
        """Return a block with one reference; its former content is forgotten.

        Raises:
            OutOfBlocks: every block is held.
        """
        if self._free:
            block = self._free.pop()
        elif self.highest < self.num_blocks:
            self.highest += 1
            block = self.highest
        elif self._cached:
            block, _ = self._cached.popitem(last=False)  # the longest unused
            del self._block_of[self._digest_of.pop(block)]
        else:
            raise OutOfBlocks(f"all {self.num_blocks} blocks are in use")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a reference to a held block."""
        self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference of each block of a sequence, given in order.

        The last block is released first: a later block is of no use without the earlier ones, so it is evicted first.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            del self._references[block]
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def register(self, block: int, digest: bytes) -> None:
        """Make the content of a held, full block findable; a block with the same content may be known already."""
        # Two sequences may have computed the same prefix side by side; the first keeps the name.
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def find(self, digests: Sequence[bytes]) -> int:
        """Return how many leading blocks of a sequence with these digests are known."""
        for count, digest in enumerate(digests):
            if digest not in self._block_of:
                return count
        return len(digests)

    def idle(self, digests: Sequence[bytes]) -> int:
        """Return how many of the known blocks with these digests nobody holds, so that `available` counts them."""
        return sum(self._block_of[digest] in self._cached for digest in digests)

    def freed_by(self, released: Iterable[Sequence[int]], kept: Sequence[bytes]) -> int:
        """Return how many blocks would be free if all of these lists were released and the `kept` ones acquired."""
        stay = {self._block_of[digest] for digest in kept}
        references = Counter(block for blocks in released for block in blocks if block not in stay)
        return sum(self._references[block] == count for block, count in references.items())

    def acquire(self, digests: Sequence[bytes]) -> list[int]:
        """Return the known blocks with these digests, each with one more reference."""
        blocks = [self._block_of[digest] for digest in digests]
        for block in blocks:
            self._cached.pop(block, None)
            self._references[block] = self._references.get(block, 0) + 1
        return blocks
