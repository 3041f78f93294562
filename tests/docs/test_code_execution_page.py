"""The page about running code: its sandbox of one's own, and its table of reasons."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

import pytest

from tests.docs.snippets import ROOT, blocks_of
from tinsmith.cookbook.code_execution import CodeProblem, Limits, LocalSandbox, SandboxError, grade_code
from tinsmith.cookbook.code_execution.sandbox import Reason

PAGE = ROOT / "docs/code-execution.md"
OWN = blocks_of(PAGE)[-1].code
pytestmark = pytest.mark.row(70)


class Server(BaseHTTPRequestHandler):
    """Answers like a server of SandboxFusion, with the sandbox of this machine behind it."""

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/run_code"
        if "no such" in job["code"]:
            answer: dict[str, Any] = {"status": "SandboxError", "message": "out of pods"}
        else:
            limits = Limits(seconds=job["run_timeout"], memory=job["memory_limit_MB"] << 20)
            ran = asyncio.run(LocalSandbox().run(job["code"], job["stdin"], limits))
            result = {
                "status": "TimeLimitExceeded" if ran.reason == "time" else "Finished",
                "execution_time": ran.seconds,
                "return_code": 0 if ran.ok else 1,
                "stdout": ran.stdout,
                "stderr": ran.stderr,
            }
            answer = {"status": "Success" if ran.ok else "Failed", "message": "", "run_result": result}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_sandbox_of_one_s_own_grades_like_the_local_one(url: str) -> None:
    names: dict[str, Any] = {}
    exec(OWN, names)
    sandbox = names["FusionSandbox"](url, Limits(seconds=1.0))
    calls = CodeProblem.from_row({"statement": "?", "tests": ["assert f(1) == 2", "assert f(2) == 3"]})
    script = CodeProblem.from_row({"statement": "?", "tests": [{"stdin": "1", "stdout": "1"}]})

    def verdicts(problem: CodeProblem, code: str) -> list[str]:
        return [result.verdict for result in asyncio.run(grade_code(problem, code, sandbox)).results]

    assert verdicts(calls, "def f(x): return x + 1") == ["passed", "passed"]
    assert verdicts(calls, "def f(x): return 2") == ["passed", "wrong answer"]
    assert verdicts(script, "print(input())") == ["passed"]
    assert verdicts(script, "print(bytes(1 << 40))") == ["memory"]
    assert verdicts(script, "import time\ntime.sleep(60)") == ["time"]
    with pytest.raises(SandboxError, match="out of pods"):
        asyncio.run(sandbox.run("no such"))
    with pytest.raises(SandboxError, match="http://127"):
        asyncio.run(names["FusionSandbox"]("http://127.0.0.1:9").run("print(1)"))


def test_the_table_names_every_reason_and_the_limits_as_they_are() -> None:
    ends = PAGE.read_text(encoding="utf-8").partition("## How a run ends")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", ends, re.MULTILINE))
    assert set(rows) == set(get_args(Reason))
    limits = Limits()
    for reason, value in (
        ("time", f"({limits.seconds:g})"),
        ("cpu", f"({limits.cpu_seconds})"),
        ("memory", f"({limits.memory >> 20} MiB of"),
        ("processes", f"({limits.processes})"),
        ("disk", f"({limits.disk >> 20} MiB)"),
        ("files", f"({limits.open_files})"),
        ("output", f"({limits.output >> 20} MiB each)"),
    ):
        assert value in rows[reason]
