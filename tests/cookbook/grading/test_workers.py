"""Worker processes: asked by threads and event loops, killed, forked, limited, gone with their parent."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tinsmith.cookbook.grading import Reason, grade, grade_async, pool, safe_grade, safe_grade_async, worker
from tinsmith.cookbook.grading.algebra import SympyAlgebra
from tinsmith.cookbook.grading.forms import Value
from tinsmith.installing import install_command

ROOT = Path(__file__).parents[3]
ENDLESS = "(((x^{999}+1)^{999}+1)^{999}+1)^{999}"
PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *(path for path in sys.path if path)])}


def workers(of: int | None = None) -> set[int]:
    """Return the process ids of the workers of a process."""
    return {
        child.pid for child in psutil.Process(of).children() if "tinsmith.cookbook.grading.worker" in cmdline(child)
    }


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    # Gone, or a zombie.
    except psutil.Error:
        return []


def needs_a_worker(number: int = 3) -> bool:
    return safe_grade(rf"\sqrt{{{4 * number}}}", rf"2\sqrt{{{number}}}")


def test_a_worker_is_kept_and_one_that_takes_too_long_is_killed_and_replaced() -> None:
    assert needs_a_worker()
    before = workers()
    assert all(needs_a_worker(number) for number in range(2, 6))
    assert workers() == before
    began = time.monotonic()
    assert grade(ENDLESS, "x", seconds=0.3).reason is Reason.TIMEOUT
    assert time.monotonic() - began < 10
    assert len(before - workers()) == 1
    assert needs_a_worker()


def test_a_worker_that_hangs_is_killed_too() -> None:
    pool.close()
    assert needs_a_worker()
    (pid,) = workers()
    os.kill(pid, signal.SIGSTOP)
    assert grade(r"\sqrt{12}", r"2\sqrt{3}", seconds=0.05).reason is Reason.TIMEOUT
    assert not psutil.pid_exists(pid)


def test_an_idle_worker_that_was_killed_costs_no_answer() -> None:
    assert needs_a_worker()
    for pid in workers():
        os.kill(pid, signal.SIGKILL)
    assert needs_a_worker()


def test_workers_that_keep_dying_are_a_reason_and_no_hang() -> None:
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01):
            for pid in workers():
                # By then its parent may have seen to it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    assert needs_a_worker()
    killing = threading.Thread(target=kill)
    killing.start()
    try:
        reason = grade(ENDLESS, "x", seconds=20).reason
    except RuntimeError as error:
        # Killed before it was ready.
        assert "does not start" in str(error)
    else:
        assert reason is Reason.FAILED
    finally:
        over.set()
        killing.join()
    assert needs_a_worker()


def test_many_threads_ask_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(needs_a_worker, range(2, 60)))
    assert len(workers()) <= len(os.sched_getaffinity(0))


def test_an_event_loop_goes_on() -> None:
    async def run() -> tuple[list[bool], float]:
        answers = [
            asyncio.create_task(safe_grade_async(rf"\sqrt{{{4 * n}}}", rf"2\sqrt{{{n}}}")) for n in range(2, 200)
        ]
        slow = asyncio.create_task(grade_async(ENDLESS, "x", seconds=1))
        longest = 0.0
        while not slow.done():
            began = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - began)
        assert (await slow).reason is Reason.TIMEOUT
        return await asyncio.gather(*answers), longest

    right, longest = asyncio.run(run())
    assert all(right)
    assert longest < 0.9


def test_a_task_that_is_cancelled_asks_no_more() -> None:
    async def run() -> None:
        asked = asyncio.create_task(safe_grade_async(ENDLESS, "x", seconds=0.5))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await safe_grade_async(r"\sqrt{12}", r"2\sqrt{3}")

    asyncio.run(run())


def test_a_worker_has_limits_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    pool.close()
    monkeypatch.setenv("TINKER_API_KEY", "secret")
    assert needs_a_worker()
    (pid,) = workers()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert f"Max address space         {2 << 30}" in limits
    assert "Max file size             0" in limits
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_closing_ends_them_all_and_the_next_question_starts_new_ones() -> None:
    assert needs_a_worker()
    before = workers()
    pool.close()
    assert workers() == set()
    assert not any(psutil.pid_exists(pid) for pid in before)
    assert needs_a_worker()


# No `if __name__ == "__main__"`, as in a script that somebody tries something with.
SCRIPT = r"""
import os, signal
from tinsmith.cookbook.grading import safe_grade
from tests.cookbook.grading.test_workers import workers
assert safe_grade(r"\sqrt{12}", r"2\sqrt{3}")
before = workers()
print(*before, flush=True)
child = os.fork()
if child == 0:
    # Its own workers, not those of its parent.
    assert safe_grade(r"\sqrt{8}", r"2\sqrt{2}") and not workers() & before
    print(*workers(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
assert os.waitpid(child, 0)[1] == signal.SIGKILL
assert safe_grade(r"\sqrt{20}", r"2\sqrt{5}") and workers() == before
"""


def test_a_script_and_a_fork_that_is_killed_leave_no_worker(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": f"{PATH['PYTHONPATH']}{os.pathsep}{ROOT}"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    own, of_the_fork = map(int, done.stdout.split())
    assert not psutil.pid_exists(own)
    deadline = time.monotonic() + 20
    # Its parent was killed, and whoever takes it over may not wait for it.
    while psutil.pid_exists(of_the_fork) and cmdline(psutil.Process(of_the_fork)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_that_cannot_start_is_an_error_and_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pool.close()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="a grading worker does not start"):
        needs_a_worker()


def test_an_answer_that_takes_all_memory_is_failed_and_the_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(self: SympyAlgebra, given: str, reference: str) -> bool:
        if given == "hungry":
            raise MemoryError
        if given == "broken":
            raise ZeroDivisionError
        return True

    monkeypatch.setattr(SympyAlgebra, "same", same)
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: None)
    asked = [{"given": given, "reference": "x", "seconds": 1} for given in ("ok", "broken", "hungry", "ok")]
    monkeypatch.setattr(worker, "read", Value)
    replies = io.BytesIO()
    worker.serve(io.BytesIO(b"".join(json.dumps(question).encode() + b"\n" for question in asked)), replies)
    assert replies.getvalue().split() == [b"ready", b"equal", b"failed", b"failed"]


def test_the_import_is_light() -> None:
    code = (
        "import sys, tinsmith.cookbook.grading; print(*{'sympy', 'math_verify', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **PATH}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def test_without_the_extra_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['math_verify'] = None\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PATH['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", "import tinsmith.cookbook.grading"], env=env, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: grading needs math_verify, which is not installed: ")
    assert last.endswith(install_command("envs"))
