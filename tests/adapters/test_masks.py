"""Masks in order, and the rows an update is made of."""

import pytest
import torch

from verl_ext.adapters import masks
from verl_ext.adapters.errors import SettingsError
from verl_ext.catalog import MASKS, Plugin


def chain(monkeypatch, **functions):
    """A chain of functions or objects that the catalog does not have, in the order given."""
    for name, function in functions.items():
        entry = Plugin(lambda function=function: function, "t", "u", "s", name)
        monkeypatch.setitem(MASKS, name, entry)
    made = masks.MaskChain({})
    made.masks = functions
    return made


class Withholds:
    """A mask that keeps what it is told to, with a denominator of choice."""

    def __init__(self, keep, denominator):
        self.keep, self.denominator, self.seen = torch.tensor(keep), denominator, None

    def __call__(self, advantages, response_mask):
        self.seen = advantages.clone()
        return self.keep


def test_masks_run_in_the_order_written_each_on_what_is_left(monkeypatch):
    first = Withholds([[True, False], [True, True]], "kept")
    second = Withholds([[True, True], [False, True]], "kept")
    left = chain(monkeypatch, first=first, second=second)(torch.ones(2, 2), torch.ones(2, 2), {})
    assert left.advantages.tolist() == [[1, 0], [0, 1]]
    assert left.counted.tolist() == [[True, False], [False, True]]
    assert second.seen.tolist() == [[1, 0], [1, 1]]
    assert left.metrics == {"verl_ext/first/kept_share": 3 / 4, "verl_ext/second/kept_share": 2 / 3}


def test_a_mask_over_all_tokens_leaves_the_denominator_alone(monkeypatch):
    mask = Withholds([[True, False]], "all")
    left = chain(monkeypatch, mask=mask)(torch.ones(1, 2), torch.ones(1, 2), {})
    assert left.advantages.tolist() == [[1, 0]]
    assert left.counted.tolist() == [[True, True]]


def test_a_later_mask_does_not_take_the_place_that_an_earlier_one_left_a_token(monkeypatch):
    first = Withholds([[False, True, True]], "all")
    second = Withholds([[False, False, True]], "kept")
    left = chain(monkeypatch, first=first, second=second)(torch.ones(1, 3), torch.ones(1, 3), {})
    assert left.counted.tolist() == [[True, False, True]]
    assert left.metrics["verl_ext/second/kept_share"] == 1 / 2


def test_a_mask_cannot_bring_padding_back(monkeypatch):
    mask = Withholds([[True, True]], "kept")
    left = chain(monkeypatch, mask=mask)(torch.ones(1, 2), torch.tensor([[1, 0]]), {})
    assert left.advantages.tolist() == [[1, 0]]
    assert left.counted.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("advantages", "keep", "teaches"),
    [
        ([[1.0, 0.0]], [[True, False]], True),
        ([[1.0, 0.0]], [[False, True]], False),  # what is left has no advantage
        ([[0.0, 0.0]], [[True, True]], True),  # nothing withheld: verl's business
        ([[1.0, 1.0]], [[False, False]], False),
    ],
)
def test_a_batch_teaches_if_an_advantage_is_left_or_no_mask_did_anything(
    monkeypatch, advantages, keep, teaches
):
    made = chain(monkeypatch, mask=Withholds(keep, "all"))
    assert made(torch.tensor(advantages), torch.ones(1, 2), {}).teaches is teaches


def test_built_masks_are_those_of_the_catalog_in_configuration_order():
    made = masks.MaskChain({"zero_advantage": {}, "aepo": {"low": 0.1, "high": 0.2}})
    assert list(made.masks) == ["zero_advantage", "aepo"]
    assert made.needs == ["entropy"]
    assert not masks.MaskChain(None)


def test_a_mask_may_need_less_than_its_catalog_entry_says():
    plain = masks.MaskChain({"std_filter": {"mode": "mask"}})
    assert plain.needs == ["group_ids", "rewards"]
    scaled = masks.MaskChain({"std_filter": {"mode": "mask", "task_multipliers": {"m": 2.0}}})
    assert scaled.needs == ["group_ids", "rewards", "task_ids"]


def test_a_mask_that_acts_before_there_is_a_batch_is_no_part_of_the_chain():
    made = masks.MaskChain({"std_filter": {}, "zero_advantage": {}})
    assert made.resampler is made.masks["std_filter"]
    assert made.needs == []
    left = made(torch.tensor([[1.0], [0.0]]), torch.ones(2, 1), {})
    assert left.counted.tolist() == [[True], [False]]
    assert set(left.metrics) == {"verl_ext/zero_advantage/kept_share"}
    assert set(made.state_dict()) == {"std_filter"}  # saved like any other
    alone = masks.MaskChain({"std_filter": {}})
    assert not alone
    assert masks.MaskChain({"std_filter": {"mode": "mask"}}).resampler is None


def test_the_end_of_a_step_reaches_the_masks_that_ask_for_it():
    made = masks.MaskChain({"aepo": {}, "std_filter": {"mode": "mask"}})
    fields = {"rewards": torch.tensor([0.0, 2**0.5]), "entropy": torch.full((2, 1), 0.5)}
    for prompt in "ab":  # two updates of a step
        made(torch.ones(2, 1), torch.ones(2, 1), fields | {"group_ids": [prompt, prompt]})
    metrics, news = made.end_step(7)
    assert metrics == {
        "verl_ext/std_filter/threshold": 0.0,
        "verl_ext/std_filter/kept": 1.0,
        "verl_ext/std_filter/mean_std": pytest.approx(1.0),
    }
    assert news == ["std_filter: no prompt is dropped up to step 16"]
    assert made.state_dict()["std_filter"]["steps"] == 1


def test_masks_hand_over_metrics_news_and_state():
    settings = {"aepo": {"calibration_steps": 1}}
    made = masks.MaskChain(settings)
    entropy = {"entropy": torch.full((1, 2), 0.5)}
    left = made(torch.ones(1, 2), torch.ones(1, 2), entropy)
    assert left.metrics["verl_ext/aepo/batch_entropy"] == 0.5
    assert left.metrics["verl_ext/aepo/gate_on"] == 0.0
    assert left.news == [
        "aepo: entropy thresholds found; to pin them: "
        "algorithm.verl_ext.masks.aepo.low=0.5 algorithm.verl_ext.masks.aepo.high=0.5"
    ]
    resumed = masks.MaskChain(settings)
    assert resumed.load_state_dict(made.state_dict()) == []
    higher = {"entropy": torch.full((1, 2), 0.6)}
    left = resumed(-torch.ones(1, 2), torch.ones(1, 2), higher)
    assert left.metrics["verl_ext/aepo/gate_on"] == 1.0
    assert not left.teaches


def test_a_mask_that_the_checkpoint_does_not_know_starts_anew_and_is_named():
    made = masks.MaskChain({"zero_advantage": {}, "aepo": {}})
    assert made.load_state_dict({}) == ["aepo"]


def test_a_state_saved_under_other_settings_is_refused_with_the_key():
    calibrated = masks.MaskChain({"aepo": {}}).state_dict()
    pinned = masks.MaskChain({"aepo": {"low": 0.1, "high": 0.2}})
    with pytest.raises(SettingsError, match=r"masks\.aepo: .*other settings.*need no pinning"):
        pinned.load_state_dict(calibrated)


def test_every_row_that_counts_is_trained_on_and_the_cheapest_others_fill_up():
    counted = torch.tensor([[1], [0], [1], [0], [1], [0]], dtype=torch.bool)
    assert masks.rows_to_train(counted, [9, 8, 9, 2, 9, 5], multiple=4) == [0, 2, 3, 4]


def test_no_mini_batch_can_be_without_a_row_that_counts():
    """Fewer fillers than rows of a mini-batch: whatever the order, each has one that counts."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        counted = torch.rand(24, 1, generator=generator) < 0.3
        if not counted.any():
            continue
        rows = masks.rows_to_train(counted, [1] * 24, multiple=8)
        fillers = [row for row in rows if not counted[row].any()]
        assert len(rows) % 8 == 0
        assert len(fillers) < 8
        assert set(torch.nonzero(counted.any(-1)).flatten().tolist()) <= set(rows)


def test_a_batch_that_counts_throughout_is_kept_whole():
    assert masks.rows_to_train(torch.ones(4, 2).bool(), [1] * 4, multiple=2) == [0, 1, 2, 3]
