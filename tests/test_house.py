"""The sizes that CONTRIBUTING promises: files one can read in a sitting, functions on a screen."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("advantage_fns", "reward_fns", "verl_ext", "hydra_plugins", "benchmarks", "docs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES, MOST_OF_A_FUNCTION, USUAL = 250, 60, 20


def lines_of(file):
    return len(file.read_text(encoding="utf-8").splitlines())


def functions(file):
    """Name and length of each function's body, without its docstring."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield node.name, (node.end_lineno - body[0].lineno + 1 if body else 0)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(file):
    lines = lines_of(file)
    assert lines <= MOST_LINES, f"{lines} lines"
    for name, length in functions(file):
        assert length <= MOST_OF_A_FUNCTION, f"{name} has {length} lines"


def test_the_files_of_tests_are_short_too():
    lengths = {str(file.relative_to(ROOT)): lines_of(file) for file in TESTS}
    too_long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert not too_long


def test_most_functions_are_shorter():
    lengths = [length for file in FILES for _, length in functions(file)]
    assert statistics.quantiles(lengths, n=10)[-1] <= USUAL
