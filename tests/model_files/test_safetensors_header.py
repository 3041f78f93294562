"""Headers of safetensors files: what the library writes is read, what is wrong is named, nothing else happens."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tinsmith.model_files.safetensors_header import (
    LENGTH_BYTES,
    TensorEntry,
    header_length,
    make_header,
    parse_header,
)
from tinsmith.types.errors import UserError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
ENTRIES = st.dictionaries(NAMES, st.builds(TensorEntry, st.sampled_from(sorted(DTYPES)), SHAPES), max_size=5)


def read(data: bytes) -> tuple[dict[str, TensorEntry], int]:
    length = header_length("file", data, 10_000)
    return parse_header("file", data[LENGTH_BYTES : LENGTH_BYTES + length])


@given(ENTRIES)
def test_the_library_and_we_read_each_other(entries: dict[str, TensorEntry]) -> None:
    tensors = {name: torch.zeros(entry.shape, dtype=DTYPES[entry.dtype]) for name, entry in entries.items()}
    size = sum(entry.size for entry in entries.values())
    theirs = save(tensors)
    assert read(theirs) == (entries, size)
    ours = make_header(entries, {"format": "pt"})
    assert read(ours) == (entries, size)
    loaded = load(ours + bytes(size))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in loaded.items()} == {
        name: (DTYPES[entry.dtype], entry.shape) for name, entry in entries.items()
    }


@pytest.mark.row(213)
@given(ENTRIES, st.data())
def test_a_damaged_header_is_refused_or_read_but_nothing_else(
    entries: dict[str, TensorEntry], data: st.DataObject
) -> None:
    raw = bytearray(make_header(entries, {}))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        try:
            found, size = read(damaged)
        except UserError as error:
            assert str(error).startswith("file")
        else:
            assert size == sum(entry.size for entry in found.values())


@pytest.mark.row(36, 213)
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ([], "file: header: got 'list', expected a JSON object"),
        ({"a": 1}, "file: a: got 1, expected dtype, shape"),
        ({"a": {"dtype": "Q4", "shape": [], "data_offsets": [0, 1]}}, "file: a: dtype: got 'Q4', expected one of BF16"),
        ({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, r"file: a: shape: got \[-1\]"),
        ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, r"file: a: shape: got \[True\]"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, r"file: a: data_offsets: got \[0\]"),
        (
            {"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}},
            r"got \[1, 3\], expected \[0, 2\], without",
        ),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2]}}, r"got \[0, 2\], expected \[0, 8\]"),
        ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2]}}, r"a: data_offsets: got \[0, 2\]"),
    ],
)
def test_what_is_wrong_is_named(fields: object, pattern: str) -> None:
    text = json.dumps(fields).encode()
    with pytest.raises(UserError, match=pattern):
        read(struct.pack("<Q", len(text)) + text)


@pytest.mark.row(36, 213)
def test_the_length_is_not_believed() -> None:
    for data, pattern in (
        (b"1234", "file: got '4 bytes', expected a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "file: header: got '9223372036854775808 bytes', expected .* at most 10000"),
        (struct.pack("<Q", 0), "file: header: got '0 bytes'"),
        (struct.pack("<Q", 5000) + b"[" * 5000, "file: got a header that is no JSON"),
    ):
        with pytest.raises(UserError, match=pattern):
            read(data)
