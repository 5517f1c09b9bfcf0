"""What a toy model answers, sampled with plain transformers: for measurements without verl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.toy.tokenizer import END_ID


@dataclass(frozen=True)
class Answer:
    """One sampled response.

    Attributes:
        text: without special tokens, as verl hands it to the reward.
        tokens: how many were sampled, the end-of-turn token included.
    """

    text: str
    tokens: int


def sample_answers(
    model: Path,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    samples: int,
    *,
    seed: int = 0,
    max_tokens: int = 16,
) -> list[list[Answer]]:
    """Returns ``samples`` answers to each prompt, at temperature 1 from the whole vocabulary.

    The caller's random state is left as it was.

    Args:
        model: folder of the model and its tokenizer, as in ``World.model``.
        prompts: lists of chat messages, at least one, as in the parquet files; one batch, so not
            too many at once.
        samples: answers to each prompt, >= 1.
        seed: of the sampling.
        max_tokens: where an answer is cut off.

    Raises:
        ValueError: there are no prompts, or no samples are asked for.
    """
    if not prompts or samples < 1:
        raise ValueError(f"nothing to sample: {len(prompts)} prompts, {samples} samples of each")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    untyped: Any = AutoTokenizer
    tokenizer = untyped.from_pretrained(model, padding_side="left", local_files_only=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    chats = [list(prompt) for prompt in prompts for _ in range(samples)]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        rows = loaded.generate(**inputs, **settings, max_new_tokens=max_tokens)
    answers = rows[:, inputs["input_ids"].shape[1] :]
    ended = answers == END_ID
    lengths = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, answers.shape[1])
    words = tokenizer.batch_decode(answers, skip_special_tokens=True)
    flat = [Answer(word, count) for word, count in zip(words, lengths.tolist(), strict=True)]
    return [flat[start : start + samples] for start in range(0, len(flat), samples)]
