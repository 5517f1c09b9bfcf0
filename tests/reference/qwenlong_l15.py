"""QwenLong-L1.5's advantage and masks, retold slowly in our own words.

Paper: Shen et al. 2025, https://arxiv.org/abs/2512.12967, equations 7 and 9 and section 4.4. Code:
the snippets in the README of https://github.com/Tongyi-Zhiwen/Qwen-Doc; the authors have published
no trainer.
"""

import math
import statistics

EPSILON = 1e-6


def authors_advantages(outcomes, groups, tasks):
    """Equation 7 as the README has it: collects scores by prompt and by task, row by row.

    A prompt with one response has the mean 0 there, a task with one response the deviation 0.
    """
    by_group, by_task = {}, {}
    for outcome, group, task in zip(outcomes, groups, tasks, strict=True):
        by_group.setdefault(group, []).append(outcome)
        by_task.setdefault(task, []).append(outcome)
    advantages = []
    for outcome, group, task in zip(outcomes, groups, tasks, strict=True):
        mean = statistics.fmean(by_group[group]) if len(by_group[group]) > 1 else 0.0
        std = standard_deviation(by_task[task])
        advantages.append((outcome - mean) / (std + EPSILON))
    return advantages


def standard_deviation(values):
    """Unbiased, 0 for one value; NaN goes through it as through torch's."""
    if len(values) == 1:
        return 0.0
    mean = statistics.fmean(values)
    squares = [(value - mean) ** 2 for value in values]
    return math.sqrt(math.fsum(squares) / (len(values) - 1))


def papers_clip(advantages, entropies, *, token_level, threshold):
    """Equation 9's indicator: 0 for a negative advantage where the policy is uncertain.

    Args:
        advantages: one per response.
        entropies: for each response those of its tokens, in nats.
        token_level: compare each token's entropy rather than the response's mean.
        threshold: in nats.
    """
    indicator = []
    for advantage, response in zip(advantages, entropies, strict=True):
        mean = statistics.fmean(response)
        measured = response if token_level else [mean] * len(response)
        indicator.append([not (advantage < 0 and entropy > threshold) for entropy in measured])
    return indicator


def papers_batch_entropy(entropies):
    """H(B): the mean over responses of the mean over their tokens."""
    return statistics.fmean([statistics.fmean(response) for response in entropies])


def papers_gate(course, low, high):
    """Section 4.4 as the authors explain it: on above high, until below low."""
    masking, states = False, []
    for entropy in course:
        if not masking and entropy > high:
            masking = True
        elif masking and entropy < low:
            masking = False
        states.append(masking)
    return states


def readme_rows(advantages, outcomes):
    """The responses that the README keeps while it masks."""
    pairs = zip(advantages, outcomes, strict=True)
    return [advantage > 0 and outcome > 0 for advantage, outcome in pairs]


def readme_masks(entropy, low, high):
    """When the README masks: between the thresholds, whatever its comment says."""
    return low < entropy < high
