"""Loops that threads share piece by piece, `loops.h`, in a region of their own."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tinsmith.engine.model.native import compiler

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C compiler here")

SOURCE = r"""
#include <string.h>
#include "decoding/loops.h"

// Loops over n[0], n[1], ... things; `visits` [loops][most] counts how often each was seen. Returns how many pieces
// were too large or began where none may. A thread is held up for a time that differs by piece.
int64_t visit(int64_t loops, const int64_t *n, int64_t most, int64_t whole, int64_t size, int64_t threads,
              int64_t *visits)
{
    Taken taken[LOOPS * threads];
    memset(taken, 0, sizeof taken);
    int64_t bad = 0;
#pragma omp parallel num_threads(threads)
    {
        Team team = join_team(taken);
        uint64_t random = 1 + (uint64_t)team.self;
        for (int64_t i = 0; i < loops; i++) {
            Loop loop = begin_loop(n[i], whole, size, &team);
            while (take_piece(&loop)) {
                if (loop.last - loop.first > size || loop.first % whole || loop.last > n[i])
                    __atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
                for (int64_t at = loop.first; at < loop.last; at++)
                    __atomic_fetch_add(visits + i * most + at, 1, __ATOMIC_RELAXED);
                random = random * 6364136223846793005u + 1442695040888963407u;
                for (volatile int64_t wait = (int64_t)(random >> 54); wait > 0; wait--) {}
            }
            end_loop();
        }
    }
    return bad;
}

// Whoever takes the first piece of a loop stays with it until all others are done, for ten seconds at most; returns
// whether they were.
int64_t stay(int64_t n, int64_t size, int64_t threads)
{
    Taken taken[LOOPS * threads];
    memset(taken, 0, sizeof taken);
    int64_t done = 0, came = 0;
#pragma omp parallel num_threads(threads)
    {
        Team team = join_team(taken);
        Loop loop = begin_loop(n, 1, size, &team);
        while (take_piece(&loop)) {
            const double until = omp_get_wtime() + 10.0;
            while (loop.first == 0 && __atomic_load_n(&done, __ATOMIC_RELAXED) < n - loop.last)
                if (omp_get_wtime() > until) break;
            if (loop.first == 0) came = __atomic_load_n(&done, __ATOMIC_RELAXED) == n - loop.last;
            __atomic_fetch_add(&done, loop.last - loop.first, __ATOMIC_RELAXED);
        }
        end_loop();
    }
    return came;
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("loops")
    (folder / "loops.c").write_text(SOURCE)
    command = compiler.find_compiler()
    assert command is not None
    flags = ["-std=gnu11", "-O2", "-Wall", "-Werror", "-fopenmp", "-shared", "-fPIC"]
    sources = Path(compiler.__file__).parent
    subprocess.run(
        [*command, *flags, f"-I{sources}", str(folder / "loops.c"), "-o", str(folder / "loops.so")], check=True
    )
    library = ctypes.CDLL(str(folder / "loops.so"))
    library.visit.argtypes = [ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]
    library.stay.argtypes = [ctypes.c_int64] * 3
    library.visit.restype = library.stay.restype = ctypes.c_int64
    return library


@examples(60)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=12),
    st.sampled_from([1, 2, 8, 16]),
    st.integers(1, 5),
    st.integers(1, 7),
)
def test_every_thing_is_seen_once(built: ctypes.CDLL, n: list[int], whole: int, wholes: int, threads: int) -> None:
    sizes, most = np.array(n, np.int64), max(1, *n)
    visits = np.zeros((len(n), most), np.int64)
    bad = built.visit(len(n), sizes.ctypes.data, most, whole, whole * wholes, threads, visits.ctypes.data)
    assert bad == 0
    assert (visits == (np.arange(most) < sizes[:, None])).all()


@pytest.mark.parametrize(("n", "size", "threads"), [(100, 3, 2), (7, 1, 3), (5, 5, 4)])
def test_others_take_what_a_held_up_thread_has_not_begun(built: ctypes.CDLL, n: int, size: int, threads: int) -> None:
    assert built.stay(n, size, threads) == 1
