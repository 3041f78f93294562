"""Blocks, references and the prefix cache, against a model that keeps every owner's blocks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.examples import examples
from tinsmith.engine.sampling.cache.block_manager import BlockManager, OutOfBlocks, first_digest, next_digest

BLOCKS = 7
SIZE = 2


def chain(tokens: list[int], namespace: int = 0) -> list[bytes]:
    digests = [first_digest(namespace)]
    for start in range(0, len(tokens) - SIZE + 1, SIZE):
        digests.append(next_digest(digests[-1], tokens[start : start + SIZE]))
    return digests[1:]


class Machine(RuleBasedStateMachine):
    """Sequences come, reuse, fork and go; `content` remembers what each block was last registered as."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(BLOCKS)
        self.owners: list[tuple[list[int], list[bytes]]] = []
        self.content: dict[int, bytes] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8), namespace=st.integers(0, 1))
    def start(self, tokens: list[int], namespace: int) -> None:
        digests = chain(tokens, namespace)
        known = self.manager.find(digests)
        blocks = self.manager.acquire(digests[:known])
        # What was found is what was put there.
        assert [self.content[b] for b in blocks] == digests[:known]
        try:
            while len(blocks) < -(-len(tokens) // SIZE):
                block = self.manager.allocate()
                assert all(block not in owned for owned, _ in self.owners)
                assert block not in blocks
                self.content.pop(block, None)
                blocks.append(block)
        except OutOfBlocks:
            assert self.held() | set(blocks) == set(range(1, BLOCKS + 1))
            self.manager.release(blocks)
            return
        for block, digest in zip(blocks[known:], digests[known:], strict=False):
            self.manager.register(block, digest)
            self.content[block] = digest
        self.owners.append((blocks, digests))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        blocks, digests = data.draw(st.sampled_from(self.owners))
        full = blocks[: len(digests)]
        for block in full:
            self.manager.share(block)
        self.owners.append((full, digests))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.owners) - 1))
        blocks, _ = self.owners.pop(index)
        self.manager.release(blocks)

    def held(self) -> set[int]:
        return {b for blocks, _ in self.owners for b in blocks}

    @invariant()
    def references_are_the_owners(self) -> None:
        counts = Counter(b for blocks, _ in self.owners for b in blocks)
        assert self.manager._references == dict(counts)
        assert self.manager.available == BLOCKS - len(counts)

    @invariant()
    def every_block_is_in_one_state(self) -> None:
        m = self.manager
        unused = set(range(m.highest + 1, BLOCKS + 1))
        states = [set(m._references), set(m._cached), set(m._free), unused]
        assert sum(map(len, states)) == BLOCKS
        assert set().union(*states) == set(range(1, BLOCKS + 1))
        assert len(m._free) == len(set(m._free))

    @invariant()
    def digests_are_one_to_one(self) -> None:
        m = self.manager
        assert {d: b for b, d in m._digest_of.items()} == m._block_of
        assert set(m._cached) <= set(m._digest_of)


Machine.TestCase.settings = settings(examples(120), stateful_step_count=40)
TestMachine = Machine.TestCase


def test_no_block_leaks() -> None:
    manager = BlockManager(3)
    blocks = [manager.allocate() for _ in range(3)]
    assert sorted(blocks) == [1, 2, 3]
    with pytest.raises(OutOfBlocks):
        manager.allocate()
    manager.release(blocks)
    assert manager.available == 3


def test_the_least_recently_used_tail_goes_first() -> None:
    manager = BlockManager(4)
    old, new = chain([1, 1, 1, 1]), chain([2, 2, 2, 2])
    for digests in (old, new):
        blocks = [manager.allocate() for _ in digests]
        for block, digest in zip(blocks, digests, strict=True):
            manager.register(block, digest)
        manager.release(blocks)
    assert manager.cached == 4
    manager.allocate()
    assert (manager.find(old), manager.find(new)) == (1, 2)
    manager.release(manager.acquire(old[:1]))
    manager.allocate()
    assert (manager.find(old), manager.find(new)) == (1, 1)


def test_digests_tell_weights_position_and_history_apart() -> None:
    seen = {
        *chain([1, 2, 1, 2]),
        *chain([1, 2, 1, 2], namespace=1),
        *chain([1, 2, 3, 4]),
        *chain([3, 4, 1, 2]),
        next_digest(first_digest(0), [1]),
    }
    # [1, 2] as a first block of the same weights is one and the same.
    assert len(seen) == 2 + 2 + 1 + 2 + 1


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="num_blocks: got 0"):
        BlockManager(0)
