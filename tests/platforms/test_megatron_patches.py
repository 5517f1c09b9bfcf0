"""Each Megatron patch does what it says and is still needed: see test_cpu_patches.py."""

import importlib
import inspect
import logging
import warnings

import pytest
import torch
import verl  # loads the plugin  # noqa: F401

from verl_ext.platforms import patching


def source_of(module_name):
    return inspect.getsource(importlib.import_module(module_name))


def test_every_patch_is_hooked_and_says_why():
    names = [f.__name__ for patches in patching.PATCHES.values() for f in patches]
    assert {"no_compilation", "layers", "float32_engine", "megatron_on_cpu"} <= set(names)
    assert all(f.__doc__ for patches in patching.PATCHES.values() for f in patches)


def test_nothing_is_compiled_and_megatron_still_would():
    jit = importlib.import_module("megatron.core.jit")
    assert jit.jit_fuser is jit.noop_decorator
    assert source_of("megatron.core.jit").rstrip().endswith("enable_jit_fuser()")


def test_a_fork_of_the_generator_is_silent_and_restores_the_outer_one(caplog):
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    assert "CPU RNG state changed within GPU RNG context" in inspect.getsource(random)
    tracker = random.CudaRNGStatesTracker()
    tracker.add("ours", 7)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        with tracker.fork("ours"):
            inside = torch.rand(2)
        with tracker.fork("ours"):
            later = torch.rand(2)
    assert "CPU RNG" not in caplog.text
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(2), later)  # a fork goes on where the last one stopped


def test_models_are_built_from_our_layers_and_megatron_still_has_none():
    from verl_ext.platforms.megatron_layers import CPUSpecProvider, TENorm

    dense = importlib.import_module("megatron.core.models.gpt.gpt_layer_specs")
    experts = importlib.import_module("megatron.core.models.gpt.moe_module_specs")
    assert dense.TESpecProvider is experts.TESpecProvider is CPUSpecProvider
    assert dense.TENorm is TENorm
    assert not dense.HAVE_TE, "Transformer Engine is here: does it run on CPUs now?"


def test_the_optimizer_is_the_one_that_resumes_and_megatron_still_falls_back_to_torchs():
    from verl_ext.platforms.megatron_adam import FusedAdam

    optimizer = importlib.import_module("megatron.core.optimizer")
    distributed = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    assert optimizer.Adam is distributed.Adam is FusedAdam
    assert distributed.USING_TE_OPTIMIZER
    assert distributed.HAVE_APEX_OR_TE
    assert not optimizer.USING_PYTORCH_OPTIMIZER
    # Its fallback asks a fresh optimizer for the one step that all parameters share.
    assert "assert len(steps) == 1" in inspect.getsource(distributed)


def test_optimizer_state_is_loaded_without_autograd():
    module = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    patched = module.DistributedOptimizer._set_main_param_and_optimizer_states
    seen = []
    patch = next(
        p
        for p in patching.PATCHES["megatron.core.optimizer.distrib_optimizer"]
        if p.__name__ == "float32_state_loads"
    )
    fake = type(module)("fake")
    fake.torch = torch
    fake.DistributedOptimizer = type(
        "D", (), {"_set_main_param_and_optimizer_states": lambda self: seen.append(grad_on())}
    )
    grad_on = torch.is_grad_enabled
    patch(fake)
    fake.DistributedOptimizer()._set_main_param_and_optimizer_states()
    assert seen == [False]
    assert "no_grad" not in inspect.getsource(inspect.unwrap(patched))


def test_the_router_finds_no_kernel_of_transformer_engine():
    module = importlib.import_module("megatron.core.transformer.moe.moe_utils")
    assert module.te_general_gemm is None
    assert "te_general_gemm = None" not in inspect.getsource(module)


def test_verl_accepts_float32_from_us_and_nothing_else_it_did_not():
    from verl.workers.config import McoreEngineConfig

    assert McoreEngineConfig(dtype="float32").dtype == "float32"
    assert McoreEngineConfig().dtype == "bfloat16"
    with pytest.raises(AssertionError, match="float64 not supported"):
        McoreEngineConfig(dtype="float64")
    with pytest.raises(ValueError, match="max_seqlen_per_dp_cp_rank"):  # its other checks stay
        McoreEngineConfig(dtype="float32", dynamic_context_parallel=True)
    original = inspect.unwrap(McoreEngineConfig.__post_init__)
    assert '["bfloat16", "float16"]' in inspect.getsource(original)


def test_verl_does_not_warn_of_our_choices():
    from verl.workers.config import McoreEngineConfig

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module("verl.workers.config.engine")
        for patch in patching.PATCHES["verl.workers.config.engine"]:
            if patch.__name__ == "no_warnings_about_our_choices":
                patch(module)
        McoreEngineConfig(vanilla_mbridge=True)
    assert [str(w.message) for w in caught] == []


@pytest.mark.parametrize("model_type", ["language_model", "value_model"])
def test_verls_engine_itself_is_registered_for_the_cpu(model_type):
    importlib.import_module("verl.workers.engine")
    from verl.workers.engine.base import EngineRegistry

    engines = EngineRegistry._engines[model_type]["megatron"]
    assert engines["cpu"] is engines["cuda"]
    assert EngineRegistry.get_engine_cls(model_type, "megatron") is engines["cuda"]
