"""Patches of other people's modules: declared once, applied when the module is imported.

Every patch acts only where the CPU platform is in force, and has a test in ``tests/platforms/``
that fails once upstream no longer needs it.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType

from verl_ext.platforms import cpu
from verl_ext.post_import import when_imported

Patch = Callable[[ModuleType], None]
PATCHES: dict[str, list[Patch]] = {}


def patch(module_name: str) -> Callable[[Patch], Patch]:
    """Declares a patch of ``module_name``; its docstring is the reason."""

    def declare(function: Patch) -> Patch:
        PATCHES.setdefault(module_name, []).append(function)
        return function

    return declare


def install() -> None:
    """Hooks every patch to the import of its module."""
    from verl_ext.platforms import cpu_patches, megatron_import, megatron_patches  # noqa: F401

    for module_name, patches in PATCHES.items():
        for function in patches:
            when_imported(module_name, partial(apply, function))
    megatron_import.install()
    cpu_patches.install_metadata()


def apply(function: Patch, module: ModuleType) -> None:
    """Patches the module if this process computes on the CPU."""
    if cpu.in_force():
        function(module)
