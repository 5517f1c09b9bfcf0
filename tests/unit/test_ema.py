import math

import pytest
import torch

from verl_ext.self_teaching.ema import Ema, relative_distance


def weights(*values, dtype=torch.float32):
    return {"w": torch.tensor(values, dtype=dtype)}


def random_weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(50, 20, generator=generator).to(dtype),
        "norm": (1 + 0.1 * torch.randn(20, generator=generator)).to(dtype),
    }


def relative_error(average, exact):
    apart = sum(((average[n].double() - exact[n]) ** 2).sum() for n in exact)
    return (apart / sum((value**2).sum() for value in exact.values())).sqrt().item()


def test_the_average_follows_the_student():
    # 1 + .05 · 1, then + .05 · (3 − 1.05) = .0975, then + .05 · (4 − 1.1475) = .142625.
    ema = Ema(weights(1.0), 0.05)
    for student, average in ((2.0, 1.05), (3.0, 1.1475), (4.0, 1.290125)):
        ema.update(weights(student))
        assert ema.weights["w"].item() == pytest.approx(average, rel=1e-7)


# ---- precision


def bf16_students(steps, kind, seed=0):
    """Weights in bfloat16, of an optimiser that keeps its own in double precision."""
    generator = torch.Generator().manual_seed(seed)
    own = {name: value.double() for name, value in random_weights(seed).items()}
    for step in range(steps):
        for value in own.values():
            if kind == "small steps":
                value += 1e-5 * torch.randn(value.shape, generator=generator)
            elif step == 1:  # "one step, then none"
                value *= 1.01
        yield {name: value.bfloat16() for name, value in own.items()}


def averaged(kind, rate, in_dtype=None):
    """Our average, the exact one, and one kept in another type, after 1,000 updates."""
    first, *students = bf16_students(1001, kind)
    ema, exact = Ema(first, rate), {name: value.double() for name, value in first.items()}
    plain = {name: value.to(in_dtype or torch.float32) for name, value in first.items()}
    for student in students:
        ema.update(student)
        for name, value in student.items():
            exact[name] += rate * (value.double() - exact[name])
            plain[name].lerp_(value.to(plain[name].dtype), rate)
    return ema, exact, plain


@pytest.mark.parametrize("kind", ["small steps", "one step, then none"])
@pytest.mark.parametrize("rate", [0.05, 0.01])
def test_a_thousand_updates_stay_within_a_millionth_of_double_precision(kind, rate):
    ema, exact, _ = averaged(kind, rate)
    assert relative_error(ema.weights, exact) < 1e-7  # float32's own precision
    both = {name: weight.double() + ema.remainders[name] for name, weight in ema.weights.items()}
    assert relative_error(both, exact) < 1e-9
    (first,) = bf16_students(1, kind)
    assert relative_error(first, exact) > 1e-4  # there was something to follow


def test_an_average_in_bfloat16_does_not_follow():
    _, exact, plain = averaged("one step, then none", 0.05, torch.bfloat16)
    assert relative_error(plain, exact) > 0.005  # the student moved by 1 %


def test_an_average_in_float32_alone_stops_short_of_a_weight_that_stands_still():
    # Why remainders are kept: at .01 plain float32 is off by more than a millionth.
    ema, exact, plain = averaged("one step, then none", 0.01)
    assert relative_error(plain, exact) > 2e-6
    assert relative_error(ema.weights, exact) < 1e-7


def test_a_student_that_stands_still_is_its_own_average_bit_for_bit():
    student = random_weights(1, torch.bfloat16)
    ema = Ema(student, 0.05)
    for _ in range(10):
        ema.update(student)
    for name, weight in student.items():
        assert torch.equal(ema.weights[name], weight.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_student_of_any_type_has_its_average_in_float32_on_the_cpu(dtype):
    student = random_weights(2, dtype)
    ema = Ema(student, 0.5)
    ema.update(student)
    for name, weight in ema.weights.items():
        assert weight.dtype == torch.float32
        assert weight.device.type == "cpu"
        torch.testing.assert_close(weight, student[name].float())


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


# ---- what is refused


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


def test_the_distance_is_over_all_weights_together():
    ema = Ema({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 0.5)
    student = {"a": torch.tensor([3.0 + 5.0]), "b": torch.tensor([4.0 + 12.0])}
    assert ema.squared_distance(student) == (5**2 + 12**2, 8**2 + 16**2)
    assert ema.distance(student) == pytest.approx(13 / math.hypot(8, 16))
