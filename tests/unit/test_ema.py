"""A teacher that is the average of its students: values, distance, resumption."""

import math

import pytest
import torch
from unit.student_weights import random_weights, weights

from verl_ext.self_teaching.ema import Ema, relative_distance


def test_the_average_follows_the_student():
    # 1 + .05 · 1, then + .05 · (3 − 1.05) = .0975, then + .05 · (4 − 1.1475) = .142625.
    ema = Ema(weights(1.0), 0.05)
    for student, average in ((2.0, 1.05), (3.0, 1.1475), (4.0, 1.290125)):
        ema.update(weights(student))
        assert ema.weights["w"].item() == pytest.approx(average, rel=1e-7)


# ---- in place


def test_the_average_keeps_its_tensors_and_leaves_the_students_alone():
    student = random_weights(3)
    ema = Ema(student, 0.5)
    own, untouched = dict(ema.weights), {name: value.clone() for name, value in student.items()}
    ema.update(random_weights(4))
    ema.update(student)
    for name, value in student.items():
        assert torch.equal(value, untouched[name])
        assert ema.weights[name] is own[name]
        assert ema.weights[name].data_ptr() != value.data_ptr()


def test_no_graph_is_kept():
    student = {"w": torch.ones(2, requires_grad=True)}
    ema = Ema(student, 0.5)
    ema.update(student)
    assert not ema.weights["w"].requires_grad
    assert ema.distance(student) == 0


def test_a_shard_without_weights_is_none():
    ema = Ema({"w": torch.zeros(0)}, 0.5)
    ema.update({"w": torch.zeros(0)})
    assert ema.distance({"w": torch.zeros(0)}) == 0


# ---- distance


def test_the_distance_is_relative_to_the_student_over_all_weights():
    ema = Ema({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}, 0.5)
    student = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([8.0])}
    # Apart 3, 0 and −4, the student's norm 8.
    assert ema.squared_distance(student) == (25, 64)
    assert ema.distance(student) == 5 / 8


def test_the_distances_of_shards_add_up():
    whole, moved = random_weights(5), random_weights(6)
    sums = [0.0, 0.0]
    for part in (slice(0, 7), slice(7, None)):
        shard = Ema({name: value[part] for name, value in whole.items()}, 0.5)
        apart, norm = shard.squared_distance({n: value[part] for n, value in moved.items()})
        sums = [sums[0] + apart, sums[1] + norm]
    expected = Ema(whole, 0.5).distance(moved)
    assert relative_distance(*sums) == pytest.approx(expected, rel=1e-12)


def test_a_distance_from_nothing_is_infinite_unless_there_is_none():
    assert relative_distance(1.0, 0.0) == math.inf
    assert relative_distance(0.0, 0.0) == 0
    assert relative_distance(0.0, 2.0) == 0


def test_the_distance_is_over_all_weights_together():
    ema = Ema({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 0.5)
    student = {"a": torch.tensor([3.0 + 5.0]), "b": torch.tensor([4.0 + 12.0])}
    assert ema.squared_distance(student) == (5**2 + 12**2, 8**2 + 16**2)
    assert ema.distance(student) == pytest.approx(13 / math.hypot(8, 16))


# ---- resumption


def test_a_resumed_average_goes_on_bit_for_bit():
    straight = Ema(random_weights(7), 0.05)
    for seed in range(8, 14):
        straight.update(random_weights(seed))
        if seed == 10:
            state = {
                key: {name: value.clone() for name, value in part.items()}
                for key, part in straight.state_dict().items()
            }
    resumed = Ema(random_weights(99), 0.05)
    own = dict(resumed.weights)
    resumed.load_state_dict(state)
    for seed in range(11, 14):
        resumed.update(random_weights(seed))
    for name in own:
        assert torch.equal(resumed.weights[name], straight.weights[name])
        assert torch.equal(resumed.remainders[name], straight.remainders[name])
        assert resumed.weights[name] is own[name]
