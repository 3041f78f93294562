"""Importing the SDK: no torch, nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinsmith
import tinsmith.types

_PROBE = """
import json, sys
before = set(sys.modules)
import tinsmith
face = set(sys.modules) - before
from tinsmith import APIFuture, RestClient, SamplingClient, ServiceClient, TrainingClient
from tinsmith.types import AdamParams, Datum, ModelInput, SamplingParams, TensorData
print(json.dumps([sorted(face), sorted(set(sys.modules) - before)]))
"""
# What the SDK's names may load: the protocol's own libraries. httpx, rich, jinja2, tokenizers and typer come with the
# first call that needs them.
_LIGHT = {
    "annotated_types", "google", "numpy", "pydantic", "pydantic_core", "tenacity", "tinsmith", "typing_extensions",
    "typing_inspection", "zstandard",
}  # fmt: skip
_OURS_AT_MOST = 90


@pytest.mark.row(9, 10)
def test_import_is_light() -> None:
    """What is loaded decides how long an import takes; `benchmarks/import_time.py` measures it, here nothing does."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    face, everything = json.loads(done.stdout)
    assert _packages(face) == {"tinsmith"}
    assert _packages(everything) <= _LIGHT
    ours = [name for name in everything if name.startswith("tinsmith")]
    assert len(ours) <= _OURS_AT_MOST
    assert [name for name in ours if name.startswith(("tinsmith.server", "tinsmith.engine", "tinsmith.cookbook"))] == []


def _packages(modules: list[str]) -> set[str]:
    names = {name.split(".")[0] for name in modules}
    return {name for name in names if name not in sys.stdlib_module_names and not name.startswith("_")}


@pytest.mark.row(9, 17)
def test_a_client_needs_no_torch() -> None:
    """With torch and the service's packages away, a client of a URL is made and a batch encoded."""
    code = """
import sys
for name in ("torch", "transformers", "fastapi", "sqlalchemy"):
    sys.modules[name] = None
import tinsmith
from tinsmith.types.codec import encode_forward_backward_request
tinsmith.ServiceClient(base_url="http://localhost:1")
datum = tinsmith.Datum(tokens=[1, 2], targets=[2, 3], weights=[0.0, 1.0])
print(len(encode_forward_backward_request("m", 1, [datum], "cross_entropy")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20


@pytest.mark.row(23)
def test_every_exported_name_is_there() -> None:
    for module in (tinsmith, tinsmith.types):
        for name in module.__all__:
            assert getattr(module, name) is not None, name
        with pytest.raises(AttributeError, match="no attribute 'Datumm'"):
            module.Datumm  # noqa: B018
    assert tinsmith.TinkerError is tinsmith.TinsmithError
    assert tinsmith.types.Datum is tinsmith.Datum


def test_version_is_the_package_s() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert tinsmith.__version__ == project["project"]["version"]
