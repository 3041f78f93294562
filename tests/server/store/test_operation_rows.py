"""Rows of the journal are read back whole, those of the first form too; what is not known is refused."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.client import ADAM
from tests.server.conftest import Start, soon
from tests.support.fakes.fake_link import FakeLink
from tests.types.test_operation_codec import works
from tinsmith.server.state.notes import NOTES, ImportNote, LoadNote, Note, PassNote, SampleNote, SaveNote
from tinsmith.server.state.records import Record, State
from tinsmith.server.store.db.database import Database, default_url
from tinsmith.server.store.journal.blobs import BlobStore
from tinsmith.server.store.journal.journal import Journal
from tinsmith.server.store.journal.operation_rows import from_row, sealed, to_row
from tinsmith.types.engine_messages.operations import (
    CreateModel,
    ForwardBackward,
    LoadSampler,
    LoadState,
    OpKind,
    OptimStep,
    Sample,
    SaveSampler,
    SaveState,
    Skip,
    TakeSnapshot,
    Work,
)
from tinsmith.types.params import AdamParams, LoraConfig

FIRST_FORM = Path(__file__).parent / "journal_first_form.sql"
SESSION, IMPORT = "e66d9ab7-62e2-468e-9bfe-5749ff2947a3", "d4452e66-96eb-445e-b462-fd0f50c0e9fe"
MODEL, IMPORTED = f"{SESSION}:train:0", f"{IMPORT}:train:0"
SAMPLER = f"{SESSION}:sample:1"

LORA = LoraConfig(rank=4, seed=3)
STEP = OptimStep(AdamParams(**ADAM))
PATH = f"tinker://{MODEL}/weights/s"
AFAR = SaveNote("mine", 7200, {"from": "afar"})


def checkpoint(model_id: str, kind: str, name: str) -> str:
    return f"checkpoints/{model_id}/{kind}/{name}"


def pinned(model_id: str, tail: str) -> str:
    return f"recovery/{model_id}/loaded-{tail}"


# What each row of the data says, in order: its kind, what the engine is told, what else is noted.
EXPECTED: list[tuple[OpKind, Work | None, Note | None]] = [
    (OpKind.CREATE_MODEL, CreateModel(LORA), None),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=True)),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=False)),
    (OpKind.OPTIM_STEP, STEP, None),
    (OpKind.SAVE_STATE, SaveState(checkpoint(MODEL, "weights", "s")), SaveNote("s", None, None)),
    (OpKind.SAVE_SAMPLER, SaveSampler(checkpoint(MODEL, "sampler_weights", "w")), SaveNote("w", None, None)),
    (OpKind.SNAPSHOT, TakeSnapshot(f"{SESSION}:sample:0", f"samplers/{SESSION}:sample:0"), None),
    (OpKind.LOAD_STATE, LoadState(pinned(MODEL, "b41b3c15"), True, LORA, next_seq=8), LoadNote(PATH)),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=False)),
    (OpKind.OPTIM_STEP, None, None),
    (OpKind.SAVE_STATE, None, None),
    (OpKind.SKIP, None, None),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=False)),
    (OpKind.OPTIM_STEP, STEP, None),
    (OpKind.LOAD_STATE, LoadState(pinned(f"{SESSION}:train:1", "be157a8e"), False, LORA), LoadNote(PATH)),
    (OpKind.LOAD_STATE, None, None),
    (OpKind.SAMPLE, Sample(SAMPLER), SampleNote(2)),
    (OpKind.SAMPLE, None, SampleNote(1024)),
    (OpKind.SAMPLE, None, SampleNote(1)),
    (OpKind.SKIP, None, None),
    (OpKind.OPTIM_STEP, None, None),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=True)),
    (OpKind.FORWARD_BACKWARD, ForwardBackward(), PassNote(forward_only=False)),
    (OpKind.OPTIM_STEP, STEP, None),
    (
        OpKind.SAVE_STATE,
        SaveState(checkpoint(MODEL, "weights", "later")),
        SaveNote("later", 86400, {"note": "é", "n": [1, None]}),
    ),
    (
        OpKind.SAVE_SAMPLER,
        SaveSampler(checkpoint(MODEL, "sampler_weights", "later")),
        SaveNote("later", None, None),
    ),
    (OpKind.SNAPSHOT, TakeSnapshot(f"{SESSION}:sample:2", f"samplers/{SESSION}:sample:2"), None),
    (OpKind.SAMPLE, Sample(SAMPLER), SampleNote(3)),
    (OpKind.LOAD_STATE, LoadState(pinned(f"{SESSION}:train:3", "48f5f4df"), True, LORA), LoadNote(PATH)),
    (OpKind.CREATE_MODEL, CreateModel(LoraConfig(rank=8, seed=994442807, train_mlp=False)), None),
    (
        OpKind.LOAD_STATE,
        LoadState(
            pinned(IMPORTED, "065bb945"), False, LoraConfig(rank=4, seed=None, train_unembed=False, train_mlp=False)
        ),
        LoadNote("adapter mine", ImportNote("key-1", AFAR)),
    ),
    (OpKind.SAVE_STATE, SaveState(checkpoint(IMPORTED, "weights", "mine")), AFAR),
    (OpKind.SAVE_SAMPLER, SaveSampler(checkpoint(IMPORTED, "sampler_weights", "mine")), AFAR),
]


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """A data folder with the database of the first form."""
    folder = tmp_path / "old"
    folder.mkdir()
    connection = sqlite3.connect(folder / "tinsmith.db")
    connection.executescript(FIRST_FORM.read_text())
    connection.close()
    return folder


def stored(folder: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(folder / "tinsmith.db")
    connection.row_factory = sqlite3.Row
    return [dict(row) for row in connection.execute("SELECT * FROM operations ORDER BY ordinal")]


def load(folder: Path) -> list[Record]:
    db = Database(default_url(folder))
    db.migrate(folder / "migrate.lock")
    try:
        return Journal(db, BlobStore(str(folder / "blobs"), sync=False), "serve").load()
    finally:
        db.close()


def test_rows_of_the_first_form_are_read_field_by_field(old_folder: Path) -> None:
    rows, records = stored(old_folder), load(old_folder)
    assert [(record.kind, record.work, record.note) for record in records] == EXPECTED
    read_elsewhere = {"instance", "ordinal", "args", "body", "result"}
    for row, record in zip(rows, records, strict=True):
        columns = {name: value for name, value in row.items() if name not in read_elsewhere}
        assert {name: getattr(record, name) for name in columns} == columns
        assert record.settled.is_set() == (record.state is not State.PENDING)


def test_the_data_has_every_kind_that_was_ever_journalled() -> None:
    never = {OpKind.SAVE_RECOVERY_POINT, OpKind.LOAD_SAMPLER, OpKind.RELEASE_SAMPLER, OpKind.RELEASE_MODEL}
    assert {kind for kind, _, _ in EXPECTED} == set(OpKind) - never


@pytest.mark.anyio
async def test_a_journal_of_the_first_form_is_replayed(start: Start, old_folder: Path) -> None:
    link = FakeLink()
    link.holding = True
    running = await start(link, home=old_folder, session_timeout_s=1e12)
    await soon(lambda: running.service.dispatcher.open)
    rows = [(row["seq_id"], row["request_id"]) for row in stored(old_folder) if row["model_id"] == MODEL]
    submitted = [op for op in link.submitted if op.model_id == MODEL]
    assert [(op.seq_id, op.request_id) for op in submitted] == rows
    skip, blamed, unclean = Skip(), Skip(failed_forward_backward=True), Skip(failed_optim_step=True)
    works = [op.work for op in submitted]
    assert works[:7] == [CreateModel(LORA), skip, ForwardBackward(), STEP, skip, skip, skip]
    assert works[8:16] == [blamed, skip, skip, skip, blamed, unclean, ForwardBackward(), STEP]
    assert works[7] == LoadState(str(old_folder / pinned(MODEL, "b41b3c15")), True, LORA, next_seq=8)
    assert works[16] == SaveState(str(old_folder / checkpoint(MODEL, "weights", "later")))
    assert LoadSampler(SAMPLER, None) in [op.work for op in link.submitted]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"op": {"adam": ADAM | {"momentum": 0.9}}}, r"optim_step.adam.momentum: got 0.9"),
        ({"op": {"adam": ADAM}, "wire": {"x": 1}}, r"note: got {'x': 1}, expected none for optim_step"),
        ({"op": {"adam": ADAM}, "extra": 1}, r"args: got \['extra'\] too"),
        ({"version": 1, "work": None, "note": None, "extra": 1}, r"args: got \['extra'\] too"),
        ({"version": 2, "work": None, "note": None}, r"it is not what was written"),
        ({"version": 3, "work": None, "note": None}, r"version: got 3, expected at most 2; update Tinsmith"),
        ([1], r"args: got \[1\], expected a JSON object"),
        ({"version": 1, "work": {}, "note": None}, r"optim_step.adam: got nothing"),
    ],
)
def test_a_row_that_cannot_be_read_whole_says_so_and_the_others_are_read(
    old_folder: Path, args: Any, message: str
) -> None:
    row = next(row for row in stored(old_folder) if row["kind"] == "optim_step")
    connection = sqlite3.connect(old_folder / "tinsmith.db")
    connection.execute("UPDATE operations SET args = ? WHERE ordinal = ?", (json.dumps(args), row["ordinal"]))
    connection.commit()
    connection.close()
    which = rf"journal: operation {row['request_id']} \(optim_step\) cannot be read: "
    [record] = [record for record in load(old_folder) if record.damage is not None]
    assert re.match(which + message, record.damage or "")


metadata = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.booleans()), max_size=3)
saves = st.builds(SaveNote, st.text(), st.none() | st.integers(), st.none() | metadata)
st.register_type_strategy(SaveNote, saves)
notes = {kind: st.from_type(cls) for kind, cls in NOTES.items()}


@given(st.data(), works, st.booleans())
def test_a_record_survives_its_row(data: st.DataObject, work: Work, refused: bool) -> None:
    note = data.draw(st.none() | notes[work.kind]) if work.kind in notes else None
    record = Record(work.kind, "ann", work=None if refused else work, note=note)
    if refused:
        record.refuse("no")
    row = sealed(to_row(record, "serve"))
    again = from_row(row | {"args": json.dumps(row["args"])})
    assert again.damage is None
    assert (again.kind, again.work, again.note) == (record.kind, record.work, record.note)
