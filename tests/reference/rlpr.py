"""RLPR's reward and filter, retold slowly in our own words, in double precision.

Paper: Yu et al. 2025, https://arxiv.org/abs/2506.18254, section 2. Code: the reward manager, the
splice and the filter of https://github.com/OpenBMB/RLPR, without its rounding to bfloat16. What the
code scores 0 for want of a probability is 0 here too.
"""

import math
import re
import statistics


def reference_score(probabilities, aggregate):
    """The score of a reference answer from its tokens' probabilities; 0 where there are none."""
    if not probabilities:
        return 0.0
    if aggregate == "mean":
        return math.fsum(probabilities) / len(probabilities)
    if aggregate == "product":
        return math.prod(probabilities)
    if aggregate == "geometric_mean":
        return math.prod(probabilities) ** (1 / len(probabilities))
    return math.fsum(math.log(probability) for probability in probabilities) / len(probabilities)


def final_reward(score, base, in_format, repeated, coefficient=0.1):
    """The reward of a response: shaped, mixed with the format, punished for repetition.

    A coefficient of −1 makes the format a condition. A reward of exactly 0 is not punished.
    """
    gained = max(score - base, 0.0)
    if coefficient == -1:
        reward = gained if in_format else -1.0
    else:
        reward = (1 - coefficient) * gained + coefficient * (1.0 if in_format else 0.0)
    return reward - 1.0 if repeated and reward != 0 else reward


def in_format(response, with_reasoning=True):
    """Is each tag there once, and the whole of the one form?"""
    tags = ["<answer>", "</answer>"]
    form = r".*<answer>.*</answer>.*"
    if with_reasoning:
        tags = ["<think>", "</think>", *tags]
        form = r"<think>.*</think>.*<answer>.*</answer>.*"
    once = all(len(response.split(tag)) == 2 for tag in tags)
    return once and re.fullmatch(form, response, re.DOTALL) is not None


def spliced(response, reference, eos, with_reasoning=True):
    """The response with the reference as its answer; None if its form is another."""
    response += eos  # so the answer that is judged and copied from is never blank
    tags = ["<think>", "</think>", "<answer>"] if with_reasoning else ["<answer>"]
    if any(len(response.split(tag)) != 2 for tag in tags):
        return None
    if re.fullmatch(".*" + ".*".join(tags) + ".*", response, re.DOTALL) is None:
        return None
    before, answer = response.split("<answer>")
    leading = re.match(r"[ \n\t\r]*", answer).group() or " "
    return before + "<answer>" + leading + reference + " " + "</answer>" + eos


def reference_tokens(text, reference, eos, offsets):
    """Numbers of the tokens that hold a character of the reference's last occurrence."""
    closing = "</answer>" + eos
    first = text[: -len(closing)].rfind(reference)
    wanted = set(range(first, first + len(reference)))
    return [i for i, (start, end) in enumerate(offsets) if wanted & set(range(start, end))]


def is_repetitive(response, window=10, limit=10):
    """Is there a window of words that stands in the response that often?"""
    words = [word for segment in response.split() for word in segment.split("_")]
    if len(words) <= window:
        return False
    windows = [words[i : i + window] for i in range(len(words) - window + 1)]
    return any(sum(other == one for other in windows) >= limit for one in windows)


def filter_course(steps, beta=0.5, ratio=0.99, start=6, filter_from=11, multipliers=None):
    """What the filter keeps at each step: a list of prompts each, and the thresholds.

    Args:
        steps: for each step, from 1, a dict from prompt to (task, rewards of its responses).
        beta: of the threshold.
        ratio: of the moving average.
        start: first step whose deviations are collected.
        filter_from: first step with a threshold.
        multipliers: by task, of the deviation that is compared.
    """
    kept, thresholds, collected, average = [], [], [], None
    for step, prompts in enumerate(steps, start=1):
        deviations = {prompt: deviation(rewards) for prompt, (_, rewards) in prompts.items()}
        if step < filter_from:
            threshold, keep = 0.0, list(prompts)
        else:
            if average is None:
                average = math.fsum(collected) / len(collected)
            else:
                average = ratio * average + (1 - ratio) * collected[-1]
            threshold = beta * average
            keep = [
                prompt
                for prompt, (task, _) in prompts.items()
                if threshold <= deviations[prompt] * (multipliers or {}).get(task, 1) <= 1e6
            ]
        kept.append(keep)
        thresholds.append(threshold)
        if step >= start:
            rows = [deviations[prompt] for prompt, (_, rs) in prompts.items() for _ in rs]
            rows = [value for value in rows if math.isfinite(value)]
            collected.append(math.fsum(rows) / len(rows))
    return kept, thresholds


def deviation(rewards):
    """Unbiased; 1 for a lone reward, as the advantage's divisor is there; NaN stays NaN."""
    if len(rewards) == 1:
        return 1.0
    if not all(map(math.isfinite, rewards)):
        return math.nan
    mean = statistics.fmean(rewards)
    return math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
