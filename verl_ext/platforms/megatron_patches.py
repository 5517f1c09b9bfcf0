"""What Megatron and verl's Megatron engine need on the CPU beyond ``megatron_import``.

One function per patch; its docstring is the reason. They are made for the versions in CHECKED; the
driver refuses others, and ``tests/platforms/test_megatron_patches.py`` fails where an upgrade makes
a patch unnecessary.
"""

import functools
import logging
from types import ModuleType
from typing import Any

from verl_ext.platforms.megatron_import import Loader
from verl_ext.platforms.patching import patch

CHECKED = {"megatron-core": ">=0.16,<0.17", "mbridge": ">=0.15,<0.16"}


@patch("megatron.core.jit")
def no_compilation(module: ModuleType) -> None:
    """Megatron compiles small functions with torch.compile: minutes of C++ for a tiny model."""
    module.disable_jit_fuser()


@patch("megatron.core.tensor_parallel.random")
def one_generator(module: ModuleType) -> None:
    """Megatron warns when the CPU's generator moves in a fork of the GPU's; here they are one."""
    module.logging.getLogger(module.__name__).addFilter(_not_about_the_generator)


def _not_about_the_generator(record: logging.LogRecord) -> bool:
    return "CPU RNG state changed" not in record.getMessage()


@patch("megatron.core.extensions.transformer_engine_spec_provider")
def layers_of_experts(module: ModuleType) -> None:
    """The provider of Transformer Engine's layers; without it every layer is a mock object."""
    from verl_ext.platforms.megatron_layers import CPUSpecProvider

    module.TESpecProvider = CPUSpecProvider  # type: ignore[attr-defined]


@patch("megatron.core.models.gpt.gpt_layer_specs")
def layers(module: ModuleType) -> None:
    """Both names are left undefined where transformer_engine cannot be imported."""
    from verl_ext.platforms.megatron_layers import CPUSpecProvider, TENorm

    module.TESpecProvider = CPUSpecProvider  # type: ignore[attr-defined]
    module.TENorm = TENorm  # type: ignore[attr-defined]


@patch("megatron.core.optimizer")
def adam(module: ModuleType) -> None:
    """Megatron's fallback to torch's AdamW cannot resume: see ``megatron_adam``."""
    from verl_ext.platforms.megatron_adam import FusedAdam

    module.Adam = FusedAdam  # type: ignore[attr-defined]
    module.USING_PYTORCH_OPTIMIZER = False  # type: ignore[attr-defined]


@patch("megatron.core.optimizer.distrib_optimizer")
def adam_of_the_distributed_optimizer(module: ModuleType) -> None:
    """The same: its checkpoint takes the path of Transformer Engine's optimizer."""
    from verl_ext.platforms.megatron_adam import FusedAdam

    module.Adam = FusedAdam  # type: ignore[attr-defined]
    module.HAVE_APEX_OR_TE = True  # type: ignore[attr-defined]
    module.USING_TE_OPTIMIZER = True  # type: ignore[attr-defined]


@patch("megatron.core.optimizer.distrib_optimizer")
def float32_state_loads(module: ModuleType) -> None:
    """A float32 model's main weights are views of it, and Megatron loads into them under autograd.

    With 16-bit weights they are tensors of their own, so on GPUs nobody meets this.
    """
    optimizer = module.DistributedOptimizer
    original = optimizer._set_main_param_and_optimizer_states

    @functools.wraps(original)
    def set_states(self: Any, *args: Any, **kwargs: Any) -> None:
        with module.torch.no_grad():
            original(self, *args, **kwargs)

    optimizer._set_main_param_and_optimizer_states = set_states


@patch("megatron.core.transformer.moe.moe_utils")
def router_without_transformer_engine(module: ModuleType) -> None:
    """The router asks ``te_general_gemm is not None``, a name its failed import leaves unbound."""
    if not hasattr(module, "te_general_gemm"):
        module.te_general_gemm = None  # type: ignore[attr-defined]


@patch("verl.workers.config.engine")
def float32_engine(module: ModuleType) -> None:
    """verl lets Megatron compute in 16 bits alone; exact comparisons need 32.

    The dtype is hidden from verl's check and put back, so every other check stays.
    """
    config = module.McoreEngineConfig
    original = config.__post_init__

    @functools.wraps(original)
    def post_init(self: Any) -> None:
        dtype = self.dtype
        if dtype == "float32":
            object.__setattr__(self, "dtype", "bfloat16")
        original(self)
        object.__setattr__(self, "dtype", dtype)

    config.__post_init__ = post_init


@patch("verl.workers.config.engine")
def no_warnings_about_our_choices(module: ModuleType) -> None:
    """verl warns of mbridge, the one bridge without CUDA, and of its own sequence_parallel."""
    warnings = module.warnings
    warnings.filterwarnings("ignore", "The legacy mbridge backend", FutureWarning)
    warnings.filterwarnings("ignore", "set sequence parallel to false", UserWarning)


@patch("verl.workers.engine.megatron.transformer_impl")
def megatron_on_cpu(module: ModuleType) -> None:
    """verl registers its Megatron engines for cuda only; the classes run on cpu as they are.

    Raises:
        RuntimeError: megatron was imported before verl, so its modules still speak of CUDA.
    """
    from megatron.core import parallel_state
    from verl.workers.engine.base import EngineRegistry

    if not isinstance(parallel_state.__loader__, Loader):
        raise RuntimeError("import verl before megatron: megatron.core was loaded for CUDA already")
    engines = {
        "language_model": module.MegatronEngineWithLMHead,
        "value_model": module.MegatronEngineWithValueHead,
    }
    for model_type, engine in engines.items():
        EngineRegistry.register(model_type=model_type, backend="megatron", device="cpu")(engine)
