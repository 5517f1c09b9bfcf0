"""What makes a fork another process: its open files and the program it runs."""

import fcntl
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path


def place(files: list[int], numbers: list[int]) -> None:
    """Gives open files the numbers that they had where they come from."""
    above = max([*numbers, *files]) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in files]
    for fd in files:
        os.close(fd)
    for fd, number in zip(high, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    for number in {0, 1, 2} - set(numbers):
        nothing = os.open(os.devnull, os.O_RDWR)
        if nothing != number:
            os.dup2(nothing, number)
            os.close(nothing)


def run(argv: Sequence[str]) -> None:
    """Runs a script, or the code after ``-c``, as ``python`` does."""
    module = types.ModuleType("__main__")
    if argv[0] == "-c":
        name, source, first = "<string>", argv[1], ""
        sys.argv = ["-c", *argv[2:]]
    else:
        name, source = argv[0], Path(argv[0]).read_text(encoding="utf-8")
        first = str(Path(name).resolve().parent)
        module.__file__ = name
        sys.argv = list(argv)
    if not sys.flags.safe_path:
        sys.path[0] = first  # of the server: its directory
    sys.modules["__main__"] = module
    exec(compile(source, name, "exec"), module.__dict__)
