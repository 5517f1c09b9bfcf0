"""Rewards: how good is one response. Pure functions."""

if __name__ != "verl_ext.reward_fns":
    raise ImportError("import verl_ext.reward_fns (after `pip install -e .`), not reward_fns")
