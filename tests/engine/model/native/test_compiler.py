"""The library is built once, by whichever compiler there is; without one the engine says so and does without."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import checkpoint
from tests.support.engines import load_engine
from tinsmith.engine.model.native import compiler
from tinsmith.engine.model.native.compiler import find_compiler, library
from tinsmith.engine.model.native.decoding import structures

needs_a_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def fresh() -> ctypes.CDLL | None:
    """Build or load the library as a process does that has not."""
    return library.__wrapped__()


@needs_a_compiler
def test_it_is_built_once(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fresh() is not None
    (built,) = (cache_home / "tinsmith" / "native").iterdir()
    made = built.stat().st_mtime_ns
    assert fresh() is not None
    assert built.stat().st_mtime_ns == made
    # Nobody else's code is loaded from there.
    assert stat.S_IMODE(built.parent.stat().st_mode) & 0o077 == 0
    monkeypatch.setattr(compiler, "_FLAGS", compiler._FLAGS + " -DOTHER")
    assert fresh() is not None
    assert len(list(built.parent.iterdir())) == 2


@needs_a_compiler
def test_processes_that_start_together_load_whole_files(cache_home: Path) -> None:
    code = "from tinsmith.engine.model.native.compiler import library; print(library().lanes() > 0)"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["True"] * 3
    assert [path.suffix for path in (cache_home / "tinsmith" / "native").iterdir()] == [".so"]


@needs_a_compiler
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fresh() is not None


@needs_a_compiler
def test_a_cache_that_others_can_write_is_not_trusted(cache_home: Path) -> None:
    folder = cache_home / "tinsmith" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert fresh() is not None
    assert list(folder.iterdir()) == []


def test_without_a_compiler_torch_decodes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert fresh() is None
    assert "no C compiler found (cc, gcc, clang)" in caplog.text


def test_a_compiler_that_is_chosen_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "a-compiler-that-is-not-there")
    assert fresh() is None
    assert "CC=a-compiler-that-is-not-there" in caplog.text
    monkeypatch.setenv("CC", f"{sys.executable} -S")
    assert find_compiler() == [sys.executable, "-S"]


def test_what_a_compiler_dislikes_is_said(
    cache_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c 'import sys; sys.exit(\"no such instruction\")'")
    assert fresh() is None
    assert "can't build the engine's parts in C for this CPU" in caplog.text
    assert "no such instruction" in caplog.text
    assert not list(cache_home.rglob("*.so"))


def test_a_machine_without_a_compiler_loads_models_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.engine.model.native.decoding.native_decoder.library", lambda: None)
    base = load_engine(checkpoint("llama")).base
    assert base.native is None
    assert base.lean is not None


@needs_a_compiler
def test_structures_are_the_c_ones(tmp_path: Path) -> None:
    names = ("Product", "Layer", "Model", "Pass")
    sizes = ", ".join(f"sizeof({name})" for name in (*names, "Span", "Factors"))
    source = tmp_path / "sizes.c"
    source.write_text(
        '#include <stdio.h>\n#include "float32.h"\n#include "decoding/pass.h"\n'
        f"int main(void) {{ size_t all[] = {{{sizes}}}; "
        'for (int i = 0; i < 6; i++) printf("%zu ", all[i]); }\n'
    )
    command = [*(find_compiler() or []), f"-I{Path(compiler.__file__).parent}", str(source), "-o", str(tmp_path / "a")]
    subprocess.run(command, check=True)
    found = [int(n) for n in subprocess.check_output([str(tmp_path / "a")], text=True).split()]
    of_python = [ctypes.sizeof(getattr(structures, name)) for name in names]
    assert found == [*of_python, structures.SPAN.itemsize, structures.FACTORS * 8]


@needs_a_compiler
def test_its_threads_are_torchs() -> None:
    # Two OpenMP libraries in one process would be two pools, each of which waits at full load beside the other.
    assert torch.get_num_threads() > 0
    assert library() is not None
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what a process has loaded")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "/libgomp" in line}
    assert len(loaded) <= 1
