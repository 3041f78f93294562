"""Train and sample through a service that is killed, stopped, cut off and starved, and compare with a calm run.

python -m benchmarks.chaos --kills 50 --seed 0 --json chaos.json

Clients of both SDKs, each a process of its own, reach `tinsmith serve` through a proxy that loses answers. Engine,
service, both, or a service that is just starting are killed with signal 9; an engine is stopped for a while; the disk
is full for a while. Afterwards a second service runs the same scripts for as many steps and nothing happens to it. The
command ends with an error if a client failed, if anything was lost or doubled, or if weights, moments or sampled tokens
differ.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.findings import Difference, Outcome, recoveries, summary
from benchmarks.chaos.proxy import LossyProxy
from benchmarks.chaos.victim import KEY, MODEL, Victim
from benchmarks.common import Column, conditions, show, write_json
from benchmarks.spawn import clean_environment

_SDKS = ("tinsmith", "tinker")
_START_S = 300.0
_END_S = 900.0


@dataclass
class Clients:
    """The scripts of one run.

    Attributes:
        folder: where they write.
        processes: the running ones.
    """

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def begin(self, url: str, number: int, seed: int, steps: list[int] | None) -> None:
        """Start `number` clients; without `steps` they go on until `end`."""
        self.folder.mkdir()
        for i in range(number):
            command = [sys.executable, "-m", "benchmarks.chaos.script", "--sdk", _SDKS[i % len(_SDKS)], "--url", url]
            command += ["--model", MODEL, "--seed", str(seed * 100 + i)]
            command += ["--until", str(self._flag)] if steps is None else ["--steps", str(steps[i])]
            command += ["--out", str(self._out(i)), "--times", str(self.times(i))]
            env = clean_environment({"TINSMITH_API_KEY": KEY, "TINKER_API_KEY": KEY, "OMP_NUM_THREADS": "1"})
            env |= {"TINSMITH_CLIENT_RETRY_S": str(_END_S)}
            with (self.folder / f"client{i}.log").open("wb") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))

    def wait_for_work(self) -> None:
        """Wait until every client has done a step."""
        deadline = time.monotonic() + _START_S
        while not all(self.times(i).exists() and self.times(i).stat().st_size for i in range(len(self.processes))):
            if time.monotonic() > deadline or self.failed():
                raise RuntimeError(f"the clients did not begin:\n{self.logs()}")
            time.sleep(0.2)

    def end(self) -> int:
        """Let them finish; return how many failed."""
        self._flag.touch()
        for process in self.processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
        return len(self.failed())

    def failed(self) -> list[int]:
        """Clients that ended with an error."""
        return [i for i, process in enumerate(self.processes) if process.poll() not in (None, 0)]

    def outcomes(self, data: Path) -> list[Outcome]:
        """What each one ended with."""
        return [Outcome.read(self._out(i), data) for i in range(len(self.processes))]

    def logs(self) -> str:
        """The end of what each failed client printed."""
        return "\n".join((self.folder / f"client{i}.log").read_text()[-2000:] for i in self.failed())

    def times(self, i: int) -> Path:
        """When a client's steps were asked for and done."""
        return self.folder / f"client{i}.times"

    @property
    def _flag(self) -> Path:
        return self.folder / "enough"

    def _out(self, i: int) -> Path:
        return self.folder / f"client{i}.json"


def chaos(folder: Path, kills: int, clients: int, seed: int, loss: float) -> tuple[Column, bool, dict[str, object]]:
    """Run both runs; return figures, whether all is sound, and facts."""
    rng = random.Random(seed)
    victim, running = Victim(folder), Clients(folder / "clients")
    proxy = LossyProxy(victim.port, seed, loss)
    column = Column("tinsmith serve")
    happened: dict[str, int] = {}
    moments: list[float] = []
    victim.start()
    proxy.start()
    began = time.monotonic()
    try:
        running.begin(f"http://127.0.0.1:{proxy.port}", clients, seed, steps=None)
        running.wait_for_work()
        faults = victim.faults()
        while len(moments) < kills and not running.failed():
            # Now and then at once, into the recovery; else after some work.
            time.sleep(rng.choice([0.1, 2.0, 6.0, 10.0]) * rng.uniform(0.5, 1.5))
            name = rng.choice(list(faults))
            at = time.time()
            faults[name]()
            happened[name] = happened.get(name, 0) + 1
            if "killed" in name:
                moments.append(at)
            print(f"{time.monotonic() - began:7.1f} s  {name} ({len(moments)} kills)", file=sys.stderr, flush=True)
        proxy.loss = 0.0
        errors = running.end()
    finally:
        for process in running.processes:
            process.kill()
        victim.stop()
        proxy.stop()
    if errors:
        print(running.logs(), victim.tail, sep="\n", file=sys.stderr)
        return column, False, {"failed_clients": errors, "happened": happened}
    found = running.outcomes(victim.data)
    calm = _calm(folder / "calm", [outcome.steps for outcome in found], seed)
    differences = [Difference.of(one, other) for one, other in zip(found, calm, strict=True)]
    waits = recoveries(moments, [running.times(i) for i in range(clients)])
    _fill(column, found, differences, waits, len(moments), proxy.lost)
    return column, all(one.is_sound for one in differences), {"happened": happened, "clients": clients, "seed": seed}


def _calm(folder: Path, steps: list[int], seed: int) -> list[Outcome]:
    folder.mkdir()
    victim, clients = Victim(folder), Clients(folder / "clients")
    victim.start()
    try:
        clients.begin(f"http://127.0.0.1:{victim.port}", len(steps), seed, steps)
        if clients.end():
            raise RuntimeError(f"the calm run failed:\n{clients.logs()}")
    finally:
        for process in clients.processes:
            process.kill()
        victim.stop()
    return clients.outcomes(victim.data)


def _fill(
    column: Column, found: list[Outcome], differences: list[Difference], waits: list[float], kills: int, lost: int
) -> None:
    middle, worst = summary(waits)
    column.add("kills with signal 9", kills, "")
    column.add("answers lost", lost, "")
    column.add("optimizer steps, all clients", sum(one.steps for one in found), "")
    column.add("client errors", 0, "")
    column.add("losses, largest difference", max(d.losses for d in differences), "relative", higher_is_better=False)
    column.add("sampled sequences that differ", sum(d.tokens for d in differences), "", higher_is_better=False)
    column.add("weights and moments, largest difference", max(d.tensors for d in differences), "relative")
    column.add("recovery, median", middle, "s", higher_is_better=False)
    column.add("recovery, worst", worst, "s", higher_is_better=False)


def main() -> None:
    """Run, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clients", type=int, default=3, help="half of them own SDK, half the official one")
    parser.add_argument("--seed", type=int, default=0, help="of the data, of what happens and when")
    parser.add_argument("--loss", type=float, default=0.01, help="share of answers that are lost")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tinsmith-chaos-") as scratch:
        column, sound, found = chaos(Path(scratch), args.kills, args.clients, args.seed, args.loss)
    facts = conditions(model=MODEL, kills=args.kills, loss=args.loss) | found
    show("Chaos", [column], baseline=column.system, facts=facts)
    if args.json:
        write_json(args.json, [column], facts)
    if not sound:
        print("something was lost, doubled or changed", file=sys.stderr)
    sys.exit(0 if sound else os.EX_SOFTWARE)


if __name__ == "__main__":
    main()
