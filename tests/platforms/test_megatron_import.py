"""Megatron's sources are read with the CPU in place of CUDA: exactly where, and only there."""

import ast
import importlib.machinery
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import verl  # loads the plugin  # noqa: F401

from verl_ext import post_import
from verl_ext.platforms import cpu, megatron_device, megatron_import


def rewritten(source):
    return ast.unparse(megatron_import.on_cpu(source))


IMPORT = "from verl_ext.platforms import megatron_device as _verl_ext_cpu\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = torch.zeros(2, device='cuda')", "x = torch.zeros(2, device='cpu')"),
        ("x = torch.device(f'cuda:{rank}')", "x = torch.device('cpu')"),
        ("x.device.type == 'cuda'", "x.device.type == 'cpu'"),
        ("d = torch.cuda.current_device()", IMPORT + "d = _verl_ext_cpu.current_device()"),
        ("a: torch.cuda.Stream = None", IMPORT + "a: _verl_ext_cpu.Stream = None"),
        ("p.type() == 'torch.cuda.HalfTensor'", "p.type() == 'torch.HalfTensor'"),
        ("y = x.cuda()", "y = x"),
        ("y = f(x).cuda(device).float()", "y = f(x).float()"),
        ("x.is_cuda and not y.is_cuda", "x.is_cpu and (not y.is_cpu)"),
        ("torch.empty(2, pin_memory=True)", "torch.empty(2, pin_memory=False)"),
        ("y = x.pin_memory()", "y = x"),
        ("x.record_stream(torch.cuda.current_stream())", "x"),
        (
            "from torch.cuda import _lazy_call",
            "from verl_ext.platforms.megatron_device import _lazy_call",
        ),
        # and what looks like it but is not
        ("cuda = 1", "cuda = 1"),
        ("config.cuda_graph_impl == 'cudagraph'", "config.cuda_graph_impl == 'cudagraph'"),
        ("tensor_parallel.get_cuda_rng_tracker()", "tensor_parallel.get_cuda_rng_tracker()"),
        ("print(f'a cuda:{x}')", "print(f'a cuda:{x}')"),
    ],
)
def test_an_expression_is_rewritten(source, expected):
    assert rewritten(source).replace('"', "'") == expected


def test_the_stand_in_is_imported_after_docstring_and_future_imports():
    source = '"""Doc."""\nfrom __future__ import annotations\ntorch.cuda.synchronize()\n'
    lines = rewritten(source).splitlines()
    assert lines[0] == '"""Doc."""'
    assert lines[1].startswith("from __future__")
    assert lines[2] == IMPORT.strip()
    assert ast.get_docstring(megatron_import.on_cpu(source)) == "Doc."


def test_line_numbers_are_those_of_the_file():
    tree = megatron_import.on_cpu("import torch\n\n\ntorch.cuda.synchronize()\nraise ValueError\n")
    assert tree.body[-1].lineno == 5


CORE = Path(importlib.util.find_spec("megatron.core").origin).parent


@pytest.mark.parametrize(
    "file",
    [
        "optimizer/clip_grads.py",
        "optimizer/distrib_optimizer.py",
        "distributed/param_and_grad_buffer.py",
        "tensor_parallel/layers.py",
        "tensor_parallel/mappings.py",
        "tensor_parallel/random.py",
        "pipeline_parallel/p2p_communication.py",
        "transformer/moe/token_dispatcher.py",
    ],
)
def test_megatron_still_names_cuda_and_nothing_of_it_is_left(file):
    source = (CORE / file).read_text()
    assert mentions_of_cuda(ast.parse(source))
    assert not mentions_of_cuda(megatron_import.on_cpu(source))


def mentions_of_cuda(tree):
    """Expressions that would reach for a GPU; words in messages and comments are none."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Attribute, ast.Constant))]
    return [n for n in nodes if getattr(n, "attr", getattr(n, "value", None)) == "cuda"]


def test_megatron_is_loaded_by_our_loader_and_torch_is_as_it_was():
    import megatron.core.parallel_state as parallel_state

    assert isinstance(parallel_state.__loader__, megatron_import.Loader)
    assert parallel_state.__file__ == str(CORE / "parallel_state.py")
    assert (
        parallel_state.__cached__ is None
        or not Path(parallel_state.__cached__).is_file()
        or (
            # A byte-code file of the original may lie there; ours is never written.
            "verl_ext" not in Path(parallel_state.__cached__).read_bytes().decode("latin1")
        )
    )
    assert not torch.cuda.is_available()
    assert torch.cuda.current_device.__module__ == "torch.cuda"


def test_only_three_packages_are_rewritten():
    finder = megatron_import.Finder()
    assert finder.find_spec("megatronics", None) is None
    assert finder.find_spec("mbridge_tools", None) is None
    assert finder.find_spec("transformers", None) is None
    assert isinstance(finder.find_spec("mbridge", None).loader, megatron_import.Loader)


def test_nothing_is_rewritten_where_an_accelerator_exists(monkeypatch):
    monkeypatch.setattr(cpu, "in_force", lambda: False)
    assert megatron_import.Finder().find_spec("mbridge", None) is None


def test_the_finder_stands_between_our_hooks_and_pythons_own():
    kinds = [f if isinstance(f, type) else type(f) for f in sys.meta_path]
    ours = kinds.index(megatron_import.Finder)
    assert kinds.index(post_import._Finder) < ours
    assert ours < kinds.index(importlib.machinery.PathFinder)
    megatron_import.install()
    assert kinds.count(megatron_import.Finder) == 1


def test_megatron_imported_before_verl_is_refused_in_words():
    code = """
        import megatron.core.parallel_state
        import verl
        import verl.workers.engine.megatron.transformer_impl
    """
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 1
    assert "import verl before megatron" in out.stderr


def test_the_stand_in_draws_from_torchs_generator():
    state = megatron_device.get_rng_state()
    device = megatron_device.current_device()
    assert torch.equal(megatron_device.random.get_rng_state(device=device), state)
    first = torch.rand(3)
    called = []
    megatron_device._lazy_call(lambda: called.append(1))
    assert called == [1]
    megatron_device.default_generators[device].set_state(state)
    assert torch.equal(torch.rand(3), first)


def test_what_the_stand_in_lacks_is_torchs_own_and_says_so():
    assert megatron_device.CUDAGraph is torch.cuda.CUDAGraph
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        megatron_device.get_device_properties(0)
