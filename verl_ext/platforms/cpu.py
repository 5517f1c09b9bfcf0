"""The CPU as a verl platform: verl's whole stack on a machine without an accelerator.

Chosen by verl itself where no accelerator exists, or by ``VERL_PLATFORM=cpu``. What verl offers a
seam for stands here; the few places without one are patched in ``cpu_patches`` and, for Megatron,
``megatron_import``, ``megatron_layers`` and ``megatron_patches``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import get_platform
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from verl_ext.platforms import cpu_device

# Set in all processes of a run on accelerators: some of these, on some nodes, see none.
OFF = "VERL_EXT_CPU_PLATFORM_OFF"


class PlatformCPU(PlatformBase):
    """Host CPU with logical GPUs for Ray and gloo for collectives."""

    device_name = "cpu"
    vendor_name = "cpu"

    @property
    def device_module(self) -> ModuleType:
        """``torch.cuda``'s stand-in."""
        return cpu_device

    def is_available(self) -> bool:
        """A CPU is always there."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """True where no other registered platform is: an accelerator always wins."""
        if os.environ.get(OFF) or _sees_gpu():
            return False
        others = (PlatformRegistry.get(name) for name in PlatformRegistry.registered_names())
        return not any(
            cls().is_platform_available(use_smi_check=use_smi_check)
            for cls in others
            if cls is not None and cls is not PlatformCPU
        )

    def current_device(self) -> torch.device:  # type: ignore[override]
        """A device object; verl passes it to ``Tensor.to``, where index 0 would mean a GPU."""
        return cpu_device.current_device()

    def device_count(self) -> int:
        """One."""
        return cpu_device.device_count()

    def set_device(self, device_index: int) -> None:
        """Nothing to select."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing is asynchronous."""

    def manual_seed(self, seed: int) -> None:
        """Seeds the CPU generator."""
        cpu_device.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seeds the CPU generator."""
        cpu_device.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """CUDA allocator settings mean nothing here."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No CUDA compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Ray numbers our logical GPUs through this variable; nothing reads it as a device."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        """``GPU``: verl counts only GPUs and NPUs, so one worker is one *logical* GPU of Ray."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """As on CUDA, since the resource is called GPU."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """No device IPC: weights travel through shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """vLLM-CPU: cores are shared with the trainer, so bind nothing; 1 GiB of KV cache."""
        return {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    def cudart(self) -> Any:
        """No CUDA runtime."""
        return None


def _sees_gpu() -> bool:
    """Also where verl's platforms look in vain: ``nvidia-smi`` is not in every container."""
    driver = {"cuda": "/dev/nvidiactl", "hip": "/dev/kfd"}
    built = [name for name in driver if getattr(torch.version, name)]
    return torch.cuda.is_available() or any(os.path.exists(driver[name]) for name in built)


def register() -> None:
    """Makes verl know the platform; must run before verl asks for its platform."""
    if PlatformRegistry.get("cpu") is not PlatformCPU:
        PlatformRegistry.register(platform="cpu")(PlatformCPU)


def in_force() -> bool:
    """Whether verl runs on this platform in this process."""
    return isinstance(get_platform(), PlatformCPU)
