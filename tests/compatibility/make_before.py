"""Writes `before/`: made by the code of commit 7b281ad, and not to be made again with newer code.

    python -m tests.compatibility.make_before

It would only show that the newer code can read what it wrote itself.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from tests.compatibility import observing
from tests.compatibility.filling import POINT_EVERY_S, fill
from tests.compatibility.recording import Recorder
from tests.compatibility.runs import KEPT, RUNS, write_data
from tests.compatibility.serving import BASE, BEFORE, VOCABULARY, Raw, server_on
from tests.compatibility.wire_script import SCRIPTS
from tests.support.checkpoints import make_checkpoint
from tests.support.live_server import KEY


def main() -> None:
    """Make all of it anew."""
    shutil.rmtree(BEFORE, ignore_errors=True)
    make_base()
    with tempfile.TemporaryDirectory() as scratch:
        make_wire(Path(scratch, "wire"))
        make_data_folder(Path(scratch, "data"))
        make_facts(Path(scratch, "facts"))
    make_runs()
    scrub(BEFORE)


def make_base() -> None:
    """Write a base model that is as small as the engine serves."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 8, "vocab_size": VOCABULARY}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    attention["num_hidden_layers"] = 1
    make_checkpoint(BASE, "qwen3", tied=True, **shape, **attention)


def make_wire(scratch: Path) -> None:
    """Record what is said."""
    scratch.mkdir()
    server = server_on(scratch / "data", scratch, key=KEY)
    server.start()
    recorded: dict[str, Any] = {}
    for name, script in SCRIPTS.items():
        with Recorder(server.url) as recorder:
            script(recorder.url)
            recorded[name] = recorder.exchanges()
    server.stop()
    (BEFORE / "wire").mkdir()
    (BEFORE / "wire/exchanges.json").write_text(_lines_of(recorded))


def make_data_folder(scratch: Path) -> None:
    """Fill a data folder whose service is killed in the middle of its work."""
    scratch.mkdir()
    server = server_on(scratch / "data", scratch, key=KEY, TINSMITH_RECOVERY_INTERVAL_S=str(POINT_EVERY_S))
    server.start()
    fill(server, scratch / "data")
    shutil.copytree(scratch / "data", BEFORE / "data_folder")
    compact(BEFORE / "data_folder")


def make_facts(scratch: Path) -> None:
    """Note what is to be seen of a copy of that folder once the service goes on with it."""
    scratch.mkdir()
    copy = scratch / "data"
    shutil.copytree(BEFORE / "data_folder", copy)
    accepted = observing.operations(copy)
    server = server_on(copy, scratch)
    server.start()
    raw = Raw(server.url)
    facts: dict[str, Any] = {"operations": [one | observing.outcome(raw, one["request_id"]) for one in accepted]}
    session = accepted[0]["model_id"].split(":")[0]
    models = sorted({one["model_id"] for one in accepted if (one["model_id"] or "").startswith(session)})
    paths = observing.listed_checkpoints(server.url)
    facts["checkpoints"] = dict(observing.use_checkpoints(server.url, paths))
    facts["weights"] = {model: observing.save_and_sketch(raw, copy, model, "after") for model in models}
    facts["training goes on"] = {model: observing.train_on(raw, copy, model) for model in models}
    server.stop()
    (BEFORE / "facts.json").write_text(_lines_of(facts))


def _lines_of(parts: dict[str, Any]) -> str:
    """Return JSON with a line for each element of each part, so that a difference can be read."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_lines(part)}" for name, part in parts.items()) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()) + "\n}"


def make_runs() -> None:
    """Run each recipe once undisturbed, and once until it is killed."""
    RUNS.mkdir()
    write_data(RUNS)
    os.chdir(RUNS)
    for kept in KEPT:
        whole = kept.started_in(RUNS, "whole", "whole_home")
        whole.finish()
        expected = "".join(json.dumps(row) + "\n" for row in whole.metrics())
        killed = kept.started_in(RUNS)
        assert killed.kill_after(kept.rows, Random(0))
        (RUNS / kept.name / "expected_metrics.jsonl").write_text(expected)
        for name in ("whole", "whole_home", "run/transcripts"):
            shutil.rmtree(RUNS / kept.name / name)
        compact(RUNS / kept.name / "home")


def compact(data_dir: Path) -> None:
    """Put what a killed service left beside its database into it, in small pages; the rows are the same."""
    database = sqlite3.connect(data_dir / "tinsmith.db")
    for statement in ("journal_mode = delete", "page_size = 1024", "vacuum", "journal_mode = wal"):
        database.execute(statement if statement == "vacuum" else f"pragma {statement}")
    database.close()
    for name in ("tinsmith.db-wal", "tinsmith.db-shm"):
        (data_dir / name).unlink(missing_ok=True)


def scrub(folder: Path) -> None:
    """Take this machine's paths out of the notes about who made what; nothing reads them but people."""
    for note in [*folder.rglob("serve.json"), *folder.rglob("instances/*.json")]:
        fields = json.loads(note.read_text())
        note.write_text(json.dumps(fields | {"command": "tinsmith"}))
    for starts in folder.rglob("starts.jsonl"):
        rows = [json.loads(line) for line in starts.read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in ("diff", "platform")} for row in rows]
        plain = [row | {"command": ["python", *row["command"][1:]], "folder": "."} for row in kept]
        starts.write_text("".join(json.dumps(row) + "\n" for row in plain))
    for diff in folder.rglob("uncommitted-*.diff"):
        diff.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # git keeps none


if __name__ == "__main__":
    main()
    # The official SDK's threads still ask for a server that is gone.
    os._exit(0)
