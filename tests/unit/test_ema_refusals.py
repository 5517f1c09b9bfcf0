"""Rates, weights and states that no average of these weights can have."""

import math

import pytest
import torch
from unit.student_weights import weights

from verl_ext.self_teaching.ema import Ema


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan])
def test_a_rate_that_makes_another_teacher_is_refused(rate):
    with pytest.raises(ValueError, match="rate must be above 0 and below 1"):
        Ema(weights(1.0), rate)


def test_a_student_without_weights_is_refused():
    with pytest.raises(ValueError, match="student has no weights"):
        Ema({}, 0.05)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_refused_before_anything_moves(value):
    ema = Ema({"a": torch.ones(1), "b": torch.ones(2)}, 0.5)
    broken = {"a": torch.zeros(1), "b": torch.tensor([0.0, value])}
    with pytest.raises(ValueError, match=r"student\['b'\] has a NaN or an infinity"):
        ema.update(broken)
    assert ema.weights["a"].item() == 1
    with pytest.raises(ValueError, match=r"student\['b'\] has a NaN or an infinity"):
        Ema(broken, 0.5)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"student\['w'\] is torch.int64"):
        Ema({"w": torch.ones(2, dtype=torch.int64)}, 0.5)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"v": torch.ones(2)}, r"missing \['w'\], unknown \['v'\]"),
        ({"w": torch.ones(2), "v": torch.ones(2)}, r"missing \[\], unknown \['v'\]"),
        ({"w": torch.ones(1)}, r"student\['w'\] must have the shape \(2,\), got \(1,\)"),
    ],
)
@pytest.mark.parametrize("call", ["update", "squared_distance"])
def test_another_model_is_refused(student, message, call):
    ema = Ema(weights(1.0, 1.0), 0.5)
    with pytest.raises(ValueError, match=message):
        getattr(ema, call)(student)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weights": {}}, "must have the keys"),
        ({"weights": {}, "remainders": {}}, r"missing \['w'\]"),
        (
            {"weights": weights(2.0, 2.0), "remainders": weights(0.0, 0.0)},
            r"state\['remainders'\]\['w'\] must be torch.bfloat16, got torch.float32",
        ),
        (
            {"weights": weights(2.0), "remainders": weights(0.0, 0.0, dtype=torch.bfloat16)},
            r"state\['weights'\]\['w'\] must have the shape \(2,\), got \(1,\)",
        ),
    ],
)
def test_another_models_state_is_refused_and_changes_nothing(state, message):
    ema = Ema(weights(1.0, 1.0), 0.05)
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict(state)
    assert torch.equal(ema.weights["w"], torch.ones(2))
