"""Runs a program against its tests, in the sandbox, and tells what came out; nobody here knows what is right.

Standard input is a Python literal: `{"program": text, "most": bytes, "inputs": [...]}` runs the program once for every
standard input, `{"program": text, "calls": [...]}` runs it once and evaluates each expression in it. Standard output is
a line of JSON per test: `{"test": i, "stdout": text, "exit_code": code, "error": text, "flooded": bool}` for an input,
and `{"test": i, "value": encoded}` or `{"test": i, "error": text}` for an expression. The program can write such lines
too, which is why they hold no verdict.

Imports are few because they are most of what a short program costs: `json` and `typing` take longer than Python itself.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import types

try:
    from _json import encode_basestring_ascii as quoted  # pyright: ignore[reportMissingImports]
except ImportError:  # another Python than CPython
    from json.encoder import encode_basestring_ascii as quoted

FILE = "<program>"


def main(job: dict) -> None:
    """Run all tests of a job."""
    # `exit` is of the interactive shell, but so many programs end with it that it has to be there.
    builtins.exit = builtins.quit = sys.exit
    results = os.dup(1)
    os.set_inheritable(results, False)
    os.dup2(2, 1)
    # Compiled once. What does not compile raises here, and no test has a line.
    code = compile(job["program"], FILE, "exec")
    if "calls" in job:
        evaluate(code, job["calls"], results)
    else:
        for index, text in enumerate(job["inputs"]):
            tell(results, index, run_once(code, text, job["most"]))


def tell(results: int, index: int, outcome: dict) -> None:
    """Write one line of results."""
    line = to_json({"test": index, **outcome}).encode() + b"\n"
    while line:
        line = line[os.write(results, line) :]


def evaluate(code: types.CodeType, calls: list[str], results: int) -> None:
    """Run the program, then evaluate the calls in its names, one after the other."""
    names = new_module("program")
    exec(code, names)
    for index, call in enumerate(calls):
        try:
            outcome = {"value": encode(eval(compile(call, "<test>", "eval"), names))}
        except BaseException as error:
            outcome = {"error": last_line(error)}
        tell(results, index, outcome)
    # Threads that the program left running are not waited for.
    sys.stdout.flush()
    os._exit(0)


def run_once(code: types.CodeType, text: str, most: int) -> dict:
    """Run the program in a process of its own, as a script."""
    reads, writes = os.pipe()
    error_reads, error_writes = os.pipe()
    child = os.fork()
    if not child:
        become_script(text, writes, error_writes)
        # Not caught: the interpreter ends as it does after any script, threads and exit handlers included.
        exec(code, new_module("__main__"))
        sys.exit()
    os.close(writes)
    os.close(error_writes)
    stdout = bytearray()
    while len(stdout) <= most and (chunk := os.read(reads, 1 << 16)):
        stdout += chunk
    flooded = len(stdout) > most
    if flooded:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    error = os.read(error_reads, 4096).decode(errors="replace") if not flooded else ""
    os.close(reads)
    os.close(error_reads)
    shown = bytes(stdout[:most]).decode(errors="replace")
    return {"stdout": shown, "exit_code": os.waitstatus_to_exitcode(status), "error": error, "flooded": flooded}


def become_script(text: str, stdout: int, errors: int) -> None:
    """Give this process the streams of a script, and a place to say what it raised."""
    given = os.memfd_create("stdin")
    with open(given, "wb", closefd=False) as file:
        file.write(text.encode(errors="surrogatepass"))
    os.lseek(given, 0, 0)
    os.dup2(given, 0)
    os.dup2(stdout, 1)
    reader = io.BufferedReader(io.FileIO(0, "rb", closefd=False))
    writer = io.BufferedWriter(io.FileIO(1, "wb", closefd=False))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(reader, encoding="utf-8")
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(writer, encoding="utf-8")

    def say(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        os.write(errors, last_line(error).encode(errors="replace")[:4000])
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = say


def new_module(name: str) -> dict:
    """Make the module that the program fills; dataclasses and pickle look for it by its name."""
    module = sys.modules[name] = types.ModuleType(name)
    return module.__dict__


def last_line(error: BaseException) -> str:
    """Return what a traceback ends with."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{name}: {text}"[:1000] if text else name


def encode(value: object) -> object:
    """Return a value in the terms of JSON, so that lists, tuples, sets and numbers stay what they are.

    Raises:
        TypeError: it is none of Python's own values.
    """
    if value is None or isinstance(value, bool | float | str):
        return {"float": repr(float(value))} if isinstance(value, float) else value
    if isinstance(value, int):
        return {"int": hex(value)}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(each) for each in value]}
    if isinstance(value, set | frozenset):
        return {"set": [encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    raise TypeError(f"a value of type {type(value).__name__} cannot be compared")


def to_json(value: object) -> str:
    """Return texts, whole numbers, lists and the like as JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(to_json, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {to_json(each)}' for key, each in value.items())}}}"
    return str(value)


if __name__ == "__main__":
    main(eval(sys.stdin.read(), {"__builtins__": {}}))
