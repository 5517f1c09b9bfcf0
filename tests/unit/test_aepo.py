"""The mask object: gate, thresholds, metrics, state. The parts are tested on their own."""

import pytest
import torch

from verl_ext.masks.aepo import Aepo

ADVANTAGES = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
MASK = torch.tensor([[1, 1], [1, 1], [1, 0]])


def entropies(value):
    return torch.full((3, 2), value)


def withheld(mask, value):
    return (~mask(ADVANTAGES, MASK, entropy=entropies(value))).nonzero().tolist()


NEGATIVE = [[1, 0], [1, 1]]
NAMES = ("sequence_threshold", "token_threshold")


def test_masking_begins_above_high_and_ends_below_low():
    """Methods.md 5, first vector."""
    mask = Aepo(low=0.135, high=0.28)
    series = [0.10, 0.15, 0.20, 0.25, 0.27, 0.31, 0.25, 0.18, 0.14, 0.12, 0.20, 0.29, 0.15]
    states = [bool(withheld(mask, value)) for value in series]
    assert states == [bool(on) for on in (0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1)]


def test_the_readmes_band_is_there_for_reproduction():
    mask = Aepo(low=0.135, high=0.28, gate="readme_band")
    assert withheld(mask, 0.2) == NEGATIVE
    assert withheld(mask, 0.3) == []


def test_calibration_watches_then_masks_and_tells_once_what_it_found():
    mask = Aepo(calibration_steps=3, low_quantile=0.0, high_quantile=1.0)
    news = []
    for value in (0.2, 0.4, 0.3, 0.5, 0.35, 0.1):
        withheld(mask, value)
        news.append(mask.news)
    assert news[:2] == ["", ""]
    assert "masks.aepo.low=0.2 algorithm.verl_ext.masks.aepo.high=0.4" in news[2]
    assert news[3:] == ["", "", ""]


def test_metrics_carry_entropy_gate_and_the_thresholds_in_force():
    mask = Aepo(calibration_steps=1)
    withheld(mask, 0.5)
    withheld(mask, 0.75)
    assert mask.metrics == {"batch_entropy": 0.75, "low": 0.5, "high": 0.5, "gate_on": 1.0}
    watching = Aepo(calibration_steps=2)
    withheld(watching, 0.5)
    assert watching.metrics == {"batch_entropy": 0.5, "gate_on": 0.0}


def test_thresholds_alone_need_no_gate():
    mask = Aepo(gate="off", token_threshold=0.5)
    entropy = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.9, 0.9]])
    keep = mask(ADVANTAGES, MASK, entropy=entropy)
    assert (~keep).nonzero().tolist() == [[1, 0]]
    assert "gate_on" not in mask.metrics
    by_response = Aepo(gate="off", sequence_threshold=0.45)
    assert (~by_response(ADVANTAGES, MASK, entropy=entropy)).nonzero().tolist() == NEGATIVE


def test_the_reduction_decides_on_which_side_a_batch_falls():
    """Methods.md 5, third vector: .25 by sequences, .20 by tokens, threshold .22."""
    entropy = torch.tensor([[0.4, 0.4, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    for reduction, on in (("sequence", 1.0), ("token", 0.0)):
        aepo = Aepo(low=0.22, high=0.22, reduction=reduction)
        aepo(-torch.ones(2, 4), mask, entropy=entropy)
        assert aepo.metrics["gate_on"] == on


@pytest.mark.parametrize(
    "settings", [{"low": 0.2, "high": 0.4}, {"calibration_steps": 2}, {"calibration_steps": 5}]
)
def test_a_resumed_mask_goes_on_like_the_one_that_was_not_stopped(settings):
    values = [0.3, 0.45, 0.3, 0.5, 0.25, 0.1, 0.31, 0.6]
    whole = Aepo(**settings)
    expected = [withheld(whole, value) for value in values]
    for stop in range(len(values)):
        first, second = Aepo(**settings), Aepo(**settings)
        found = [withheld(first, value) for value in values[:stop]]
        second.load_state_dict(first.state_dict())
        assert found + [withheld(second, value) for value in values[stop:]] == expected


def test_without_a_gate_there_is_no_state_to_take_up():
    mask = Aepo(gate="off", token_threshold=1.0)
    assert mask.state_dict() == {}
    with pytest.raises(ValueError, match="there is no gate"):
        mask.load_state_dict({"on": True})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="masks nothing"):
        Aepo(gate="off")
    for one_number in ({"low": 0.1}, {"high": 0.1}):
        with pytest.raises(ValueError, match=r"both numbers .* or both 'auto'"):
            Aepo(**one_number)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "off", "low": 0.1, "high": 0.3}, "low=0.1 has no effect with gate=off: .* auto"),
        ({"gate": "off", "high": 0.3}, "^high=0.3 has no effect with gate=off: make it auto"),
        ({"gate": "off", "calibration_steps": 5}, "calibration_steps=5 has no .*=off: make it 20"),
        ({"low": 0.1, "high": 0.3, "low_quantile": 0.2}, "with low=0.1 and high=0.3: make it 0.1"),
        ({"low": 0.1, "high": 0.3, "high_quantile": 0.8}, "high_quantile=0.8 has .*make it 0.9"),
        (
            {"gate": "readme_band", "low": 0.1, "high": 0.3, "calibration_steps": 5},
            "calibration_steps=5 has no effect with low=0.1 and high=0.3",
        ),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Aepo(**settings, token_threshold=0.5)


def test_settings_at_their_defaults_are_never_without_a_place():
    """A recipe writes all of them down, whatever is typed beside it."""
    usual = {"calibration_steps": 20, "low_quantile": 0.1, "high_quantile": 0.9}
    Aepo(**usual, low=0.1, high=0.3)
    Aepo(**usual, low="auto", high="auto", gate="off", token_threshold=0.5)


def test_only_a_calibration_without_thresholds_beside_it_just_watches():
    assert Aepo(calibration_steps=7).watches == 7
    assert Aepo(token_threshold=0.5).watches == 0
    assert Aepo(low=0.1, high=0.3).watches == 0


def test_either_threshold_or_both_do_without_a_gate():
    for thresholds in (
        {"sequence_threshold": 1.0},
        dict.fromkeys(NAMES, 1.0),
    ):
        mask = Aepo(gate="off", **thresholds)
        assert withheld(mask, 0.9) == []
        assert withheld(mask, 1.1) == NEGATIVE


def test_there_is_no_news_before_the_first_batch():
    assert Aepo().news == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denominator": "some"}, "denominator must be one of all, kept"),
        ({"reduction": "row"}, "reduction must be one of sequence, token"),
        ({"token_threshold": -0.1}, "token_threshold must be a finite number >= 0"),
        ({"sequence_threshold": "0.5"}, "sequence_threshold must be a finite number >= 0"),
        ({"gate": "readme_band"}, "gate=readme_band needs numbers for low and high"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_first_batch(settings, message):
    with pytest.raises(ValueError, match=message):
        Aepo(**settings)
