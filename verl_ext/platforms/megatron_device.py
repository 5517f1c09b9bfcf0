"""What Megatron's rewritten sources find in place of ``torch.cuda``.

The CPU platform's device module, with Megatron's random number generators on torch's CPU generator.
A name that is not here (a class in an annotation) is looked up in ``torch.cuda``; a function from
there that needs a device says so itself.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from verl_ext.platforms.cpu_device import (
    current_device,
    current_stream,
    device_count,
    empty_cache,
    get_device_name,
    get_rng_state,
    is_available,
    manual_seed,
    manual_seed_all,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    reset_peak_memory_stats,
    set_device,
    set_rng_state,
    stream,
    synchronize,
)

__all__ = [
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "default_generators",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_rng_state",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "random",
    "reset_peak_memory_stats",
    "set_device",
    "set_rng_state",
    "stream",
    "synchronize",
]

# torch.cuda.default_generators[torch.cuda.current_device()]
default_generators = {torch.device("cpu"): torch.default_generator}

# torch.cuda.random.get_rng_state is torch.cuda.get_rng_state.
random = sys.modules[__name__]


class Event:
    """A point that every stream has passed already."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Stream(torch.cpu.Stream):
    """A queue that is always empty: work on the CPU is done when its call returns."""

    def record_event(self) -> Event:  # type: ignore[override]
        """An event that has happened."""
        return Event()


def _lazy_init() -> None:
    """There is no context to create."""


def _lazy_call(function: Callable[[], Any], **_: Any) -> None:
    """Calls at once: torch would queue until CUDA is initialised, which never happens."""
    function()


def __getattr__(name: str) -> Any:
    return getattr(torch.cuda, name)
