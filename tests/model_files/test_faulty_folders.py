"""A catalogue of folders with one fault each: the message names the file, the field and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.faults import FAULTS, Fault, spoiled
from tinsmith.cluster.loading import load_engine
from tinsmith.cluster.model_sources import ModelSpec, resolve
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError, UserError

CPU = Settings(device="cpu")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_faulty_folder_is_told(fault: Fault, tmp_path: Path) -> None:
    folder = spoiled(fault, checkpoint("llama"), tmp_path / "mine")
    with pytest.raises(UserError) as raised:
        load_engine(ModelSpec("mine", str(folder)), CPU)
    told = raised.value.message
    assert told.startswith("base model mine: ")
    assert "\n" not in told
    assert raised.value.status == 400
    for word in fault.told:
        assert word in told


@pytest.mark.parametrize("fault", FAULTS[:8], ids=lambda fault: fault.name)
def test_what_needs_no_engine_is_told_before_one_starts(fault: Fault, tmp_path: Path) -> None:
    folder = spoiled(fault, checkpoint("llama"), tmp_path / "mine")
    with pytest.raises(StartupError, match=r"model mine: .*config\.json"):
        resolve(str(folder), "model mine")


def test_the_sound_folder_loads(tmp_path: Path) -> None:
    sound = checkpoint("llama")
    assert resolve(str(sound)) == sound.resolve()
    assert load_engine(ModelSpec("mine", str(sound)), CPU).info.name == "mine"


def test_a_fault_without_a_field_of_its_own_names_those_that_do_not_fit(tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "pad beyond the vocabulary")
    folder = spoiled(fault, checkpoint("llama"), tmp_path / "mine")
    with pytest.raises(UserError, match=r"pad_token_id, vocab_size: got 5000, 320, expected values that fit together"):
        load_engine(ModelSpec("mine", str(folder)), CPU)
