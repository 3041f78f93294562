"""Importing the SDK: no torch, nothing heavy, half a second at most."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinsmith
import tinsmith.types

_HEAVY = ("torch", "transformers", "fastapi", "sqlalchemy", "datasets", "pandas", "httpx", "tinsmith.server")
_PROBE = """
import json, sys, time
began = time.process_time()
import tinsmith
face = time.process_time() - began
from tinsmith import APIFuture, RestClient, SamplingClient, ServiceClient, TrainingClient
from tinsmith.types import AdamParams, Datum, ModelInput, SamplingParams, TensorData
print(json.dumps([face, time.process_time() - began, sorted(sys.modules)]))
"""


def _probe() -> tuple[float, float, list[str]]:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


@pytest.mark.row(9, 10)
def test_import_is_light() -> None:
    runs = [_probe() for _ in range(7)]
    modules = runs[0][2]
    assert [name for name in _HEAVY if name in modules] == []
    # Processor time, so that waiting for a busy machine does not count; and the least of several, because what shares
    # a core's caches and units with us still adds to it, and nothing ever takes away from it.
    assert min(face for face, _, _ in runs) < 0.25
    assert min(everything for _, everything, _ in runs) < 0.5


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
