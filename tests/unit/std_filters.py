"""A filter past its warm-up, and rewards with a deviation that is known."""

import math

from verl_ext.reward_fns.std_filter import StdFilter


def pair(std):
    """Rewards of two responses to one prompt: 0 and x have the deviation x/√2."""
    return [0, std * math.sqrt(2)], ["p", "p"]


def warmed_up(mean_std=0.2, **settings):
    """A filter whose moving average is ``mean_std``."""
    filter_ = StdFilter(**{"warmup_from": 1, "warmup_to": 1} | settings)
    filter_.observe(1, *pair(mean_std))
    return filter_
