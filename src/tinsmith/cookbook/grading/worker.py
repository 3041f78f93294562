"""A worker process: reads questions from its standard input, one JSON object a line, and answers each with a reason.

Nothing that comes in is ever executed: the texts are read by this package, or by the parser of math-verify, into
objects of sympy. The limits are for what sympy makes of them. A worker ends when its standard input does, so none
outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from typing import BinaryIO

from tinsmith.cookbook.grading.algebra import SympyAlgebra, UnreadableReference
from tinsmith.cookbook.grading.expressions import Unreadable
from tinsmith.cookbook.grading.matching import match
from tinsmith.cookbook.grading.reading import read
from tinsmith.cookbook.grading.reasons import Reason

# Of address space, in bytes; sympy and math-verify alone take about 0.3 GiB of it.
_MEMORY = 2 << 30


def serve(questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer questions until there are no more."""
    algebra = SympyAlgebra()
    replies.write(b"ready\n")
    for line in questions:
        question = json.loads(line)
        # Processor time, so that a busy machine makes no answer wrong. Nobody handles the signal: it ends the process,
        # whatever the process is doing, and whether or not the parent is still there.
        signal.setitimer(signal.ITIMER_PROF, question["seconds"])
        try:
            reason = judge(question["given"], question["reference"], algebra)
        except MemoryError:
            # A fresh process is better than one in which sympy stopped anywhere.
            replies.write(Reason.FAILED.encode() + b"\n")
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(reason.encode() + b"\n")


def judge(given: str, reference: str, algebra: SympyAlgebra) -> Reason:
    """Compare an answer with a reference. Out of memory is the one thing that it raises."""
    try:
        return Reason.EQUAL if match(read(given), read(reference), algebra) else Reason.DIFFERENT
    except (Unreadable, RecursionError):
        return Reason.UNPARSABLE
    except UnreadableReference:
        return Reason.BAD_REFERENCE
    except MemoryError:
        raise
    # An answer that sympy fails at is a wrong answer, whatever it fails with.
    except Exception:
        return Reason.FAILED


def _limit(name: int, limit: int) -> None:
    hard = resource.getrlimit(name)[1]
    # macOS refuses a limit of address space; what is left there is the limit of time.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(name, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """Serve the parent."""
    # What a library prints goes to standard error; standard output is for replies.
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        os.dup2(2, 1)
        logging.disable(logging.CRITICAL)
        for name, limit in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
            _limit(name, limit)
        serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
