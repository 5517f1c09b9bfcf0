"""The tiny Qwen3 of the toy world and its supervised warm-up.

The last part of the warm-up is deliberately careless: single functions are always demonstrated
correctly, compositions only some of the time; otherwise the demonstration forgets one of the two
functions. So the model has the skills but composes unreliably, and reinforcement has something to
do. Without this a half-trained model fails in many small ways, and penalising errors, as
W-REINFORCE mostly does, makes it worse instead of better.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.toy.hints import with_hints
from verl_ext.toy.task import Problem, TaskSpec, compositions, run, stream
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


@dataclass(frozen=True)
class WarmupSpec:
    """How long and on what a model is trained with supervision.

    Attributes:
        steps: AdamW updates; batch_size: demonstrations per update; lr: peak learning rate,
            warmed up over the first 5 % and brought to zero by a cosine;
        single_share: share of demonstrations of one function, the others show a pair;
        careful_share: share of the updates before carelessness begins;
        careless_share: share of the pairs shown after that with one function forgotten;
        pairs: data source of the pairs;
        careful_pairs: data source whose pairs are always shown right, "" for none;
        slip_share: share of the letters in careless pairs' answers that are drawn at random;
        hinted_share: share of the pairs with a hint in their prompt, see ``toy.hints``;
        seed: of the weights, the order of the data and the carelessness;
        threads: CPU threads, part of the recipe since they decide the last bits. One,
            since two on busy cores wait for each other and take many times as long.
    """

    steps: int = 650
    batch_size: int = 64
    lr: float = 3e-3
    single_share: float = 0.35
    careful_share: float = 0.75
    careless_share: float = 0.6
    pairs: str = "toy"
    careful_pairs: str = ""
    slip_share: float = 0.0
    hinted_share: float = 0.0
    seed: int = 0
    threads: int = 1


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


def demonstrations(task: TaskSpec, warmup: WarmupSpec) -> Iterator[tuple[Problem, str]]:
    """Yields (problem, demonstrated answer) without end; the later ones are careless at times."""
    rng = random.Random(warmup.seed)
    singles = stream(task, "toy_single", "warmup", rng)
    pairs = stream(task, warmup.pairs, "warmup", rng)
    spared = compositions(warmup.careful_pairs) if warmup.careful_pairs else []
    careful = warmup.careful_share * warmup.steps * warmup.batch_size
    for shown in count():
        if rng.random() < warmup.single_share:
            problem = next(singles)
            yield problem, problem.answer
        else:
            problem = next(pairs)
            careless = shown >= careful and problem.skills not in spared
            share = warmup.careless_share if careless else 0.0
            forget = rng.random() < share
            skills = (rng.choice(problem.skills),) if forget else problem.skills
            answer = run(skills, problem.word)
            if careless and warmup.slip_share > 0:
                answer = with_slips(answer, warmup.slip_share, task.alphabet, rng)
            yield problem, answer


def with_slips(word: str, share: float, alphabet: str, rng: random.Random) -> str:
    """Returns ``word`` with that share of its letters drawn anew, on average."""
    return "".join(rng.choice(alphabet) if rng.random() < share else letter for letter in word)


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
    shown = demonstrations(task, warmup)
    data = with_hints(shown, warmup.hinted_share, task.alphabet, warmup.seed)
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
