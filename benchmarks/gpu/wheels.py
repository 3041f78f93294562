"""The packages that a bare GPU machine lacks, as wheels for its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

# What such a machine has, fitting its driver and each other: never replaced.
_THERE = {"torch", "triton", "transformers", "numpy", "peft", "accelerate"}
_THERE |= {"huggingface-hub", "hf-xet", "safetensors", "tokenizers", "pyyaml", "tqdm"}
# Beside what the service needs: the tests and the other side of the benchmark.
_WANTED = ("tinsmith[server]", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
_PYTHON = "3.12"


def closure(wanted: tuple[str, ...] = _WANTED) -> dict[str, str]:
    """Return the version of every package that `wanted` needs, as installed here; those that are there are left out."""
    # Here, because the machine that only installs the wheels may lack it.
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    queue = [Requirement(text) for text in wanted]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        for extra in {"", *requirement.extras}:
            if name in _THERE or (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = distribution(name).requires or []
            except PackageNotFoundError:
                continue  # needed by another platform or Python only
            found[name] = version(name)
            environment = {"extra": extra, "python_version": _PYTHON, "python_full_version": f"{_PYTHON}.0"}
            parsed = [Requirement(text) for text in needs]
            queue += [r for r in parsed if r.marker is None or r.marker.evaluate(environment)]
    found.pop("tinsmith", None)  # runs from its checkout
    return found


def collect(folder: Path) -> list[Path]:
    """Download the wheels; return their paths.

    Args:
        folder: made when absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = [f"{name}=={wanted}" for name, wanted in sorted(closure().items())]
    platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    subprocess.run([*pip, "--python-version", _PYTHON, *platforms, *pins], check=True)
    return sorted(folder.glob("*.whl"))
