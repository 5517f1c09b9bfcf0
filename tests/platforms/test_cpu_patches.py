"""Each patch is installed, does what it says, and is still needed: a test per patch.

The `still_needs` tests look at the unpatched upstream source. When one fails, upstream has learnt
what the patch taught it, and the patch should go.
"""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin
from verl.plugin.platform import get_platform
from verl.plugin.platform.platform_manager import PlatformRegistry

from verl_ext.platforms import cpu, cpu_device, cpu_patches, patching


def test_the_cpu_platform_is_chosen_where_no_accelerator_exists():
    assert isinstance(get_platform(), cpu.PlatformCPU)
    assert cpu.in_force()


def test_an_accelerator_always_wins(monkeypatch):
    nvidia = PlatformRegistry.get("nvidia")
    monkeypatch.setattr(nvidia, "is_platform_available", lambda self, use_smi_check=False: True)
    assert not cpu.PlatformCPU().is_platform_available(use_smi_check=True)


@pytest.mark.parametrize("how", ["visible", "driver"])
def test_an_accelerator_wins_where_no_tool_tells_of_it(monkeypatch, how):
    """verl's platforms ask nvidia-smi, which is not in every container, and may be slow."""
    for name in set(PlatformRegistry.registered_names()) - {"cpu"}:
        other = PlatformRegistry.get(name)
        monkeypatch.setattr(other, "is_platform_available", lambda self, **_: False)
    assert cpu.PlatformCPU().is_platform_available(use_smi_check=True)
    if how == "visible":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    else:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(cpu.os.path, "exists", lambda path: path == "/dev/nvidiactl")
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
