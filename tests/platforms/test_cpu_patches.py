"""Each patch is installed, does what it says, and is still needed: a test per patch.

The `still_needs` tests look at the unpatched upstream source. When one fails, upstream has learnt
what the patch taught it, and the patch should go.
"""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin
from verl.plugin.platform import get_platform
from verl.plugin.platform.platform_manager import PlatformRegistry

from verl_ext.platforms import cpu, cpu_device, cpu_patches, patching
from verl_ext.platforms.row_blocks import linear_by_blocks


def test_the_cpu_platform_is_chosen_where_no_accelerator_exists():
    assert isinstance(get_platform(), cpu.PlatformCPU)
    assert cpu.in_force()


def test_an_accelerator_always_wins(monkeypatch):
    nvidia = PlatformRegistry.get("nvidia")
    monkeypatch.setattr(nvidia, "is_platform_available", lambda self, use_smi_check=False: True)
    assert not cpu.PlatformCPU().is_platform_available(use_smi_check=True)


GROUPS = """
import os, sys, tempfile, time, torch
import torch.distributed as dist
if sys.argv[1] == "patched":
    import verl
with tempfile.TemporaryDirectory() as folder:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
    groups = [dist.new_group([0]) for _ in range(5)]
    dist.all_reduce(torch.ones(3), group=groups[-1])
    time.sleep(1)  # a thread names itself once it runs
    tasks = os.listdir("/proc/self/task")
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    print(names.count("gloo_tcp_loop"))
"""


@pytest.mark.parametrize("who", ["patched", "plain"])
def test_the_groups_of_a_process_share_a_gloo_device_and_still_need_to_be_told(who):
    out = subprocess.run([sys.executable, "-c", GROUPS, who], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    devices = int(out.stdout.split()[-1])
    assert devices == 1 if who == "patched" else devices > 1


def test_a_head_node_without_accelerators_can_switch_the_platform_off(monkeypatch):
    monkeypatch.setenv(cpu.OFF, "1")
    assert not cpu.PlatformCPU().is_platform_available()


def test_no_patch_acts_where_an_accelerator_exists(monkeypatch):
    monkeypatch.setattr(cpu, "in_force", lambda: False)
    touched = []
    patching.apply(touched.append, SimpleNamespace())
    assert touched == []


def test_the_device_module_answers_everything_verl_asks_of_it():
    """Every `get_torch_device().<name>` in verl that a CPU run can reach."""
    import re
    from pathlib import Path

    root = Path(verl.__file__).parent
    asked = set()
    for source in root.rglob("*.py"):
        asked |= set(re.findall(r"get_torch_device\(\)\.([a-z_]+)", source.read_text()))
    missing = {name for name in asked if not hasattr(cpu_device, name)}
    assert missing <= {"memory", "profiler", "nvtx", "npu", "graph"}, missing


def test_verl_still_needs_one_gloo_backend():
    with pytest.raises(ValueError, match="Duplicate device type"):
        torch.distributed.distributed_c10d.BackendConfig(
            torch.distributed.Backend("cpu:gloo,cpu:gloo")
        )
    original = inspect.unwrap(
        importlib.import_module("verl.utils.distributed").initialize_global_process_group_ray
    )
    assert "cpu:gloo,{get_device_name()}" in inspect.getsource(original)


def test_fsdp_engines_are_registered_for_the_cpu():
    importlib.import_module("verl.workers.engine")
    from verl.workers.engine.base import EngineRegistry

    for model_type in ("language_model", "value_model"):
        assert EngineRegistry.get_engine_cls(model_type, "fsdp2").__name__.startswith("FSDPEngine")


def test_verl_still_registers_no_fsdp_engine_for_the_cpu():
    module = importlib.import_module("verl.workers.engine.fsdp.transformer_impl")
    source = inspect.getsource(module)
    assert source.count('backend=["fsdp", "fsdp2"], device=["cuda", "npu"]') == 2


def test_offloading_does_not_pin_memory_and_verl_still_asks_for_it():
    module = importlib.import_module("verl.workers.engine.fsdp.transformer_impl")
    assert module.CPUOffloadPolicy(pin_memory=True).pin_memory is False
    assert "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(module)


def test_saved_weights_are_no_live_ones_and_verl_still_shares_them():
    live, spec = torch.zeros(2), object()
    fake = SimpleNamespace(fsdp2_sharded_save_to_cpu=lambda model: ({"w": (live, spec)}, "rule"))
    cpu_patches.saved_weights_are_copies(fake)
    saved, rule = fake.fsdp2_sharded_save_to_cpu(None)
    live.fill_(1)
    assert (saved["w"][0].tolist(), saved["w"][1], rule) == ([0.0, 0.0], spec, "rule")
    hooked = importlib.import_module("verl.utils.fsdp_utils").fsdp2_sharded_save_to_cpu
    source = inspect.getsource(inspect.unwrap(hooked))
    assert hooked is not inspect.unwrap(hooked)
    assert "local_gpu_tensor.detach().cpu()" in source
    assert "clone" not in source


def test_megatrons_saved_weights_are_copies_and_verl_still_pins_them():
    megatron_utils = pytest.importorskip("verl.utils.megatron_utils")
    layer = torch.nn.Linear(2, 2)
    saved = megatron_utils.copy_megatron_model_to_cpu([layer])["model_chunk_0"]["model_state"]
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(7)
    assert torch.equal(saved["weight"]["data"], before)
    with pytest.raises(RuntimeError, match="accelerator"):
        inspect.unwrap(megatron_utils.copy_megatron_model_to_cpu)([layer])


def test_received_weights_outlive_the_shared_buffer():
    module = importlib.import_module("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")
    buffer = torch.arange(4.0)
    received = {}

    def one_bucket(self, on_bucket_received):
        on_bucket_received([("w", buffer[:2])], True)

    patched = cpu_patches.copy_out_of_shared_memory
    fake = SimpleNamespace(BucketedWeightReceiver=type("R", (), {"receive_weights": one_bucket}))
    patched(fake)
    fake.BucketedWeightReceiver().receive_weights(lambda w, last: received.update(w))
    buffer.zero_()
    assert received["w"].tolist() == [0.0, 1.0]
    unpatched = inspect.unwrap(module.BucketedWeightReceiver.receive_weights)
    assert "tensor = tensor.to(self.device)" in inspect.getsource(unpatched)


def test_each_run_syncs_weights_by_a_socket_of_its_own_and_verl_still_shares_one(monkeypatch):
    module = importlib.import_module("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")
    rollout = importlib.import_module("verl.workers.rollout.vllm_rollout.vllm_rollout")
    socket = (
        "ipc:///tmp/rl-colocate-zmq-{job_id}-replica-{self.replica_rank}-rank-{local_rank}.sock"
    )
    assert socket in inspect.getsource(rollout.ServerAdapter)  # a cluster's first job is 01000000
    theirs = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"

    def handles(run):
        monkeypatch.setenv(cpu_patches.RUN, run)
        sender = module.BucketedWeightSender(theirs, bucket_size_mb=1, use_shm=True)
        receiver = module.BucketedWeightReceiver(theirs, device=torch.device("cpu"), use_shm=True)
        return {sender.zmq_handle, receiver.zmq_handle}

    assert handles("a") == {"ipc:///tmp/rl-colocate-zmq-a-01000000-replica-0-rank-0.sock"}
    assert handles("a").isdisjoint(handles("b"))
    monkeypatch.delenv(cpu_patches.RUN)
    assert module.BucketedWeightSender(theirs, use_shm=True).zmq_handle == theirs


def test_linear_weights_stay_and_vllm_still_drops_them():
    module = importlib.import_module("vllm.model_executor.layers.utils")
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.clone()
    module.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert torch.equal(layer.weight, before)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer.cpu_linear(x, layer.weight, layer.bias), layer(x))
    linear = importlib.import_module("vllm.model_executor.layers.linear")
    assert "dispatch_cpu_unquantized_gemm(layer, remove_weight=True)" in inspect.getsource(linear)


def test_linear_layers_and_the_head_go_by_blocks_and_vllm_still_has_that_for_cuda_alone():
    embedding = importlib.import_module("vllm.model_executor.layers.vocab_parallel_embedding")
    linear = importlib.import_module("vllm.model_executor.layers.linear")
    head = torch.nn.Linear(128, 264, bias=False).requires_grad_(False)
    embedding.UnquantizedEmbeddingMethod().process_weights_after_loading(head)
    x = torch.randn(9, 128)
    by_blocks = linear_by_blocks(x, head.weight)
    assert torch.equal(head.cpu_linear(x, head.weight, None), by_blocks)
    compiled = torch.compile(head.cpu_linear, backend="aot_eager", fullgraph=True, dynamic=True)
    assert torch.equal(compiled(x, head.weight, None), by_blocks)
    assert torch.equal(compiled(x[:1], head.weight, None), by_blocks[:1])
    for method in (embedding.UnquantizedEmbeddingMethod, linear.UnquantizedLinearMethod):
        source = " ".join(inspect.getsource(method.apply).split())
        assert "envs.VLLM_BATCH_INVARIANT and current_platform.is_cuda_alike()" in source


def test_the_keys_of_a_request_stay_together_and_vllm_still_splits_them():
    backend = importlib.import_module("vllm.v1.attention.backends.cpu_attn")
    source = inspect.getsource(backend.CPUAttentionMetadataBuilder.build)
    assert "ops.cpu_attn_get_scheduler_metadata(" in source
    assert "enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV" in source
    patched = backend.ops.cpu_attn_get_scheduler_metadata
    assert inspect.unwrap(patched) is not patched
    fake = SimpleNamespace(cpu_attn_get_scheduler_metadata=lambda **arguments: arguments)
    cpu_patches.keep_the_keys_of_a_request_together(fake)
    handed_on = fake.cpu_attn_get_scheduler_metadata(num_reqs=3, enable_kv_split=True)
    assert handed_on == {"num_reqs": 3, "enable_kv_split": False}


LENGTHS = [300, 40, 500, 20, 310, 130] * 4  # tokens each request can look back on


class KeyCache:
    """Requests of ``LENGTHS`` in vLLM's paged cache, one query each."""

    def __init__(self, backend, heads=4, kv_heads=2, width=32, block=128):
        self.ops, self.block = backend.ops, block
        self.isa = backend._get_attn_isa(torch.float32, block, width, "auto")
        pages = [-(-length // block) for length in LENGTHS]
        cache = torch.zeros(sum(pages), kv_heads, 2 * block, width)
        self.keys, self.values = cache.chunk(2, dim=2)
        self.pages = torch.zeros(len(LENGTHS), max(pages), dtype=torch.int32)
        used = 0
        for request, (length, count) in enumerate(zip(LENGTHS, pages, strict=True)):
            self.pages[request, :count] = torch.arange(used, used + count)
            keys, values = torch.randn(2, length, kv_heads, width)
            self.ops.cpu_attn_reshape_and_cache(
                keys, values, self.keys, self.values, used * block + torch.arange(length), self.isa
            )
            used += count
        self.query = torch.randn(len(LENGTHS), heads, width)

    def attend(self, requests):
        query = self.query[requests].contiguous()
        lengths = torch.tensor([LENGTHS[i] for i in requests], dtype=torch.int32)
        starts = torch.arange(len(requests) + 1, dtype=torch.int32)
        plan = self.ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(requests),
            num_heads=query.shape[1],
            num_kv_heads=self.keys.shape[1],
            head_dim=query.shape[2],
            seq_lens=lengths,
            dtype=query.dtype,
            query_start_loc=starts,
            causal=True,
            sliding_window_size=-1,
            isa=self.isa,
            enable_kv_split=True,  # vLLM's default
        )
        output = torch.empty_like(query)
        self.ops.cpu_attention_with_kv_cache(
            query=query,
            key_cache=self.keys,
            value_cache=self.values,
            output=output,
            query_start_loc=starts,
            seq_lens=lengths,
            scale=query.shape[2] ** -0.5,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            block_table=self.pages[requests].contiguous(),
            softcap=0,
            scheduler_metadata=plan,
            s_aux=None,
        )
        return output


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_attention_gives_a_request_the_same_bits_in_any_batch(threads):
    backend = importlib.import_module("vllm.v1.attention.backends.cpu_attn")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cache = KeyCache(backend)
        together = cache.attend(list(range(len(LENGTHS))))
        turned = cache.attend(list(range(len(LENGTHS)))[::-1])
        alone = torch.cat([cache.attend([request]) for request in range(len(LENGTHS))])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(turned.flip(0), together)
    assert torch.equal(alone, together)


def seeded(*rows):
    return {row: torch.Generator().manual_seed(row) for row in rows}


def test_a_seed_is_kept_beside_requests_without_one_and_vllm_still_drops_it():
    module = importlib.import_module("vllm.v1.sample.ops.topk_topp_sampler")
    sampler = module.TopKTopPSampler()
    logits = torch.randn(6, 264)
    all_seeded, _ = sampler.forward_cpu(logits.clone(), seeded(*range(6)), None, None)
    by_vllm, _ = inspect.unwrap(module.TopKTopPSampler.forward_cpu)(
        sampler, logits.clone(), seeded(*range(6)), None, None
    )
    assert torch.equal(all_seeded, by_vllm)
    some_seeded, _ = sampler.forward_cpu(logits.clone(), seeded(1, 4, 5), None, None)
    assert torch.equal(some_seeded[[1, 4, 5]], all_seeded[[1, 4, 5]])
    unpatched = inspect.getsource(inspect.unwrap(module.TopKTopPSampler.forward_cpu))
    assert "if len(generators) != logits.shape[0]" in unpatched


def test_vllm_cpu_answers_for_the_distribution_vllm():
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + "+cpu"
    assert importlib.metadata.distribution("vllm").metadata["Name"] == "vllm-cpu"


def test_only_vllm_gets_an_alias():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-of-nobody")


def test_verl_still_asks_for_the_distribution_vllm_by_name():
    module = importlib.import_module("verl.third_party.vllm")
    assert module.package_name == "vllm"
    assert "Currently supported" in inspect.getsource(module)


def test_verl_imports_on_a_machine_with_vllm_cpu_alone():
    code = "import verl.third_party.vllm as v; print(v.vllm_version)"
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().endswith("+cpu")
