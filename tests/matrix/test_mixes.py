"""Overlays in pairs and triples: each mix is accepted whole or refused with the reason.

``make test`` draws some of them, ``make test-wide`` takes all, and trains a step of a few.
"""

import functools
import itertools
import random

import pytest
from matrix.cells import METHODS
from runs.launch import train

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError

MIXES = [mix for size in (2, 3) for mix in itertools.permutations(METHODS, size)]
DRAWN = set(random.Random(0).sample(MIXES, 24))
TRAINED = random.Random(1).sample(MIXES, 60)


def overrides(mix):
    return [f"+paper=[{','.join(mix)}]", "+scale=cpu"]


def refusal(config):
    """Why a mix is refused; None where it is not."""
    try:
        driver_check.check(config)
    except SettingsError as error:
        return str(error)
    return None


def marked(mix):
    return mix if mix in DRAWN else pytest.param(mix, marks=pytest.mark.wide)


@pytest.fixture(scope="module")
def alone(verl_config):
    """An overlay -> its configuration, without others."""
    return functools.cache(lambda name: verl_config(*overrides((name,))))


@pytest.mark.parametrize("mix", [marked(mix) for mix in MIXES], ids="-".join)
def test_a_mix_is_accepted_or_refused_by_a_key_and_what_to_do(verl_config, alone, mix):
    config = verl_config(*overrides(mix))
    why = refusal(config)
    if why is None:
        # What the last overlay asks for is what the run has.
        last = alone(mix[-1])
        for key in ("teacher", "group_reward", "test_time", "sampler"):
            wanted = last.algorithm.verl_ext.get(key)
            assert wanted is None or config.algorithm.verl_ext[key].keys() >= wanted.keys()
        for mask in last.algorithm.verl_ext.get("masks") or {}:
            assert mask in config.algorithm.verl_ext.masks
    else:
        assert "algorithm." in why or "reward." in why or "verl_ext." in why
        assert any(word in why for word in ("Add: ", "Remove ", "remove ", "did you mean", "Use "))


def test_some_mixes_are_accepted_and_some_refused(verl_config):
    """Else the test above tests one half of what it says."""
    found = [refusal(verl_config(*overrides(mix))) is None for mix in sorted(DRAWN)]
    assert 3 < sum(found) < len(found) - 3


def test_an_argument_that_another_overlay_left_is_named_with_its_owner(verl_config):
    why = refusal(verl_config(*overrides(("w_reinforce", "sdpo"))))
    assert "algorithm.verl_ext.advantage.positive_weight is of verl_ext.w_reinforce" in why
    assert "the estimator is 'verl_ext.sdpo'" in why
    key = "algorithm.verl_ext.advantage"
    left = [f"~{key}.{name}" for name in ("positive_weight", "negative_weight")]
    moved = f"+{key}.task_arguments={{positive_weight: 0.1, negative_weight: 1.0}}"
    mix = [f"{key}.task_estimator=verl_ext.w_reinforce", *left, moved]
    assert "or mix: " + " ".join(f"'{word}'" if word[0] in "~+" else word for word in mix) in why
    assert refusal(verl_config(*overrides(("w_reinforce", "sdpo")), *mix)) is None


@pytest.mark.run
@pytest.mark.wide
@pytest.mark.parametrize("number", range(4))
def test_an_accepted_mix_trains_a_step(tmp_path, verl_config, number):
    accepted = (mix for mix in TRAINED if refusal(verl_config(*overrides(mix))) is None)
    mix = next(itertools.islice(accepted, number, None))
    _, metrics = train(
        tmp_path,
        *overrides(mix),
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    step = metrics[1]
    assert step.get("actor/grad_norm", 0) > 0 or step.get("verl_ext/skipped_update") == 1, mix
