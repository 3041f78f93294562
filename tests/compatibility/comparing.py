"""Compares what came over the wire: computed numbers to a tolerance, everything else byte for byte."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from tinsmith.types.proto import tinsmith_pb2 as pb

# Logprobs and losses differ in their last digits from one processor to the next.
RELATIVE = 1e-4
ABSOLUTE = 1e-5

# Numbers with a point or an exponent; whole ones count, and are compared as text.
_REAL = re.compile(r"-?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)")
# A checkpoint's manifest has grown a checksum.
_SIZE = re.compile(r'"size_bytes":\d+')
_METRICS = re.compile(r'("metrics":\{)([^{}]*)')
# A refusal without a key now names the other header that may carry one.
_OTHER_HEADER = " here or in 'Authorization: Bearer tml-...'"
# What answers have besides, since then.
_NEW_FIELDS = frozenset({"device", "dtype", "base_model", "lora_rank", "checkpoint_count", "size_bytes"})
# The losses that a service names: as a list, and in the refusal of another.
_LOSSES = re.compile(r'"losses":\[[^\]]*|expected one of cross_entropy[a-z_, ]*')
_FLOATS = {pb.FLOAT32: "<f4", pb.BFLOAT16: "<u2"}


def assert_same_json(found: str, wanted: str, where: str = "") -> None:
    """Assert that two JSON texts are the same but for the last digits of their real numbers.

    Keys, their order, the space between and the form of everything else are part of the text. Only the metrics of a
    pass, which come out of a protobuf map, have no order: it is another one in each process. And a service may have
    more losses than before, behind those that it had, and answer with the new fields that are listed here.
    """
    found = _SIZE.sub('"size_bytes":0', _without_new_fields(found.replace(_OTHER_HEADER, ""), wanted))
    wanted = _SIZE.sub('"size_bytes":0', wanted)
    found, wanted = _sorted_metrics(_without_new_losses(found, wanted)), _sorted_metrics(wanted)
    assert _REAL.sub("<real>", found) == _REAL.sub("<real>", wanted), where
    assert_close([float(n) for n in _REAL.findall(found)], [float(n) for n in _REAL.findall(wanted)], where)


def _without_new_fields(found: str, wanted: str) -> str:
    try:
        now, before = json.loads(found), json.loads(wanted)
    except ValueError:
        return found
    pruned = _pruned(now, before)
    # As the service writes JSON; a text without new fields is compared as it came.
    return found if pruned == now else json.dumps(pruned, separators=(",", ":"), ensure_ascii=False)


def _pruned(now: Any, before: Any) -> Any:
    if isinstance(now, dict) and isinstance(before, dict):
        kept = [key for key in now if key in before or key not in _NEW_FIELDS]
        return {key: _pruned(now[key], before.get(key)) for key in kept}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [_pruned(one, other) for one, other in zip(now, before, strict=True)]
    return now


def _without_new_losses(found: str, wanted: str) -> str:
    before = iter(_LOSSES.findall(wanted))

    def cut(now: re.Match[str]) -> str:
        known = next(before, "")
        return known if now[0].startswith(known) else now[0]

    return _LOSSES.sub(cut, found)


def _sorted_metrics(text: str) -> str:
    if '"loss_fn_output_type"' not in text:
        return text
    return _METRICS.sub(lambda found: found[1] + ",".join(sorted(found[2].split(","))), text)


def assert_close(found: Any, wanted: Any, where: str = "") -> None:
    """Assert that numbers are equal but for their last digits; NaN is where NaN was."""
    np.testing.assert_allclose(found, wanted, RELATIVE, ABSOLUTE, equal_nan=True, err_msg=where)


def assert_same_message(found: Message, wanted: Message, where: str = "") -> None:
    """Assert that two messages have the same fields, set to the same values."""
    assert type(found) is type(wanted), where
    assert not UnknownFieldSet(found), f"{where}: fields that the schema does not know"
    fields = {field.name: value for field, value in found.ListFields()}
    expected = {field.name: value for field, value in wanted.ListFields()}
    assert list(fields) == list(expected), where
    for name, value in expected.items():
        kind = _packed(wanted, name)
        _assert_same_value(fields[name], value, f"{where}.{name}", kind)


def _assert_same_value(found: Any, wanted: Any, where: str, packed: str | None) -> None:
    if isinstance(wanted, Message):
        if isinstance(wanted, pb.SparseCsr):
            # Its values are of the tensor's type, which the message around it names.
            found.values, wanted.values = _only_floats(found.values, wanted.values, where, packed)
        assert_same_message(found, wanted, where)
    elif hasattr(wanted, "items"):
        assert sorted(found) == sorted(wanted), where
        for key in wanted:
            _assert_same_value(found[key], wanted[key], f"{where}[{key!r}]", packed)
    elif isinstance(wanted, bytes):
        assert _only_floats(found, wanted, where, packed)[0] == _only_floats(found, wanted, where, packed)[1], where
    elif isinstance(wanted, float):
        assert_close(found, wanted, where)
    elif isinstance(wanted, str | int):
        assert found == wanted, where
    else:
        assert len(found) == len(wanted), where
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            _assert_same_value(one, other, f"{where}[{index}]", packed)


def _only_floats(found: bytes, wanted: bytes, where: str, packed: str | None) -> tuple[bytes, bytes]:
    """Compare bytes that are packed real numbers, and return what is left to compare."""
    if packed is None:
        return found, wanted
    assert len(found) == len(wanted), where
    assert_close(np.frombuffer(found, packed), np.frombuffer(wanted, packed), where)
    return b"", b""


def _packed(message: Message, name: str) -> str | None:
    """Return the numpy type of a field of packed real numbers, None for every other."""
    if name in ("logprobs", "prompt_logprobs") and isinstance(message, pb.SampledSequence | pb.SampleResponse):
        return "<f4"
    if name == "logprobs" and isinstance(message, pb.TopkLogprobs):
        return "<f4"
    if isinstance(message, pb.Tensor) and name in ("dense", "sparse_csr"):
        return _FLOATS.get(message.dtype)
    if isinstance(message, pb.BatchedTensor) and name == "data":
        return _FLOATS.get(message.dtype)
    return None
