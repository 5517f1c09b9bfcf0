"""Which modules are mutated, which test files belong to each, and the copy that is mutated."""

import ast
import functools
import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "advantage_fns": "verl_ext.advantage_fns",
    "verl_ext/losses": "verl_ext.losses",
    "verl_ext/masks": "verl_ext.masks",
    "verl_ext/metrics": "verl_ext.metrics",
    "reward_fns": "verl_ext.reward_fns",
    "verl_ext/sampling": "verl_ext.sampling",
    "verl_ext/self_teaching": "verl_ext.self_teaching",
    "verl_ext/data": "verl_ext.data",
}
TESTS = (
    "tests/unit/**/test_*.py",
    "tests/reference/test_*.py",
    "tests/contract/test_advantages.py",
)
# They import every module and test none; start processes, which take a minute; are statistics.
LEFT_OUT = (
    *("test_catalog.py", "test_cli.py"),
    "test_vocab_parallel_divergence.py",
    "test_tournament_faults.py",
)


def pure_modules() -> dict[str, Path]:
    """Name -> source of every module of formulas."""
    files = {
        f"{package}.{path.stem}": path
        for folder, package in FOLDERS.items()
        for path in sorted((ROOT / folder).glob("*.py"))
        if path.stem != "__init__"
    }
    return {**files, "verl_ext.tensor_ops": ROOT / "verl_ext" / "tensor_ops.py"}


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports; those of a ``from``'s names may be none."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{each.name}" for each in node.names}
    return names


@functools.cache
def _importers() -> dict[str, list[str]]:
    """Module of the package -> the modules that import it."""
    importers: dict[str, list[str]] = {}
    for name, path in (*pure_modules().items(), *_rest()):
        for each in imported(path):
            importers.setdefault(each, []).append(name)
    return importers


def _rest() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "verl_ext").glob("*.py")):
        yield f"verl_ext.{path.stem}", path


@functools.cache
def _tests() -> dict[Path, set[str]]:
    files = [path for kind in TESTS for path in sorted(ROOT.glob(kind))]
    return {path: imported(path) for path in files if path.name not in LEFT_OUT}


def tests_of(module: str) -> list[Path]:
    """Test files: named after a module; that import it; that import one that does; further ones.

    What is further than that is looked for only where there is nothing nearer.
    """
    seen, near = {module}, [module]
    named = f"test_{module.rsplit('.', 1)[1]}"
    found = sorted(_importing(near), key=lambda path: not path.name.startswith(named))
    for _ in range(9):
        near = [each for name in near for each in _importers().get(name, ()) if each not in seen]
        seen |= set(near)
        found += [path for path in _importing(near) if path not in found]
        if found:
            break
    return found


def nearest(module: str, tests: Sequence[Path]) -> int:
    """How many of the first test files are of one subject: named after it, or after the first."""
    names = (f"test_{module.rsplit('.', 1)[-1]}", *(path.stem for path in tests[:1]))
    return len(list(itertools.takewhile(lambda path: path.name.startswith(names), tests)))


def _importing(names: Iterable[str]) -> list[Path]:
    wanted = set(names)
    return [path for path, imports in _tests().items() if imports & wanted]


def stage(folder: Path) -> None:
    """Installs the package into a folder, as a user has it.

    An editable install maps folders to packages; a mutant would be written into the checkout.
    """
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-compile", "--target", str(folder), "."], cwd=ROOT, check=True)


def staged(folder: Path, module: str) -> Path:
    """The file of a module in the copy."""
    return folder.joinpath(*module.split(".")).with_suffix(".py")
