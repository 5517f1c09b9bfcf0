"""What vLLM on a CPU is patched to do is done, and still needed: see test_cpu_patches.py."""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401

from verl_ext.platforms import cpu_patches
from verl_ext.platforms.row_blocks import linear_by_blocks


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
