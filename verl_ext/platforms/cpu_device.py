"""The device module of the CPU platform: what verl calls on ``torch.cuda``, answered for the CPU.

verl reaches its accelerator through one module object (``get_torch_device()``). ``torch.cpu`` lacks
half of the functions verl calls on it; rather than adding attributes to torch, the platform hands
verl this module. Memory figures are those of the process, so verl's logs stay meaningful.
"""

from typing import Any

import psutil
import torch
from torch.cpu import current_stream, is_available, stream, synchronize

__all__ = ["current_stream", "is_available", "stream", "synchronize"]


def current_device() -> torch.device:
    """The CPU as a device object: verl passes it to ``Tensor.to``, where an index would fail."""
    return torch.device("cpu")


def device_count() -> int:
    """One logical device per process."""
    return 1


def set_device(device: Any) -> None:
    """Does nothing: a process has one CPU device."""


def get_device_name(device: Any = None) -> str:
    """The key of verl's own FLOPS table for CPUs."""
    return "CPU"


def memory_allocated(device: Any = None) -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def max_memory_allocated(device: Any = None) -> int:
    """Peak resident bytes of this process."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total bytes of the host."""
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def reset_peak_memory_stats(device: Any = None) -> None:
    """Does nothing: the kernel keeps one peak per process life."""


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Does nothing: the host has no such limit."""


def empty_cache() -> None:
    """Does nothing: the CPU allocator caches nothing that would need freeing."""


def ipc_collect() -> None:
    """Does nothing: there are no IPC handles."""


def manual_seed(seed: int) -> None:
    """Seeds torch's CPU generator."""
    torch.manual_seed(seed)


manual_seed_all = manual_seed


def get_rng_state(device: Any = None) -> torch.Tensor:
    """State of torch's CPU generator."""
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    """Restores torch's CPU generator."""
    torch.set_rng_state(state)
