"""The tiny Qwen3 of the toy world and its supervised warm-up on ``toy.demonstrations``."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.toy.demonstrations import WarmupSpec, prompts_and_responses
from verl_ext.toy.task import TaskSpec
from verl_ext.toy.tokenizer import END, END_ID, PAD_ID, VOCAB_SIZE, byte_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

IGNORED = -100  # the label that the loss of transformers leaves out


@dataclass(frozen=True)
class ModelSpec:
    """Size of the model. The heads are 32 wide because vLLM's CPU attention takes no less.

    Attributes:
        hidden_size: width; layers: number of blocks; heads: query heads; kv_heads: key heads
            (heads and kv_heads even, so that two tensor-parallel ranks can share them);
        feed_forward: width of the gated feed-forward block.
    """

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 256


def model_config(spec: ModelSpec) -> "Qwen3Config":
    """Returns the configuration; embeddings are untied, so pipeline stages share no weight."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.feed_forward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=32,
        max_position_embeddings=1024,
        # Three times the usual spread: at this width the warm-up then learns about twice as fast.
        initializer_range=0.06,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END_ID,
        # Not PAD_ID: with a padding index the embedding row of the pad token starts as zero, and
        # normalising a zero vector blows up the gradient in engines that do not mask it.
        pad_token_id=None,
        dtype="float32",
    )


def training_batch(
    tokenizer: "PreTrainedTokenizerFast", rows: Sequence[tuple[str, str]]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns input ids and labels (batch, time) of prompts and answers.

    They are padded right, and the loss is on the answers alone.
    """
    import torch

    chats = [[{"role": "user", "content": question}] for question, _ in rows]
    prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = tokenizer([answer + END for _, answer in rows])["input_ids"]
    width = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    input_ids = torch.full((len(rows), width), PAD_ID)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        end = len(prompt) + len(answer)
        input_ids[i, :end] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return input_ids, labels


def rate_at(step: int, warmup: WarmupSpec) -> float:
    """Returns the factor on the learning rate at ``step`` (from 0): linear up, cosine to zero."""
    rise = max(1, warmup.steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, warmup.steps - rise)))


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Lets torch compute with ``count`` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_model(spec: ModelSpec, seed: int) -> "Qwen3ForCausalLM":
    """Returns an untrained model, float32, on the CPU; the caller's random state is left alone."""
    import torch
    from transformers import Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untyped: Any = Qwen3ForCausalLM
        model: Qwen3ForCausalLM = untyped(model_config(spec)).float()
    return model


def load_model(folder: Path) -> "Qwen3ForCausalLM":
    """Returns a model that :func:`save_model` wrote, float32, on the CPU."""
    import torch
    from transformers import Qwen3ForCausalLM

    untyped: Any = Qwen3ForCausalLM
    model: Qwen3ForCausalLM = untyped.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    return model


def warm_up(
    task: TaskSpec,
    spec: ModelSpec,
    warmup: WarmupSpec,
    *,
    start: Path | None = None,
    progress: bool = True,
) -> "Qwen3ForCausalLM":
    """Returns the model after its supervised training, float32, on the CPU.

    The same arguments give the same weights, bit for bit, on one machine; the caller's random
    state and number of threads are left as they were.

    Args:
        task: what the problems are made of.
        spec: size of the model.
        warmup: how long and on what it is trained.
        start: folder of the model to train on; a new one of size ``spec`` by default.
        progress: whether a progress bar is shown.
    """
    import torch
    from tqdm import tqdm

    tokenizer = byte_tokenizer()
    model = new_model(spec, warmup.seed) if start is None else load_model(start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=warmup.lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, warmup))
    data = prompts_and_responses(task, warmup)
    model.train()
    bar = tqdm(range(warmup.steps), desc="toy world: warm-up", disable=not progress, unit="step")
    with cpu_threads(warmup.threads):
        for _ in bar:
            rows = [next(data) for _ in range(warmup.batch_size)]
            input_ids, labels = training_batch(tokenizer, rows)
            loss = model(input_ids=input_ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.train(False)
    return model


def save_model(model: "Qwen3ForCausalLM", folder: Path) -> None:
    """Writes weights (safetensors), configuration and generation settings into ``folder``."""
    model.config.pad_token_id = PAD_ID
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = END_ID
    model.save_pretrained(folder)
