"""Whatever leaves the service can be said in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import checkpoint
from tests.support.faults import setting
from tinsmith.cluster.frames import FrameDecoder, encode_frame
from tinsmith.server.http.error_answers import answer
from tinsmith.server.http.routes.common import reply
from tinsmith.server.json_bytes import to_bytes
from tinsmith.server.store.tokenizer_files import TokenizerFiles
from tinsmith.types.errors import UserError
from tinsmith.types.responses import FailedFuture

_TEXTS = st.text(st.characters(codec=None), max_size=6)  # lone surrogates included
_LEAVES = st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | _TEXTS
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3))


def _strict(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


@given(_VALUES)
def test_anything_that_json_files_hold(value: Any) -> None:
    said = to_bytes(value)
    json.loads(said.decode("utf-8"), parse_constant=_strict)
    orjson.loads(said)


def test_what_becomes_of_what_json_cannot_say() -> None:
    said = json.loads(to_bytes({"limit": 10**30, "nan": float("nan"), "half\ud800": ["\udfff", "\U0001f600", 10**30]}))
    assert said == {"limit": 10**30, "nan": None, "half\ufffd": ["\ufffd", "\U0001f600", 10**30]}
    assert json.loads(to_bytes({"inf": float("inf"), "limit": 2**70})) == {"inf": None, "limit": 2**70}


def test_answers_of_every_kind() -> None:
    assert json.loads(bytes(answer(400, "tensor \ud800: got 5").body)) == {"detail": "tensor \ufffd: got 5"}
    assert json.loads(bytes(reply({"user_metadata": {"n": 10**30}}).body)) == {"user_metadata": {"n": 10**30}}
    failed = FailedFuture(error="tensor \ud800", category="user")
    assert json.loads(bytes(reply(failed).body))["error"] == "tensor \ufffd"
    assert UserError("tensor \ud800").message == "tensor \\ud800"
    (frame,) = FrameDecoder().feed(encode_frame({"request_id": "r", "error": "tensor \ud800"}))
    assert frame["error"] == "tensor \\ud800"


def test_the_tokenizer_of_an_ordinary_checkpoint(tmp_path: Path) -> None:
    body, _ = TokenizerFiles().get(checkpoint("llama"))
    assert json.loads(body)["tokenizer_config"]["model_max_length"] == 1000000000000000019884624838656
    for file in ("tokenizer.json", "config.json"):
        (tmp_path / file).write_bytes((checkpoint("llama") / file).read_bytes())
    setting("tokenizer_config.json", model_max_length=float("inf"), pad_token="\ud83d")(tmp_path)
    said = json.loads(TokenizerFiles().get(tmp_path)[0])["tokenizer_config"]
    assert said == {"model_max_length": None, "pad_token": "\ufffd"}
