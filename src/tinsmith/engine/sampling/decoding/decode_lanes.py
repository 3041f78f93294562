"""Which sequences of a decoding step are computed side by side, each part on a thread of its own."""

from __future__ import annotations

from tinsmith.engine.sampling.cache.kv_cache import KVCache
from tinsmith.engine.sampling.decoding.decode_stream import DecodeStream
from tinsmith.engine.sampling.schedule import Slice
from tinsmith.engine.sampling.sequence import Sequence

# Sequences times parameters of a lane at least. A step is some hundred operations, and lanes wait for each other at
# many of them, since only one at a time may begin one: where waking a thread takes 30 microseconds, a step of 64
# sequences and 5M parameters takes as long in two lanes as in one; with four times as many it takes two thirds.
_LANE_WORK = 200_000_000
# Each lane reads all weights: with fewer sequences that takes longer than computing with them.
_LANE_SEQUENCES = 16
# A lane may have that part more than its share before sequences change lanes.
_SLACK = 0.125


class DecodeLanes:
    """The lanes, from step to step.

    A sequence stays in its lane, because the lane's rows hold its keys and values; it moves where lanes have become
    unequal, and then its keys and values are copied.

    Args:
        cache: where keys and values are kept.
        in_rows: whether steps read them from rows beside the cache.
        parameters: of the model.
    """

    def __init__(self, cache: KVCache, in_rows: bool, parameters: int) -> None:
        self._cache = cache
        self._in_rows = in_rows
        self._least = max(_LANE_SEQUENCES, _LANE_WORK // parameters)
        self._lane_of: dict[Sequence, int] = {}
        self._streams: list[DecodeStream] = []

    def deal(self, slices: list[Slice], most: int) -> list[tuple[DecodeStream, list[Sequence]]]:
        """Deal one step's sequences to lanes.

        Args:
            slices: in the stream's order, equal adapters side by side.
            most: lanes that may run at once.

        Returns:
            the stream and the sequences of each lane, in the order of `slices`; none is empty.
        """
        lanes = self._count(len(slices), most)
        if len(self._streams) != lanes:
            self.clear()
            self._streams = [DecodeStream(self._cache, 1 / lanes if self._in_rows else 0.0) for _ in range(lanes)]
        sequences = [part.sequence for part in slices]
        if lanes == 1:
            return [(self._streams[0], sequences)]
        dealt = zip(self._streams, self._deal(sequences, lanes), strict=True)
        return [(stream, own) for stream, own in dealt if own]

    def _deal(self, sequences: list[Sequence], lanes: int) -> list[list[Sequence]]:
        share = -(-len(sequences) // lanes)
        limit = share + int(share * _SLACK)
        places: list[list[int]] = [[] for _ in range(lanes)]
        loose: list[int] = []
        for place, sequence in enumerate(sequences):
            lane = self._lane_of.get(sequence)
            stays = lane is not None and len(places[lane]) < limit
            (places[lane] if stays and lane is not None else loose).append(place)
        # Neighbours of the stream go to the same lane as far as may be, because they share an adapter.
        for number, lane in enumerate(places):
            # Even shares, of which the first ones are larger where it does not come out even.
            room = max(0, (len(sequences) + lanes - 1 - number) // lanes - len(lane))
            lane += loose[:room]
            loose = loose[room:]
            lane.sort()
        dealt = [[sequences[place] for place in own] for own in places]
        self._lane_of = {sequence: lane for lane, own in enumerate(dealt) for sequence in own}
        return dealt

    def _count(self, sequences: int, most: int) -> int:
        now = len(self._streams)
        wanted = max(1, min(most, sequences // self._least))
        # Not back and forth with every sequence that comes or goes: all that change lanes are copied.
        return now if wanted <= now <= most and sequences >= now * self._least // 2 else wanted

    def clear(self) -> None:
        """Give up all rows and their memory."""
        self._streams = []
        self._lane_of = {}
