"""Does the probability of the reference answer know right responses from wrong ones? On the toy.

    python benchmarks/reference_probability.py OUT [--prompts 128] [--samples 16] [--seed 0]

The toy's variant ``rlpr`` reasons and answers in a wording that nothing decides; its model is built
on first use (some minutes; needs transformers, no verl). Responses to training prompts are sampled
at temperature 1. Each is scored by the pure functions of RLPR: the reference takes the place of its
answer, and what the same model gives the reference's tokens is reduced to one number; the base is
that of the reference without any reasoning. A judge that knows all wordings says which are right.

Printed are the areas under the ROC curve, over all responses and within prompts (the mean over
those with right and wrong responses: what a group-relative advantage sees), of equality with the
reference, of every reduction and of the debiased mean; and how the reward goes with the response's
length and entropy. A response that is not in the format has the probability 0. OUT/scores.json
holds every response, OUT/reference_probability.png the picture.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from reward_areas import DEBIASED, EXACT, Scored, draw, report
from torch import Tensor

from verl_ext.reward_fns.reference_probability import REDUCTIONS, debias, probability_reward
from verl_ext.reward_fns.response_format import Tags
from verl_ext.reward_fns.splice import Outcome, reference_mask, spliced_text, spliced_tokens
from verl_ext.toy import free_form, world
from verl_ext.toy.answers import sample_answers
from verl_ext.toy.free_form_reward import compute_score
from verl_ext.toy.model import load_model
from verl_ext.toy.tokenizer import END, PAD_ID, byte_tokenizer

VARIANT = "rlpr"
TAGS = Tags(**free_form.TAGS)
FLOOR = -20.0  # nats a token, of the mean log-probability of a response that is not in the format
ROWS = 256  # of a forward pass


class Scorer:
    """A model that gives tokens their probabilities, at temperature 1."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_model(folder)
        self.tokenizer = byte_tokenizer()

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """A text's token ids and the characters of each."""
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def asked(self, chat: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a prompt."""
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return self.encode(str(text))[0]

    @torch.no_grad()
    def __call__(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (rows, time) of continuations; NaN after their end."""
        width = max(len(continued) for _, continued in rows)
        log_probs, entropies = (torch.full((len(rows), width), torch.nan) for _ in range(2))
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            longest = max(len(prompt) + len(continued) for prompt, continued in some)
            ids = torch.full((len(some), longest), PAD_ID)
            for i, (prompt, continued) in enumerate(some):
                ids[i, : len(prompt) + len(continued)] = torch.tensor(prompt + continued)
            # Padding stands behind what it must not disturb, so causal attention needs no mask.
            table = self.model(input_ids=ids).logits.double().log_softmax(-1)
            for i, (prompt, continued) in enumerate(some):
                own = table[i, len(prompt) - 1 : len(prompt) + len(continued) - 1]
                taken = own.gather(-1, torch.tensor(continued).unsqueeze(-1)).squeeze(-1)
                log_probs[start + i, : len(continued)] = taken
                entropies[start + i, : len(continued)] = -(own.exp() * own).sum(-1)
        return log_probs, entropies


def bases(scorer: Scorer, rows: Sequence[dict[str, Any]]) -> Tensor:
    """The mean probability of each prompt's reference where no reasoning stands before it."""
    continued, masks = [], []
    for row in rows:
        reference = row["reward_model"]["ground_truth"]
        ids, offsets = scorer.encode(f" {reference} {END}")
        continued.append((scorer.asked(row["prompt"]), ids))
        masks.append(reference_mask(offsets, (1, 1 + len(reference))))
    log_probs, _ = scorer(continued)
    return probability_reward(log_probs, padded(masks, log_probs))


def padded(masks: Sequence[Sequence[bool]], like: Tensor) -> Tensor:
    """Masks of unequal length in the shape of ``like``."""
    mask = torch.zeros(like.shape, dtype=torch.bool)
    for row, own in enumerate(masks):
        mask[row, : len(own)] = torch.tensor(own)
    return mask


def responses(
    scorer: Scorer, folder: Path, rows: Sequence[dict[str, Any]], samples: int, seed: int
) -> list[Scored]:
    """Samples responses to each prompt; their rewards are still to come."""
    asked = [row["prompt"] for row in rows]
    answers = sample_answers(folder, asked, samples, seed=seed, max_tokens=free_form.MAX_TOKENS)
    scored, continued = [], []
    for number, (row, own) in enumerate(zip(rows, answers, strict=True)):
        truth = row["reward_model"]["ground_truth"]
        for answer in own:
            said = compute_score(row["data_source"], answer.text, truth)
            rewards = {EXACT: said["exact"]}
            right = bool(said["acc"])
            scored.append(Scored(number, answer.text, answer.tokens, 0.0, right, False, rewards))
            ids, _ = scorer.encode(answer.text + END)
            continued.append((scorer.asked(row["prompt"]), ids[: answer.tokens]))
    _, entropies = scorer(continued)
    means = entropies.nanmean(-1).tolist()
    return [replace(one, entropy=mean) for one, mean in zip(scored, means, strict=True)]


def with_rewards(
    scorer: Scorer, rows: Sequence[dict[str, Any]], given: Sequence[Scored]
) -> list[Scored]:
    """The responses with the reward of every reduction."""
    splices, continued = [], []
    for one in given:
        row = rows[one.prompt]
        text = spliced_text(one.text, row["reward_model"]["ground_truth"], eos=END, tags=TAGS)
        # The reference may be longer than the answer that it stands in for.
        spliced = spliced_tokens(text, scorer.encode, max_tokens=2 * free_form.MAX_TOKENS)
        if spliced.outcome not in (Outcome.OK, Outcome.INVALID_FORMAT):
            raise SystemExit(f"{one.text!r} could not be spliced: {spliced.outcome.value}")
        splices.append(spliced)
        if spliced.outcome is Outcome.OK:
            continued.append((scorer.asked(row["prompt"]), list(spliced.token_ids)))
    log_probs, _ = scorer(continued)
    valid = [spliced.outcome is Outcome.OK for spliced in splices]
    masks = [spliced.reference_mask for spliced in splices if spliced.outcome is Outcome.OK]
    mask, base = padded(masks, log_probs), bases(scorer, rows)
    rewards = {}
    for name in REDUCTIONS:
        whole = torch.full((len(given),), FLOOR if name == "mean_log_prob" else 0.0)
        whole[torch.tensor(valid)] = probability_reward(log_probs, mask, reduction=name)
        rewards[name] = whole
    rewards[DEBIASED] = debias(rewards["mean"], base[[one.prompt for one in given]])
    return [
        replace(
            one,
            in_format=valid[i],
            rewards={**one.rewards, **{name: row[i].item() for name, row in rewards.items()}},
        )
        for i, one in enumerate(given)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("out", type=Path, help="folder of the picture and the scores")
    add("--prompts", type=int, default=128, help="default: %(default)s")
    add("--samples", type=int, default=16, help="of each; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    import pyarrow.parquet as pq

    built = world.ensure(VARIANT)
    every = pq.read_table(built.train).to_pylist()
    rows = random.Random(args.seed).sample(every, args.prompts)
    scorer = Scorer(built.model)
    given = responses(scorer, built.model, rows, args.samples, args.seed)
    given = with_rewards(scorer, rows, given)
    args.out.mkdir(parents=True, exist_ok=True)
    records = [
        {**vars(one), "truth": rows[one.prompt]["reward_model"]["ground_truth"]} for one in given
    ]
    (args.out / "scores.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    print(f"{args.prompts} training prompts, {args.samples} samples each, seed {args.seed}")
    draw(given, report(given), args.out / "reference_probability.png")


if __name__ == "__main__":
    main()
