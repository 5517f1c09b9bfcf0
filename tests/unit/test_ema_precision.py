"""An average in single precision, against one in double precision."""

import pytest
import torch
from unit.student_weights import random_weights

from verl_ext.self_teaching.ema import Ema


def relative_error(average, exact):
    apart = sum(((average[n].double() - exact[n]) ** 2).sum() for n in exact)
    return (apart / sum((value**2).sum() for value in exact.values())).sqrt().item()


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
