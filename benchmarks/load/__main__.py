"""Load a service with many sessions and measure what they feel: `tinsmith serve`, the embedded model, one client.

Every session trains an adapter, samples from a snapshot of it, polls and sends heartbeats. A calm phase with one
session comes first, so that one run holds both. The client is one process on the same machine and takes its share.

python -m benchmarks.load --sessions 200 --in-flight 1000 --minutes 10
python -m benchmarks.load                                                 # 100 sessions, 500 futures, one minute
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import Column, conditions, show, write_json
from benchmarks.load.figures import Figures
from benchmarks.load.http_client import HttpClient
from benchmarks.load.processes import CLIENT, Watch, note_lags
from benchmarks.load.users import User, Work
from benchmarks.service import KEY, TINY_MODEL, TINY_VOCAB
from benchmarks.spawn import ServerProcess, free_port, tinsmith_command

# Sessions that are opened or finished at once.
_AT_ONCE = 16


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        sessions, in_flight: sessions, and futures of all of them together.
        calm_s, warm_s, busy_s, after_s: lengths of the phases, seconds; the warm-up is not measured.
    """

    sessions: int = 100
    in_flight: int = 500
    calm_s: float = 10.0
    warm_s: float = 15.0
    busy_s: float = 60.0
    after_s: float = 10.0


async def load(plan: Plan, work: Work, server: ServerProcess) -> tuple[list[Column], dict[str, Any]]:
    """Run all phases against a server that is up; return the columns and what else is worth keeping."""
    http = HttpClient("127.0.0.1", urlsplit(server.url).port or 0, KEY)
    watch = Watch(server.pid)
    calm, warm, busy = Figures(), Figures(), Figures()
    lags = asyncio.create_task(note_lags(calm.lags))
    probe = User(http, work, calm, 0)
    await probe.open()
    await probe.step()  # the first of its kind pays for what is made once
    await probe.sample()
    calm.times.clear()
    calm.done.clear()
    watch.start()
    memory = {"one session": watch.memory()}
    await _calm(probe, plan.calm_s)
    probe.figures = warm
    users = [User(http, work, warm, number) for number in range(1, plan.sessions + 1)]
    await _some_at_once([user.open for user in users])
    memory["all sessions open"] = watch.memory()
    for number, user in enumerate(users):
        user.begin(plan.in_flight * (number + 1) // plan.sessions - plan.in_flight * number // plan.sessions)
    await asyncio.sleep(plan.warm_s)
    memory["load, begin"] = watch.memory()
    lags.cancel()
    lags = asyncio.create_task(note_lags(busy.lags))
    for user in users:
        user.figures = busy
    before = watch.cpu()
    await asyncio.sleep(plan.busy_s)
    shares = {name: (after - before[name]) / plan.busy_s for name, after in watch.cpu().items()}
    memory["load, end"] = watch.memory()
    lags.cancel()
    late = Figures()
    for user in users:
        user.figures = late
        user.going = False
    await _some_at_once([user.finish for user in users])
    await asyncio.sleep(plan.after_s)
    memory["all ended"] = watch.memory()
    await probe.finish()
    watch.stop()
    http.close()
    columns = [calm.column("calm", plan.calm_s), busy.column("busy", plan.busy_s)]
    for name, share in shares.items():
        columns[1].add(f"{name}, share of a core", share, "")
    memory_columns = [_memory_column(when, found) for when, found in memory.items()]
    faults = dict(busy.faults + late.faults + warm.faults + calm.faults)
    return columns + memory_columns, {"faults": faults, "memory_over_time": watch.rows}


def _memory_column(when: str, found: dict[str, float]) -> Column:
    column = Column(when)
    for name, mib in found.items():
        if name != CLIENT:
            column.add(name, mib, "MiB", higher_is_better=False)
    return column


async def _calm(probe: User, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(10):
            await probe.beat()
            await asyncio.sleep(0.02)
        await probe.step()
        await probe.sample()


async def _some_at_once(calls: Sequence[Any]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Any) -> None:
        async with gate:
            await call()

    await asyncio.gather(*map(one, calls))


def run(plan: Plan, work: Work, folder: Path, settings: dict[str, str]) -> tuple[list[Column], dict[str, Any]]:
    """Start a service with the embedded model, load it, stop it."""
    from tinsmith.models import path as model_folder

    port = free_port()
    command = tinsmith_command(port, folder / "data", {TINY_MODEL: str(model_folder(TINY_MODEL))})
    server = ServerProcess(command, port, folder / "serve.log", {"TINSMITH_API_KEY": KEY, **settings})
    server.start()
    try:
        return asyncio.run(load(plan, work, server))
    finally:
        server.stop()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=Plan.sessions)
    parser.add_argument("--in-flight", type=int, default=Plan.in_flight, help="futures of all sessions together")
    parser.add_argument("--minutes", type=float, default=Plan.busy_s / 60, help="of the measured load")
    parser.add_argument("--rank", type=int, default=Work.rank, help="of every session's adapter")
    parser.add_argument("--datums", type=int, default=Work.datums, help="of a forward_backward")
    parser.add_argument("--length", type=int, default=Work.length, help="tokens of a datum")
    parser.add_argument("--max-tokens", type=int, default=Work.max_tokens, help="of a sample")
    parser.add_argument("--set", action="append", default=[], metavar="TINSMITH_NAME=VALUE", help="a server's setting")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables and write the JSON."""
    args = parse_arguments()
    work = Work(TINY_MODEL, TINY_VOCAB, args.rank, args.datums, args.length, args.max_tokens)
    plan = Plan(args.sessions, args.in_flight, busy_s=args.minutes * 60)
    facts = conditions(plan=plan, work=work)
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as name:
        columns, found = run(plan, work, Path(name), dict(pair.split("=", 1) for pair in args.set))
    show("Latencies", columns[:2], baseline="calm", facts=facts)
    show("Memory, MiB", columns[2:], baseline=columns[2].system, facts={"errors": found["faults"] or "none"})
    if args.json:
        write_json(args.json, columns, {**facts, "plan": vars(plan), "work": vars(work)})
        # Beside the usual form, for whoever wants to draw it.
        written = json.loads(args.json.read_text())
        args.json.write_text(json.dumps(written | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
