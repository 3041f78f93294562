"""Measure what a tenant feels beside another's flood: `tinsmith serve`, the embedded model, two keys.

The victim takes a training step (forward_backward and optim_step) and draws a sample of 8 tokens, one after the other:
calm, and beside each flood of another key. The rule is "at most twice the calm time plus one pass", where a pass is the
longest turn that the engine took meanwhile. Ends with 1 where a median breaks it. Client and service share the machine.

python -m benchmarks.floods
python -m benchmarks.floods --only training --set TINSMITH_MAX_TOKENS_PER_PASS=1024
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.common import conditions
from benchmarks.floods.tenants import Flood, Victim, begin, floods
from benchmarks.floods.verdict import Verdict
from benchmarks.load.http_client import HttpClient
from benchmarks.load.users import Work
from benchmarks.service import KEY, TINY_MODEL, TINY_VOCAB
from benchmarks.spawn import ServerProcess, clean_environment, free_port, tinsmith_command

# The queue's limit in this benchmark: filling the default of 20,000 would measure how fast a client can submit.
_QUEUE = 2000
_SETTLE_S = 120.0


class Metrics:
    """What the service says about itself."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self.longest_s = 0.0

    async def read(self, name: str) -> float:
        """Return a gauge; 0 where there is none yet."""
        page = (await self._http.exchange(self._http.request("GET", "/metrics"))).body.decode()
        found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def watch(self) -> None:
        """Note the longest turn, until cancelled; the gauge is renewed every second."""
        while True:
            self.longest_s = max(self.longest_s, await self.read("tinsmith_engine_longest_turn_seconds"))
            await asyncio.sleep(0.4)

    async def settled(self) -> None:
        """Wait until the service has nothing left to do."""
        for _ in range(int(_SETTLE_S / 0.5)):
            if not await self.read("tinsmith_pending_operations"):
                return
            await asyncio.sleep(0.5)
        raise RuntimeError(f"the service still has operations {_SETTLE_S:g} s after the flood ended")


async def measure(
    url: str, keys: tuple[str, str], work: Work, only: str, repeats: int, seconds: float
) -> list[Verdict]:
    """Measure calm and beside each flood."""
    port = urlsplit(url).port or 0
    mine, other = (HttpClient("127.0.0.1", port, key) for key in keys)
    victim, verdicts = Victim(mine, work), list[Verdict]()
    await victim.open()
    for name, kinds in floods(work, _QUEUE):
        if only in name:
            verdicts += await _beside(name, kinds, victim, (mine, other), repeats, seconds)
    await victim.finish()
    mine.close()
    other.close()
    return verdicts


async def _beside(
    name: str,
    kinds: Sequence[Flood],
    victim: Victim,
    clients: tuple[HttpClient, HttpClient],
    repeats: int,
    seconds: float,
) -> list[Verdict]:
    calm = await victim.measure(repeats, seconds)
    users = await begin(clients[1], kinds)
    await asyncio.sleep(3.0)  # the flood is there, and the first stats of it
    metrics = Metrics(clients[0])
    watch = asyncio.create_task(metrics.watch())
    beside = await victim.measure(repeats, seconds)
    await asyncio.sleep(1.2)
    watch.cancel()
    for user in users:
        await user.stop()
    await metrics.settled()
    verdicts = [
        Verdict.of(name, "8-token sample", calm.sample, beside.sample, metrics.longest_s),
        Verdict.of(name, "training step", calm.step, beside.step, metrics.longest_s),
    ]
    for one in verdicts:
        print(f"{name}, {one.work}: {1e3 * one.calm_s:.0f} ms calm, {1e3 * one.beside_s:.0f} ms", file=sys.stderr)
    return verdicts


def run(work: Work, only: str, repeats: int, seconds: float, folder: Path, settings: dict[str, str]) -> list[Verdict]:
    """Start a service with the embedded model and two keys, measure, stop it."""
    from tinsmith.models import path as model_folder

    port, data = free_port(), folder / "data"
    settings = {"TINSMITH_MAX_QUEUED_SAMPLES": str(_QUEUE), **settings}
    command = tinsmith_command(port, data, {TINY_MODEL: str(model_folder(TINY_MODEL))})
    server = ServerProcess(command, port, folder / "serve.log", {"TINSMITH_API_KEY": KEY, **settings})
    server.start()
    try:
        make = [sys.executable, "-m", "tinsmith.cli.main", "key", "create", "flood", "--data-dir", str(data)]
        made = subprocess.run(make, capture_output=True, text=True, check=True, env=clean_environment())
        return asyncio.run(measure(server.url, (KEY, made.stdout.strip()), work, only, repeats, seconds))
    finally:
        server.stop()


def show(verdicts: list[Verdict], facts: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title="Beside a flood of another key: medians, ms; 2x calm + one pass is allowed")
    for column in ("flood", "work"):
        table.add_column(column)
    for column in ("calm", "beside", "worst", "ratio", "one pass", "allowed", "rule"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in verdicts:
        numbers = [1e3 * n for n in (one.calm_s, one.beside_s, one.worst_s)]
        allowed = [1e3 * n for n in (one.pass_s, one.allowed_s)]
        cells = [*map("{:.0f}".format, numbers), f"{one.beside_s / one.calm_s:.1f}", *map("{:.0f}".format, allowed)]
        table.add_row(one.flood, one.work, *cells, "holds" if one.holds else "BROKEN")
    console = Console()
    console.print(table)
    console.print("  ".join(f"{key}: {value}" for key, value in facts.items()), style="dim")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the floods whose name contains this")
    parser.add_argument("--repeats", type=int, default=20, help="pieces of each kind of the victim's work")
    parser.add_argument("--seconds", type=float, default=15.0, help="longest time for them, calm and beside each flood")
    parser.add_argument("--set", action="append", default=[], metavar="TINSMITH_NAME=VALUE", help="a server's setting")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the JSON."""
    args = parse_arguments()
    work = Work(TINY_MODEL, TINY_VOCAB, max_tokens=8)
    facts = conditions(work=work)
    settings = dict(pair.split("=", 1) for pair in args.set)
    with tempfile.TemporaryDirectory(prefix="tinsmith-benchmark-") as name:
        verdicts = run(work, args.only, args.repeats, args.seconds, Path(name), settings)
    if not verdicts:
        raise SystemExit(f"--only: got {args.only!r}, expected a part of a flood's name")
    show(verdicts, facts)
    if args.json:
        rows = [asdict(one) | {"allowed_s": one.allowed_s, "holds": one.holds} for one in verdicts]
        args.json.write_text(
            json.dumps({"conditions": facts | {"work": vars(work)}, "verdicts": rows}, indent=1) + "\n"
        )
    raise SystemExit(0 if all(one.holds for one in verdicts) else 1)


if __name__ == "__main__":
    main()
