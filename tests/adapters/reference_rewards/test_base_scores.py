"""The base scores of the first policy: kept, found again by a resumed run, refreshed."""

import json
import math

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.reference_rewards.rewarded import Buffer, row, trainer

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.rollout.reference_probability import BASE


def test_the_first_policy_sets_the_base_scores_once_and_for_all(cache, capsys):
    made = trainer()
    made._load_checkpoint()
    assert (made.asked, made.loaded) == (2, True)  # the verifier's question has none
    batch = made._next_train_batch()
    assert batch[BASE].tolist() == pytest.approx([math.exp(-0.1)] * 2 + [0.0])
    assert "2 computed" in capsys.readouterr().out
    made.step({}, {})
    assert made._next_train_batch()[BASE].tolist() == batch[BASE].tolist()

    again = trainer()
    again.updates = 5
    again._load_checkpoint()
    assert again.asked == 0
    assert again._next_train_batch()[BASE].tolist() == batch[BASE].tolist()
    (file,) = cache.iterdir()
    assert len(json.loads(file.read_text())) == 2


def test_a_resumed_run_subtracts_what_the_first_one_did(cache):
    first = trainer(debias="refresh", refresh_every=1)
    first._load_checkpoint()
    first.step({}, {})
    resumed = trainer(debias="refresh", refresh_every=1)
    resumed._load_checkpoint()
    assert resumed.ext_restore({}) == ["base scores"]
    assert resumed.ext_restore(first.ext_state()) == []
    expected = first._next_train_batch()[BASE].tolist()
    assert resumed._next_train_batch()[BASE].tolist() == expected
    assert expected[0] == pytest.approx(math.exp(-0.2))


def test_base_scores_are_refreshed_every_so_many_steps(cache):
    made = trainer(debias="refresh", refresh_every=2)
    made._load_checkpoint()
    seen = []
    for made.global_steps in (1, 2, 3):
        made.step({}, {})
        seen.append(made._next_train_batch()[BASE][0].item())
    assert seen == pytest.approx([math.exp(-0.1), math.exp(-0.3), math.exp(-0.3)])
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text()).values()
    assert list(kept) == pytest.approx([math.exp(-0.1)] * 2)


def test_a_refresh_comes_once_a_step_however_many_updates_it_has(cache):
    made = trainer(debias="refresh", refresh_every=1)
    made._load_checkpoint()
    made.asked, made.batches = 0, made.batches * 4
    made.step({}, {})
    assert (made.updates, made.asked) == (4, 2)
    assert made._next_train_batch()[BASE][0].item() == pytest.approx(math.exp(-0.5))


def test_without_debiasing_nothing_is_asked(cache):
    made = trainer(debias="none")
    made._load_checkpoint()
    assert made.asked == 0
    assert BASE not in made._next_train_batch()
    assert made.ext_state() == {}


def test_a_prompt_that_appeared_later_is_named():
    made = trainer()
    made._load_checkpoint()
    made.train_dataset[0] = row("new", "toy")
    with pytest.raises(SettingsError, match=r"debias=none"):
        made._next_train_batch()


def test_a_run_without_the_section_is_verls():
    made = trainer()
    made.ext_reference = None
    made._init_dataloader()
    made._load_checkpoint()
    assert made._build_replay_buffer().__dict__.keys() == Buffer().__dict__.keys()
    metrics = {}
    made._compute_metrics(None, metrics)
    assert metrics == {"verl": 1.0}
    assert BASE not in made._next_train_batch()


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("model", {"lora_adapter_path": "/an/adapter"}),
        ("model", {"override_config": {"rope_theta": 5e5}}),
        (
            "actor",
            {"fsdp_config": {"dtype": "float32", "mixed_precision": {"param_dtype": "fp32"}}},
        ),
    ],
)
def test_another_first_policy_has_other_base_scores(cache, section, value):
    made, other = trainer(), trainer()
    other.config.actor_rollout_ref[section].update(value)
    assert made._ext_base_file() != other._ext_base_file()
