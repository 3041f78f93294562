"""What is noted while time passes: who had how much of the engine, who waited how long, what the engine did."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.simulation.clock import Clock
from tinsmith.types.engine_messages.operations import ForwardBackward, Operation, Sample


@dataclass(slots=True)
class Account:
    """An owner's record.

    Attributes:
        kind: what its tenant does.
        weight: of its key.
        service: seconds of the engine that it had; what it shared with others is counted in part.
        whole: seconds from submission to answer, of its steps and samples.
        waits: seconds from submission to the first token computed, of each request for tokens.
        newcomer_waits: of those, the ones that came when the owner had no other.
        longest: seconds, the longest time in which it had work in the service and got nothing.
    """

    kind: str
    weight: float
    service: float = 0.0
    whole: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    newcomer_waits: list[float] = field(default_factory=list[float])
    longest: float = 0.0
    # Requests for tokens without an answer; rows and samples of them that have not begun; since when it had nothing.
    open: int = 0
    waiting: int = 0
    hungry_since: float = 0.0
    # Since the window began: what it had, and whether rows or samples of it waited all the time.
    window_service: float = 0.0
    backlogged: bool = False

    def ate(self, start: float, end: float) -> None:
        """Note that it was served."""
        if self.open:
            self.longest = max(self.longest, start - self.hungry_since)
        self.hungry_since = end


@dataclass(slots=True)
class _Request:
    account: Account
    submitted: float
    newcomer: bool
    left: int
    has_begun: bool = False
    # Samples that have had a place, as one that gave way begins again.
    begun: set[int] = field(default_factory=set[int])


class Ledger:
    """See the module.

    Args:
        clock: the simulated time; what is served here moves it on.

    Attributes:
        accounts: by owner.
        owner_of: of models and samplers.
        windows: per window, service / weight of each owner whose work waited through all of it.
        busy_s, again_s: seconds that the engine worked, and of those what it spent on computing again what a sample had
            before it gave its place away.
        idle_beside_work_s: seconds that the engine did nothing while an operation waited.
        passes, pass_tokens, decodes, decode_rows, tokens_drawn: what it did.
        answered_requests: requests for tokens that were answered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.accounts: dict[str, Account] = {}
        self.owner_of: dict[str, str] = {}
        self.windows: list[dict[str, float]] = []
        self.busy_s = self.again_s = self.idle_beside_work_s = 0.0
        self.passes = self.pass_tokens = self.decodes = self.decode_rows = self.tokens_drawn = 0
        self.answered_requests = 0
        self.seconds = 0.0
        self._requests: dict[str, _Request] = {}
        # Per model, the requests whose rows are still to be computed, in order, each with how many.
        self._rows: defaultdict[str, deque[list[str | int]]] = defaultdict(deque)

    # -- requests -----------------------------------------------------------------------------------------------------

    def submitted(self, op: Operation, units: int) -> None:
        """Note a new operation; `units` are the rows or samples it asks for."""
        if not isinstance(op.work, ForwardBackward | Sample):
            return
        account, now = self.accounts[op.owner], self._clock()
        if not account.open:
            account.hungry_since = now
        self._requests[op.request_id] = _Request(account, now, not account.open, units)
        account.open += 1
        account.waiting += units
        if isinstance(op.work, ForwardBackward):
            self._rows[op.model_id or ""].append([op.request_id, units])

    def began(self, request_id: str, sample: int) -> None:
        """Note that a sample has a place."""
        request = self._requests[request_id]
        if sample not in request.begun:
            request.begun.add(sample)
            self._begin(request)

    def trained_row(self, model_id: str) -> None:
        """Note that the next row of a model is computed."""
        first = self._rows[model_id][0]
        self._begin(self._requests[str(first[0])])
        first[1] = int(first[1]) - 1
        if not first[1]:
            self._rows[model_id].popleft()

    def _begin(self, request: _Request) -> None:
        account = request.account
        if not request.has_begun:
            request.has_begun = True
            self._note_wait(request)
        request.left -= 1
        account.waiting -= 1
        account.backlogged &= account.waiting > 0

    def _note_wait(self, request: _Request) -> None:
        wait = self._clock() - request.submitted
        request.account.waits.append(wait)
        if request.newcomer:
            request.account.newcomer_waits.append(wait)

    def answered(self, request_id: str) -> None:
        """Note an answer."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self.answered_requests += 1
        account = request.account
        account.open -= 1
        account.waiting -= request.left
        account.backlogged &= account.waiting > 0

    # -- the engine ---------------------------------------------------------------------------------------------------

    def served(self, owners: Mapping[str, float], seconds: float) -> None:
        """Note that the engine worked for some owners, and let that time pass.

        Args:
            owners: seconds of each; their sum is `seconds`.
            seconds: how long it took.
        """
        start = self._clock()
        self._clock.spend(seconds)
        self.busy_s += seconds
        for owner, share in owners.items():
            account = self.accounts[owner]
            account.service += share
            account.window_service += share
            account.ate(start, start + seconds)

    def passed(self, tokens: int) -> None:
        """Note a training pass."""
        self.passes += 1
        self.pass_tokens += tokens

    def decoded(self, rows: int) -> None:
        """Note a step of the sampler that drew a token for each of some sequences."""
        self.decodes += 1
        self.decode_rows += rows

    def drawn(self, tokens: int) -> None:
        """Note tokens of samples."""
        self.tokens_drawn += tokens

    def computed_again(self, seconds: float) -> None:
        """Note time that was spent on what had been computed before."""
        self.again_s += seconds

    # -- time ---------------------------------------------------------------------------------------------------------

    def begin_window(self) -> None:
        """Begin to look whose work waits all the time."""
        for account in self.accounts.values():
            account.window_service = 0.0
            account.backlogged = account.waiting > 0

    def end_window(self) -> None:
        """Note what those had whose work waited all the time."""
        self.windows.append({o: a.window_service / a.weight for o, a in self.accounts.items() if a.backlogged})

    def end(self, seconds: float, beyond_s: float) -> None:
        """Count what still waits as if it began now: whoever never had a turn must not be missing.

        Args:
            seconds: how long it all took.
            beyond_s: what the turn that goes on would take beyond that.
        """
        self.seconds = seconds
        self.busy_s -= beyond_s
        now = self._clock()
        for request in self._requests.values():
            if not request.has_begun:
                self._note_wait(request)
        for account in self.accounts.values():
            if account.open:
                account.longest = max(account.longest, now - account.hungry_since)
