"""Recipes of worlds that are built in a second, and what is read from a world."""

from dataclasses import replace

from verl_ext.toy import cache, variants
from verl_ext.toy.demonstrations import WarmupSpec
from verl_ext.toy.model import ModelSpec

SMALL = ModelSpec(hidden_size=32, layers=1, heads=2, kv_heads=2, feed_forward=32)
BRIEF = WarmupSpec(steps=2, batch_size=8, threads=1)
TINY = variants.Recipe(
    model=SMALL,
    warmup=BRIEF,
    train=(("toy", 40),),
    validation=(("toy", 8), ("toy_held_out", 8), ("toy_level_3", 8)),
)
CAREFUL = replace(BRIEF, careless_share=0.0, seed=1)
LEFT = replace(BRIEF, careful_pairs="toy_left", seed=1)
TAUGHT = replace(
    TINY, tuning=(LEFT,), teachers=(("left", (LEFT,)), ("late", (LEFT, CAREFUL)), ("early", ()))
)


def weights(folder):
    return cache.digest(folder / "model.safetensors")


def prompts_by_source(rows):
    found = {}
    for row in rows:
        found.setdefault(row["data_source"], []).append(row["prompt"][0]["content"])
    return found
