"""Megatron's sources, read with the CPU in place of CUDA.

Megatron-core and its bridges name CUDA as a literal in some hundred places: ``device="cuda"``,
``torch.cuda.current_device()``, ``.cuda()``, ``"torch.cuda.FloatTensor"``. They offer no seam, and
a patch a line would not survive an upgrade. So a loader rewrites those expressions in the syntax
tree while the modules of these three packages are imported. torch itself is left alone, no file on
disk changes, and where an accelerator exists the loader does nothing.
"""

import ast
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from verl_ext.platforms import cpu

PACKAGES = ("megatron.core", "megatron.bridge", "mbridge")
STAND_IN = "verl_ext.platforms.megatron_device"
_NAME = "_verl_ext_cpu"


def install() -> None:
    """Puts the finder right before Python's own, after our import hooks; safe to call twice."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder), Finder())


def on_cpu(source: str | bytes, filename: str = "<source>") -> ast.Module:
    """The syntax tree of a Megatron module with CUDA replaced by the CPU.

    ==============================  =========================
    in the source                   in the tree
    ==============================  =========================
    ``torch.cuda``                  our stand-in module
    ``from torch.cuda import x``    ``from`` our stand-in
    ``"cuda"``, ``f"cuda:{i}"``     ``"cpu"``
    ``"torch.cuda.FloatTensor"``    ``"torch.FloatTensor"``
    ``x.cuda(...)``                 ``x``
    ``x.is_cuda``                   ``x.is_cpu``
    ``pin_memory=True``             ``pin_memory=False``
    ``x.pin_memory()``              ``x``
    ``x.record_stream(...)``        ``x``
    ==============================  =========================

    Line numbers stay, so tracebacks point into the file on disk.
    """
    tree = ast.parse(source, filename)
    rewriter = _Rewriter()
    rewriter.visit(tree)
    if rewriter.uses_stand_in:
        package, _, module = STAND_IN.rpartition(".")
        statement = ast.ImportFrom(package, [ast.alias(module, _NAME)], 0)
        tree.body.insert(_after_docstring_and_futures(tree), statement)
    ast.fix_missing_locations(tree)
    return tree


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles :func:`on_cpu` of the file; never reads or writes a ``.pyc`` of it."""

    def path_stats(self, path: str) -> Any:
        """No modification time, so importlib keeps away from the byte-code cache."""
        raise OSError(f"{path} is compiled from a rewritten tree")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        """The code object of the rewritten tree."""
        return compile(on_cpu(data, path), path, "exec", dont_inherit=True, optimize=_optimize)


class Finder(importlib.abc.MetaPathFinder):
    """Gives the modules of :data:`PACKAGES` our loader while the CPU platform is in force."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Python's own spec of the module, with our loader."""
        if not any(fullname == name or fullname.startswith(f"{name}.") for name in PACKAGES):
            return None
        if not cpu.in_force():
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.uses_stand_in = False

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if _is_torch_cuda(node):
            self.uses_stand_in = True
            return ast.copy_location(ast.Name(_NAME, node.ctx), node)
        self.generic_visit(node)
        if node.attr == "is_cuda":
            node.attr = "is_cpu"
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.module == "torch.cuda":
            node.module = STAND_IN
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if method in ("cuda", "pin_memory", "record_stream") and not _is_torch_cuda(node.func):
            assert isinstance(node.func, ast.Attribute)
            receiver: ast.expr = self.visit(node.func.value)
            return receiver
        self.generic_visit(node)
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        self.generic_visit(node)
        if node.arg == "pin_memory":
            node.value = ast.copy_location(ast.Constant(False), node.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if node.value == "cuda":
            return ast.copy_location(ast.Constant("cpu"), node)
        if isinstance(node.value, str) and node.value.startswith("torch.cuda."):
            name = node.value.replace("torch.cuda.", "torch.", 1)
            return ast.copy_location(ast.Constant(name), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and first.value == "cuda:":
            return ast.copy_location(ast.Constant("cpu"), node)
        self.generic_visit(node)
        return node


def _is_torch_cuda(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "cuda"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    )


def _after_docstring_and_futures(tree: ast.Module) -> int:
    index = 1 if ast.get_docstring(tree, clean=False) is not None else 0
    while index < len(tree.body):
        statement = tree.body[index]
        if not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            break
        index += 1
    return index
