"""Generates the same requests under many orders of arrival; prints how many came out different.

Started by test_arrivals.py in a process of its own. vLLM's scheduler and model run in it, so that a
request can be added between two given steps; nothing is left when it ends.
"""

import gc
import json
import os
import random
import sys

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR",
)

import torch
import verl  # noqa: F401  # loads the plugin before vLLM is imported
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from verl_ext.toy import world
from verl_ext.toy.task import TaskSpec, stream
from verl_ext.toy.tokenizer import byte_tokenizer

PROMPTS, SAMPLES = 16, 8
WHENEVER_IDLE = 10**9  # a step that is never reached: the request waits until nothing runs


def engine(model, max_num_seqs=256):
    """vLLM as recipes/scale/cpu.yaml starts it, with what a reproducible run needs besides."""
    return LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        max_model_len=512,
        gpu_memory_utilization=0.1,
        logprobs_mode="processed_logprobs",
        enable_chunked_prefill=False,
        enable_prefix_caching=False,
    )


def requests():
    """(name, token ids, seed): samples of one prompt side by side, as a trainer sends them."""
    tokenizer = byte_tokenizer()
    problems = stream(TaskSpec(), "toy", "train", random.Random(0))
    for i in range(PROMPTS):
        chat = [{"role": "user", "content": next(problems).prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for j in range(SAMPLES):
            yield f"{i}-{j}", tokenizer(text)["input_ids"], SAMPLES * i + j


def generate(llm, arrivals):
    """Name to (tokens, log-probs). ``arrivals``: (first step, requests), in order of time.

    A seed of None asks for the greedy answer.
    """
    waiting, finished, step = list(arrivals), {}, 0
    while waiting or llm.llm_engine.has_unfinished_requests():
        while waiting and (waiting[0][0] <= step or not llm.llm_engine.has_unfinished_requests()):
            for name, token_ids, seed in waiting.pop(0)[1]:
                temperature = 0.0 if seed is None else 1.0
                wanted = SamplingParams(
                    temperature=temperature, seed=seed, logprobs=0, max_tokens=16
                )
                llm.llm_engine.add_request(name, {"prompt_token_ids": token_ids}, wanted)
        for output in llm.llm_engine.step():
            if output.finished:
                answer = output.outputs[0]
                log_probs = [next(iter(at.values())).logprob for at in answer.logprobs]
                finished[output.request_id] = (list(answer.token_ids), log_probs)
        step += 1
    return finished


def trickle(batch, seed):
    """A few at a time, at random steps, in random order, while others run."""
    rng = random.Random(seed)
    batch, step = rng.sample(batch, len(batch)), 0
    while batch:
        count = rng.choice([1, 1, 2, 3, 5, 9, 17])
        yield step, batch[:count]
        batch, step = batch[count:], step + rng.choice([0, 1, 1, 2, 5])


def main():
    """Prints one JSON object: arrival to [requests with other tokens, with other bits]."""
    torch.set_num_threads(1)
    model = world.ensure("w_reinforce").model
    batch = list(requests())
    greedy = [(f"greedy-{i}", batch[i][1], None) for i in range(0, len(batch), SAMPLES)]
    llm = engine(model)
    together = generate(llm, [(0, batch)])
    others = {
        "again": generate(llm, [(0, batch)]),
        "shuffled": generate(llm, [(0, random.Random(1).sample(batch, len(batch)))]),
        "trickle 1": generate(llm, trickle(batch, 1)),
        "trickle 2": generate(llm, trickle(batch, 2)),
        "one at a time": generate(llm, [(WHENEVER_IDLE, [one]) for one in batch]),
        "two at a time": generate(
            llm, [(WHENEVER_IDLE, batch[i : i + 2]) for i in range(0, len(batch), 2)]
        ),
        "beside greedy ones": generate(llm, [(0, greedy[:8] + batch + greedy[8:])]),
    }
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    others["seven places"] = generate(engine(model, max_num_seqs=7), [(0, batch)])
    report = {"requests": len(together), "answers": len({str(v[0]) for v in together.values()})}
    for arrival, found in others.items():
        report[arrival] = [
            sum(found[name][0] != together[name][0] for name in together),
            sum(found[name] != together[name] for name in together),
        ]
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
