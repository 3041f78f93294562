"""Real programs, most of them hostile, behind every wall that this machine allows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cookbook.code_execution.walls_here import HOSTILE, QUICK, WALLS, launchers, refused, run, until, usable
from tinsmith.cookbook.code_execution import Limits, LocalSandbox, SandboxError, local_sandbox, walls
from tinsmith.cookbook.code_execution.runner import ENVIRONMENT, run_behind
from tinsmith.cookbook.code_execution.walls import Wall, candidates
from tinsmith.types.errors import UserError

pytestmark = pytest.mark.row(70)
PLAIN = Wall("none", other_user=False)
ISOLATING = [param for param in WALLS if param.values[0].isolates]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the programs' folders, so that a test knows its own; not in pytest's, which is for root alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", path)
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)


@pytest.fixture
def _another_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was found out of this machine is forgotten before the test, and what the test finds after it."""
    monkeypatch.setattr("tinsmith.cookbook.notices._said", set())
    local_sandbox._find_wall.cache_clear()
    yield
    local_sandbox._find_wall.cache_clear()


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_every_end_has_a_name(wall: Wall, name: str) -> None:
    program, reason = HOSTILE[name]
    executed = run(usable(wall), program)
    assert executed.reason == reason, executed.stderr
    assert len(executed.stdout) <= QUICK.output
    assert len(executed.stderr) <= QUICK.output
    assert executed.seconds < QUICK.seconds


@pytest.mark.parametrize("wall", WALLS)
def test_a_program_that_sleeps_is_ended_by_the_clock(wall: Wall) -> None:
    executed = run(usable(wall), "import time\nprint('here', flush=True)\ntime.sleep(60)", limits=Limits(seconds=0.5))
    assert (executed.reason, executed.stdout) == ("time", "here\n")
    assert 0.5 <= executed.seconds < 2


@pytest.mark.parametrize("wall", WALLS)
def test_a_program_reads_and_writes_as_anywhere(wall: Wall) -> None:
    program = "import sys, os\nprint(sys.stdin.read().upper(), os.listdir('.'))\nopen('a', 'w').write('b')"
    executed = run(usable(wall), program, "héllo\0\n")
    assert executed.ok, executed.stderr
    assert executed.stdout == "HÉLLO\0\n ['program.py']\n"


@pytest.mark.parametrize("wall", WALLS)
def test_bytes_that_are_no_text_are_replaced(wall: Wall) -> None:
    executed = run(usable(wall), "import sys\nsys.stdout.buffer.write(b'a\\x00\\xff\\xc3')")
    assert executed.stdout == "a\0\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("wall", WALLS)
def test_a_program_of_a_megabyte_with_a_megabyte_to_read(wall: Wall) -> None:
    program = f"import sys\ntext = {'y' * (1 << 20)!r}\nprint(len(text), len(sys.stdin.read()))"
    assert run(usable(wall), program, "x" * (1 << 20)).stdout == f"{1 << 20} {1 << 20}\n"


@pytest.mark.parametrize("wall", WALLS)
def test_a_program_that_deletes_its_folder_or_shuts_it(wall: Wall, folder: Path) -> None:
    program = """
import os, shutil
os.makedirs("a/b")
os.symlink("/", "a/root")
os.chmod("a/b", 0)
os.chmod("a", 0)
os.remove("program.py")
if os.fork() == 0:
    shutil.rmtree(os.getcwd(), ignore_errors=True)
"""
    mode = os.stat("/").st_mode
    assert run(usable(wall), program).ok
    assert not list(folder.iterdir())
    assert os.stat("/").st_mode == mode


@pytest.mark.parametrize("wall", WALLS)
def test_nothing_that_a_program_started_outlives_it(wall: Wall, folder: Path) -> None:
    daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(30)
    os._exit(0)
time.sleep(0.1)
print("done")
"""
    began = time.monotonic()
    executed = run(usable(wall), daemon)
    assert (executed.reason, executed.stdout) == ("ok", "done\n")
    # The daemon holds the output open; were it alive, this would have been waited for.
    assert time.monotonic() - began < 5
    assert not launchers(folder)


@pytest.mark.parametrize("wall", WALLS)
def test_no_keys_no_home_and_the_same_order_of_sets(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_API_KEY", "tml-secret")
    program = "import os, json\nprint(json.dumps(dict(os.environ)))\nprint(list({'a', 'b', 'c', 'd', 'e'}))"
    first, second = (run(usable(wall), program).stdout.splitlines() for _ in range(2))
    environment = json.loads(first[0])
    # LC_CTYPE and PWD are set by the interpreter and by bubblewrap.
    assert set(environment) <= {*ENVIRONMENT, "HOME", "TMPDIR", "LC_CTYPE", "PWD"}
    assert "secret" not in first[0]
    assert environment["HOME"] not in os.path.expanduser("~")
    assert first[1] == second[1]


@pytest.mark.parametrize("wall", ISOLATING)
def test_walls_hide_the_machine(wall: Wall, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("42")
    program = f"""
import os, socket
print(os.path.exists({str(tmp_path)!r}), os.path.exists({__file__!r}), os.path.exists({walls.__file__!r}))
print([name for name in os.listdir("/proc") if name.isdigit()], os.getppid())
for family, address in ((socket.AF_INET, ("127.0.0.1", 22)), (socket.AF_INET, ("192.0.2.1", 80))):
    try:
        socket.socket(family).connect(address)
    except OSError as error:
        print(type(error).__name__)
"""
    executed = run(usable(wall), program)
    assert executed.ok, executed.stderr
    seen, processes, *connected = executed.stdout.splitlines()
    assert seen == "False False False"
    assert processes == "['1', '2'] 1"
    assert len(connected) == 2, "no connection"


@pytest.mark.parametrize("wall", ISOLATING)
def test_walls_cannot_be_taken_down_from_inside(wall: Wall) -> None:
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
new_user, new_mounts, read_write = 0x10000000, 0x20000, 4096 | 32
print(libc.unshare(new_user), libc.unshare(new_mounts), libc.mount(b"none", b"/usr", None, read_write, None))
for path in ("/usr/here", "/here", "/proc/1/mem", "/proc/sys/kernel/hostname"):
    try:
        open(path, "w")
    except OSError:
        print("no")
for number in (9, 19):
    try:
        os.kill(1, number)
    except PermissionError:
        pass
print("still here")
"""
    executed = run(usable(wall), program)
    assert executed.stdout.splitlines() == ["-1 -1 -1", "no", "no", "no", "no", "still here"], executed.stderr


@pytest.mark.parametrize("wall", ISOLATING)
def test_a_fork_bomb_is_held_down_by_the_kernel_and_ended(wall: Wall, folder: Path) -> None:
    if not usable(wall).job(QUICK, "", 0)["count_in_kernel"]:
        pytest.skip("the kernel holds nothing down here: a real bomb would be felt by the neighbours")
    assert run(wall, "import os\nwhile True:\n try: os.fork()\n except OSError: pass").reason == "processes"
    assert not launchers(folder)


def test_without_walls_a_program_may_kill_what_watches_it() -> None:
    wall = usable(PLAIN)
    executed = run(wall, "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(0.5)")
    assert executed.reason == "signal"


@pytest.mark.parametrize("wall", WALLS)
def test_what_is_cancelled_is_ended(wall: Wall, folder: Path) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(run_behind(usable(wall), "import time\ntime.sleep(60)", "", Limits(seconds=60)))
        await asyncio.to_thread(until, lambda: launchers(folder))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not launchers(folder)


@pytest.mark.parametrize("wall", WALLS)
def test_what_is_started_by_a_process_that_is_killed_ends_with_it(wall: Wall, folder: Path) -> None:
    usable(wall)
    program = f"""
import asyncio
from tinsmith.cookbook.code_execution.limits import Limits
from tinsmith.cookbook.code_execution.runner import run_behind
from tinsmith.cookbook.code_execution.walls import Wall
wall = Wall({wall.kind!r}, {wall.other_user})
asyncio.run(run_behind(wall, "import time\\ntime.sleep(60)", "", Limits(seconds=60)))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        until(lambda: launchers(folder))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not launchers(folder))


def test_many_at_once_from_several_loops_but_no_more_than_said(folder: Path) -> None:
    sandbox = LocalSandbox(max_parallel=2)
    most = []

    async def many(count: int) -> list[str]:
        runs = [asyncio.create_task(sandbox.run(f"print({i})")) for i in range(count)]
        while not all(task.done() for task in runs):
            # Behind namespaces a launcher is two processes.
            most.append(len(set(launchers(folder))))
            await asyncio.sleep(0.01)
        return [task.result().stdout for task in runs]

    threads = [threading.Thread(target=lambda: asyncio.run(many(2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    most.clear()
    assert asyncio.run(many(6)) == [f"{i}\n" for i in range(6)]
    assert 1 <= max(most) <= 2


@pytest.mark.usefixtures("_another_machine")
def test_what_the_sandbox_does_not_do_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_sandbox, "candidates", lambda: [PLAIN])
    sandbox = LocalSandbox()
    assert not sandbox.isolates
    assert "reads all that you may read" in sandbox.describe()
    assert "has the network" in sandbox.describe()
    assert [record.getMessage() for record in caplog.records] == [sandbox.describe()]
    with pytest.raises(SandboxError, match=r"require_isolation: .*not isolated"):
        LocalSandbox(require_isolation=True)


def test_a_wall_that_does_not_hold_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Wall.command
    monkeypatch.setattr(Wall, "command", lambda _, *rest: command(PLAIN, *rest))
    why = asyncio.run(local_sandbox.why_not(Wall("namespaces", other_user=False)))
    assert why == "a program sees a file of this machine; a server on this machine"


@pytest.mark.usefixtures("_another_machine")
def test_why_better_walls_are_not_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "_bubblewrap", lambda size: ["/no/such/bwrap", "--"])
    monkeypatch.setattr(local_sandbox, "candidates", lambda: [Wall("bubblewrap", other_user=False), PLAIN])
    assert "; not bubblewrap: [Errno 2] No such file or directory" in LocalSandbox().describe()


@pytest.mark.usefixtures("_another_machine")
def test_a_sandbox_that_cannot_start_anything_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "PYTHON", "/no/such/python")
    with pytest.raises(SandboxError, match=r"no program can be started here: .*/no/such/python"):
        LocalSandbox()


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UserError, match="max_parallel: got 0, expected at least 1"):
        LocalSandbox(max_parallel=0)
    with pytest.raises(UserError, match=r"limits.seconds: got 0, expected a number above 0"):
        Limits(seconds=0)
    with pytest.raises(UserError, match=r"limits.cpu_seconds: got 1.5, expected a whole number above 0"):
        Limits(cpu_seconds=1.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(os.getuid() != 0, reason="the tests above ran as an ordinary user")
def test_the_same_ends_for_an_ordinary_user() -> None:
    python = "/usr/bin/python3"
    packages = [path for path in sys.path if path.endswith("-packages")]
    source = [str(Path(walls.__file__).parents[3]), str(Path(__file__).parents[3])]
    environment = {"PYTHONPATH": ":".join([*source, *packages]), "PATH": os.environ["PATH"], "HOME": "/home"}
    # 65534 is nobody, who may read what everyone may.
    ordinary = {"env": environment, "user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "text": True}
    script = [python, "-B", str(Path(__file__).parent / "walls_here.py")]
    try:
        tried = subprocess.run(script, capture_output=True, timeout=120, **ordinary)
    except OSError as error:
        pytest.skip(f"{python}: {error}")
    if "ModuleNotFoundError" in tried.stderr or "PermissionError" in tried.stderr:
        pytest.skip(f"{python} cannot import this package: {tried.stderr[-200:]}")
    assert tried.returncode == 0, tried.stderr
    found = json.loads(tried.stdout)
    assert found["none"] is None, "limits alone work for anybody"
    for ends in (found["namespaces"], found["bubblewrap"]):
        if isinstance(ends, dict):
            assert ends.pop("sees") == "False False\n"
            assert ends == {name: HOSTILE[name][1] for name in ends}


def test_this_machine_has_a_sandbox() -> None:
    usable_here = [wall for wall in candidates() if refused(wall) is None]
    assert usable_here, "at least limits alone work anywhere"
    assert local_sandbox.find_wall()[0] == usable_here[0]
