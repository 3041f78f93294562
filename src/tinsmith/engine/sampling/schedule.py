"""Which tokens the sampler computes next: admission, prefill in chunks, decoding, preemption. No tensors.

A sequence is waiting (holds no blocks), prefilling or running (all but its newest token are in the cache). Who is let
in next and who gives way is decided in `places/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from tinsmith.engine.sampling.cache.block_manager import BlockManager, OutOfBlocks
from tinsmith.engine.sampling.places.holdings import Holdings
from tinsmith.engine.sampling.places.room import Room
from tinsmith.engine.sampling.places.waiting import Waiting
from tinsmith.engine.sampling.sequence import Sequence, age
from tinsmith.engine.sharing import EVEN, PassKind, PassShare, Turn


class Slice(NamedTuple):
    """Tokens [start, end) of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def reaches_end(self) -> bool:
        """Whether the next token can be drawn after it."""
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: slices of several sequences, either all decoding (one token each) or all prefilling.

    Attributes:
        slices: what is computed.
        share: who has how much of it.
    """

    slices: list[Slice]
    share: PassShare

    @property
    def decode(self) -> bool:
        """Whether all slices are the newest token of a sequence whose other tokens are in the cache."""
        return self.share.kind is PassKind.DECODE


class SampleSchedule:
    """Orders the sequences of all requests. The whole cache must be able to hold each of them (`token_capacity`).

    Args:
        blocks: of the cache.
        block_size: tokens in one.
        prefill_tokens: most tokens of one prefill step.
        max_sequences: most sequences that hold blocks.
    """

    def __init__(self, blocks: BlockManager, block_size: int, prefill_tokens: int, max_sequences: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.prefilling: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._waiting = Waiting()
        self._prefill_tokens = prefill_tokens
        self._max_sequences = max_sequences
        # Owners whose last step was a prefill.
        self._prefilled: set[str | None] = set()
        self._holdings = Holdings(max_sequences, blocks.num_blocks)
        self._room = Room(blocks, self._holdings, self._waiting, self.prefilling, self.running)
        self._fresh: list[int] = []

    @property
    def waiting(self) -> int:
        """Sequences that hold no blocks yet."""
        return len(self._waiting)

    @property
    def token_capacity(self) -> int:
        """Tokens that the whole cache holds."""
        return self.blocks.num_blocks * self.block_size

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence by its age."""
        self._waiting.add(sequence)

    def next(self, turn: Turn = EVEN) -> Plan | None:
        """Return the next step; an owner's prefill and decode steps alternate while it has work for both.

        Args:
            turn: whose turn it is. Where that owner has nothing that can go on now, there is no step.
        """
        self._holdings.begin(turn, self._waiting.owners())
        owner = turn.leader
        # Strict turns: prefill alone would stall whoever is generating, decode alone whoever has just come.
        kinds = [self._prefill, self._decode] if owner not in self._prefilled else [self._decode, self._prefill]
        for kind in kinds:
            plan = kind(turn)
            if plan is not None:
                (self._prefilled.discard if plan.decode else self._prefilled.add)(owner)
                return plan
        return None

    def take_fresh(self) -> list[int]:
        """Return the blocks allocated since the last call, which hold what their former owners left."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def computed(self, part: Slice) -> None:
        """Note that the keys and values of a slice are in the cache; a sequence that is all there runs from now on."""
        sequence = part.sequence
        sequence.computed = part.end
        full = part.end // self.block_size
        if full > sequence.registered:
            digests = sequence.digest_blocks(self.block_size, full)
            for index in range(sequence.registered, full):
                self.blocks.register(sequence.blocks[index], digests[index])
            sequence.registered = full
        if self.prefilling and part.reaches_end and sequence in self.prefilling:
            self.prefilling.remove(sequence)
            self.running.append(sequence)

    def places_beside(self, leader: Sequence) -> int:
        """Return how many other samples of a prompt that was computed can run at once."""
        free = self._room.places_for(leader.owner)
        # The last block is copied where it is not full, the others are shared.
        return min(free, self.blocks.available) if leader.computed % self.block_size else free

    def fork(self, leader: Sequence, children: Iterable[Sequence]) -> list[tuple[int, int]]:
        """Let the other samples of a prompt run on what the first has computed of it.

        Full blocks are shared, the last one is copied where it is not full. A child that finds no room waits and
        computes the rest of its prompt by itself later.

        Returns:
            (from, to) pairs of blocks to copy.
        """
        copies: list[tuple[int, int]] = []
        full, rest = divmod(leader.computed, self.block_size)
        for child in children:
            if self._room.free_places < 1 or (rest and not self.blocks.available):
                self.add(child)
                continue
            # Nobody writes into a full block again, so it needs no copy; the last one both would write to.
            child.blocks = leader.blocks[:full]
            for block in child.blocks:
                self.blocks.share(block)
            if rest:
                child.blocks.append(self.blocks.allocate())
                copies.append((leader.blocks[full], child.blocks[full]))
            child.computed, child.registered = leader.computed, leader.registered
            child.digests = list(leader.digests)
            self.running.append(child)
            self._holdings.enter(child)
        return copies

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is finished or no longer wanted, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.prefilling:
            self.prefilling.remove(sequence)
        else:
            self._waiting.discard(sequence)
        self._release(sequence)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its blocks, known ones first, unless there is no room for it now."""
        leaving = self._room.who_leaves_a_place(sequence.owner)
        if leaving is None:
            return False
        digests = sequence.digest_blocks(self.block_size, sequence.reusable_tokens() // self.block_size)
        known = self.blocks.find(digests)
        # Waiting a step or two costs less than computing the same prefix twice.
        if known < len(digests) and self._is_coming(known, digests[known]):
            return False
        needed = self._blocks_for(len(sequence.tokens)) - known
        leaving = self._room.who_leaves_blocks(sequence.owner, needed, digests[:known], leaving)
        if leaving is None:
            return False
        for other in leaving:
            self._preempt(other)
        found = self.blocks.acquire(digests[:known])
        sequence.blocks = found + [self._allocate() for _ in range(needed)]
        sequence.computed = known * self.block_size
        sequence.registered = known
        if sequence.group.prompt_cached is None:
            sequence.group.prompt_cached = sequence.computed
        self._holdings.enter(sequence)
        return True

    def _is_coming(self, index: int, digest: bytes) -> bool:
        """Whether a prefilling sequence will register this block: one with the same prefix waits for it."""
        for s in self.prefilling:
            full = len(s.tokens) // self.block_size
            if s.registered <= index < full and s.digest_blocks(self.block_size, full)[index] == digest:
                return True
        return False

    # -- steps --------------------------------------------------------------------------------------------------------

    def _prefill(self, turn: Turn) -> Plan | None:
        plan = Plan([], PassShare(turn, PassKind.PREFILL, self._prefill_tokens))
        owners = dict.fromkeys((*(s.owner for s in self.prefilling), *self._waiting.owners()))
        if turn.leader is not None and turn.leader not in owners:
            return None
        for owner in turn.in_order(sorted(owners, key=self._holdings.places.__getitem__)):
            if plan.share.is_full:
                break
            self._prefill_for(owner, plan)
            # The first one is whose turn it is.
            if turn.leader is not None and not plan.slices:
                return None
        return plan if plan.slices else None

    def _prefill_for(self, owner: str, plan: Plan) -> None:
        candidates = [s for s in self.prefilling if s.owner == owner]
        while (room := plan.share.room(owner)) > 0:
            if not candidates:
                newcomer = self._waiting.next_of(owner, chain(self.running, self.prefilling))
                if newcomer is None or not self._admit(newcomer):
                    return
                self._let_in(newcomer)
                candidates.append(newcomer)
            sequence = candidates.pop(0)
            # A long prompt takes several steps, so that no step is longer than the budget.
            end = min(len(sequence.tokens), sequence.computed + room)
            units = end - sequence.computed
            if end == len(sequence.tokens) and sequence.is_prompt_leader:
                # The other samples that begin with it draw their first token in the same step.
                units += min(sequence.group.to_begin, self._max_sequences)
                if plan.slices and units > room:
                    return
            plan.slices.append(Slice(sequence, sequence.computed, end))
            plan.share.take(owner, units)

    def _let_in(self, newcomer: Sequence) -> None:
        self._waiting.discard(newcomer)
        self.prefilling.append(newcomer)
        group = newcomer.group
        # The next sample of its request waits for the next place; those that began earlier were told so then.
        if newcomer.sample and newcomer is group.samples[-1] and group.to_begin:
            self.add(group.begin_next())

    def _decode(self, turn: Turn) -> Plan | None:
        plan = Plan([], PassShare(turn, PassKind.DECODE, self._max_sequences))
        running: dict[str, list[Sequence]] = {}
        for sequence in self.running:
            running.setdefault(sequence.owner, []).append(sequence)
        if turn.leader is not None and turn.leader not in running:
            return None
        chosen: list[Sequence] = []
        for owner in turn.in_order(running):
            room = plan.share.room(owner)
            # The oldest where not all have room, so that they end.
            rows = running[owner] if room >= len(running[owner]) else sorted(running[owner], key=age)[: max(0, room)]
            if rows:
                plan.share.take(owner, len(rows))
                chosen += rows
        # A sequence needs a block once every `block_size` tokens. The oldest are served first; one of them may preempt
        # a younger one of this list, which `_extend` then finds gone.
        size, preemptions = self.block_size, self.preemptions
        for sequence in sorted((s for s in chosen if len(s.tokens) > len(s.blocks) * size), key=age):
            self._extend(sequence)
        if self.preemptions > preemptions:
            left = set(self.running)
            chosen = [s for s in chosen if s in left]
        plan.slices.extend([Slice(s, s.computed, s.computed + 1) for s in chosen])
        return plan if plan.slices else None

    def _extend(self, sequence: Sequence) -> None:
        """Give a running sequence one more block, taken from others where none is free."""
        while sequence in self.running:
            try:
                sequence.blocks.append(self._allocate())
                self._holdings.grow(sequence)
                return
            except OutOfBlocks:
                self._preempt(self._room.who_leaves_a_block())

    def _preempt(self, sequence: Sequence) -> None:
        # Its blocks stay findable until others need them, so that it often finds most of its prefix again. What it
        # drew stays: it goes on from its last token.
        self.remove(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        if sequence.blocks:
            self._holdings.leave(sequence)
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.registered = 0

    def _allocate(self) -> int:
        block = self.blocks.allocate()
        self._fresh.append(block)
        return block

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)
