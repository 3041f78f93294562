"""Which tokens the sampler computes next: admission, prefill in chunks, decoding, preemption. No tensors.

A sequence is waiting (holds no blocks), prefilling or running (all but its newest token are in the cache). Room goes to
the owner that has the fewest sequences in the cache, and among its weights to those that have the fewest, so that a
large job does not keep others waiting; among equals the oldest is served first. An owner that has none there does not
wait for a place: the youngest sequence of the owner that has most gives way. Where blocks run out the youngest of all
gives way, so the oldest gets on.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tinsmith.engine.sampling.block_manager import BlockManager, OutOfBlocks
from tinsmith.engine.sampling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Slice:
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
    """One step: slices of several sequences, either all decoding (one token each) or all prefilling."""

    decode: bool
    slices: list[Slice]


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
        # By owner and version of their weights, the oldest first; no list is empty.
        self._waiting: dict[tuple[str, int], list[Sequence]] = {}
        self._prefill_tokens = prefill_tokens
        self._max_sequences = max_sequences
        self._decode_next = False
        self._fresh: list[int] = []

    @property
    def waiting(self) -> int:
        """Sequences that hold no blocks yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def token_capacity(self) -> int:
        """Tokens that the whole cache holds."""
        return self.blocks.num_blocks * self.block_size

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence by its age."""
        insort(self._waiting.setdefault(_job_of(sequence), []), sequence, key=lambda s: s.key)

    def next(self) -> Plan | None:
        """Return the next step; prefill and decode steps alternate while there is work for both."""
        # Strict turns: prefill alone would stall whoever is generating, decode alone whoever has just come.
        slices = [] if self._decode_next and self.running else self._prefill()
        decode = not slices
        if decode:
            slices = self._decode()
        self._decode_next = not decode
        return Plan(decode, slices) if slices else None

    def take_fresh(self) -> list[int]:
        """Return the blocks allocated since the last call, which hold what their former owners left."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def computed(self, part: Slice) -> None:
        """Note that the keys and values of a slice are in the cache; a sequence that is all there runs from now on."""
        sequence = part.sequence
        sequence.computed = part.end
        full = part.end // self.block_size
        digests = sequence.digest_blocks(self.block_size, full)
        for index in range(sequence.registered, full):
            self.blocks.register(sequence.blocks[index], digests[index])
        sequence.registered = max(sequence.registered, full)
        if part.reaches_end and sequence in self.prefilling:
            self.prefilling.remove(sequence)
            self.running.append(sequence)

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
            if self._crowd() >= self._max_sequences or (rest and not self.blocks.available):
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
        return copies

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is finished or no longer wanted, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.prefilling:
            self.prefilling.remove(sequence)
        else:
            self._leave(sequence)
        self._release(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the waiting ones, if it is there."""
        job = _job_of(sequence)
        queue = self._waiting.get(job, [])
        if sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._waiting[job]

    def _next_waiting(self) -> Sequence | None:
        if not self._waiting:
            return None
        # By owner before weights, and not by request: nobody must gain by cutting a job into many, or by many adapters.
        owners = self._held()
        held = Counter(map(_job_of, (*self.running, *self.prefilling)))
        first = (queue[0] for queue in self._waiting.values())
        return min(first, key=lambda s: (owners[s.group.job.owner], held[_job_of(s)], s.key))

    def _held(self) -> Counter[str]:
        return Counter(s.group.job.owner for s in (*self.running, *self.prefilling))

    def _gives_way(self, newcomer: Sequence) -> Sequence | None:
        """Return the running sequence that gives its place to an owner that has none; None where nobody has to."""
        held = self._held()
        # One place each is fair, so whoever has a single one keeps it.
        most = max(held.values())
        if held[newcomer.group.job.owner] or most < 2:
            return None
        # Only those that run: a slice of one that prefills may be in the plan that is being made.
        rich = [s for s in self.running if held[s.group.job.owner] == most]
        return max(rich, key=lambda s: s.key, default=None)

    def _crowd(self) -> int:
        return len(self.running) + len(self.prefilling)

    def _prefill(self) -> list[Slice]:
        slices: list[Slice] = []
        budget = self._prefill_tokens
        candidates = list(self.prefilling)
        while budget:
            if not candidates:
                newcomer = self._next_waiting()
                if newcomer is None or not self._admit(newcomer):
                    break
                self._leave(newcomer)
                self.prefilling.append(newcomer)
                candidates.append(newcomer)
            sequence = candidates.pop(0)
            # A long prompt takes several steps, so that no step is longer than the budget.
            end = min(len(sequence.tokens), sequence.computed + budget)
            slices.append(Slice(sequence, sequence.computed, end))
            budget -= end - sequence.computed
        return slices

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its blocks, known ones first, unless there is no room for it now."""
        leaving = None
        if self._crowd() >= self._max_sequences:
            leaving = self._gives_way(sequence)
            if leaving is None:
                return False
        digests = sequence.digest_blocks(self.block_size, sequence.reusable_tokens() // self.block_size)
        known = self.blocks.find(digests)
        # Waiting a step or two costs less than computing the same prefix twice.
        if known < len(digests) and self._is_coming(known, digests[known]):
            return False
        if leaving is not None:
            self._preempt(leaving)
            # Its blocks are free now and may be counted as known.
            known = self.blocks.find(digests)
        found = self.blocks.acquire(digests[:known])
        needed = self._blocks_for(len(sequence.tokens)) - known
        # One block is left for each running sequence, which would else be preempted soon.
        if self.blocks.available < needed + len(self.running):
            self.blocks.release(found)
            return False
        sequence.blocks = found + [self._allocate() for _ in range(needed)]
        sequence.computed = known * self.block_size
        sequence.registered = known
        if sequence.group.prompt_cached is None:
            sequence.group.prompt_cached = sequence.computed
        return True

    def _is_coming(self, index: int, digest: bytes) -> bool:
        """Whether a prefilling sequence will register this block: one with the same prefix waits for it."""
        for s in self.prefilling:
            full = len(s.tokens) // self.block_size
            if s.registered <= index < full and s.digest_blocks(self.block_size, full)[index] == digest:
                return True
        return False

    def _decode(self) -> list[Slice]:
        # A sequence needs a block once every `block_size` tokens. The oldest are served first; one of them may preempt
        # a younger one of this list, which `_extend` then finds gone.
        growing = [s for s in self.running if self._blocks_for(len(s.tokens)) > len(s.blocks)]
        for sequence in sorted(growing, key=lambda s: s.key):
            self._extend(sequence)
        return [Slice(s, s.computed, s.computed + 1) for s in self.running]

    def _extend(self, sequence: Sequence) -> None:
        """Give a running sequence one more block, taking blocks from the youngest where none is free."""
        while sequence in self.running:
            try:
                sequence.blocks.append(self._allocate())
                return
            except OutOfBlocks:
                self._preempt(max(self.running + self.prefilling, key=lambda s: s.key))

    def _preempt(self, sequence: Sequence) -> None:
        # Its blocks stay findable until others need them, so that it often finds most of its prefix again. What it
        # drew stays: it goes on from its last token.
        self.remove(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.registered = 0

    def _allocate(self) -> int:
        block = self.blocks.allocate()
        self._fresh.append(block)
        return block

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)


def _job_of(sequence: Sequence) -> tuple[str, int]:
    """Return what is served as one: an owner's sequences under the same weights."""
    return sequence.group.job.owner, sequence.group.version
