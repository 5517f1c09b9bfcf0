"""The simulated annotator: what it adds, when it flips, which calls fail."""

import math
import statistics
import subprocess
import sys

import pytest

from verl_ext.simulated_judge.annotator import Annotator, Shown
from verl_ext.simulated_judge.chance import gauss, uniform
from verl_ext.simulated_judge.faults import Fault, Faults
from verl_ext.simulated_judge.quality import length, load

GOOD, BAD = Shown(0.75, "good"), Shown(0.25, "bad")
MANY = 4000


def within(count, n, p, errors=4):
    """Whether a count is within so many standard errors of n·p."""
    return abs(count - n * p) <= errors * math.sqrt(n * p * (1 - p)) + 1e-9


def test_without_noise_scores_are_the_qualities_on_the_scale():
    assert Annotator().pair("q", GOOD, BAD) == (7.5, 2.5)
    assert Annotator().single("q", GOOD) == 7.5
    assert Annotator(low=2, high=6).pair("q", GOOD, BAD) == (2 + 0.75 * 4, 2 + 0.25 * 4)
    assert Annotator(max_score=100, high=100).single("q", BAD) == 25


def test_a_place_is_worth_what_it_is_set_to():
    biased = Annotator(position_bias=1.5)
    assert biased.pair("q", GOOD, BAD) == (9.0, 2.5)
    assert biased.pair("q", BAD, GOOD) == (4.0, 7.5)
    assert biased.single("q", GOOD) == 7.5


@pytest.mark.parametrize(
    ("resolution", "expected"), [(0, 7.5), (1, 8.0), (2, 8.0), (0.25, 7.5), (5, 10.0)]
)
def test_scores_are_rounded_to_the_grid_halves_upwards(resolution, expected):
    assert Annotator(resolution=resolution).single("q", GOOD) == expected


def test_scores_stay_within_the_range_after_rounding():
    assert Annotator(position_bias=9).pair("q", GOOD, BAD)[0] == 10
    assert Annotator(position_bias=-9).pair("q", GOOD, BAD)[0] == 0
    assert Annotator(resolution=4).single("q", Shown(1, "k")) == 10  # and not 12


def test_a_flip_is_the_same_decision_whichever_response_is_shown_first():
    annotator = Annotator(flip=0.25)
    flipped = 0
    for number in range(MANY):
        one, other = Shown(0.75, f"a{number}"), Shown(0.25, f"b{number}")
        scores = annotator.pair("q", one, other)
        assert annotator.pair("q", other, one) == scores[::-1]
        flipped += scores == (2.5, 7.5)
    assert within(flipped, MANY, 0.25)  # P(agree with clean) = 0.75


def test_flipping_a_label_that_is_right_with_p_9_leaves_7():
    """(1 − p) · 0.9 + p · 0.1 = 0.70 for p = 0.25."""
    annotator, right = Annotator(flip=0.25), 0
    for number in range(MANY):
        first, second = (BAD, GOOD) if uniform("clean", number) < 0.1 else (GOOD, BAD)
        shown = Shown(first.quality, f"a{number}"), Shown(second.quality, f"b{number}")
        scores = annotator.pair("q", *shown)
        right += scores[0] > scores[1]
    assert within(right, MANY, 0.70)


def test_half_flipped_is_pure_noise():
    annotator = Annotator(flip=0.5)
    agree = sum(
        annotator.pair("q", Shown(1, f"a{i}"), Shown(0, f"b{i}")) == (10, 0) for i in range(MANY)
    )
    assert within(agree, MANY, 0.5)


def test_pairs_of_one_question_are_flipped_one_by_one_and_questions_too():
    annotator = Annotator(flip=0.5)
    assert len({annotator.flips("q", "a", f"b{i}") for i in range(20)}) == 2
    assert len({annotator.flips(f"q{i}", "a", "b") for i in range(20)}) == 2
    assert len({Annotator(flip=0.5, seed=i).flips("q", "a", "b") for i in range(20)}) == 2


def test_a_response_alone_is_never_flipped_and_a_flip_leaves_the_bias_in_its_place():
    flipping = Annotator(flip=0.5, position_bias=1)
    key = next(f"k{i}" for i in range(50) if flipping.flips("q", f"k{i}", "bad"))
    good = Shown(0.75, key)
    assert flipping.single("q", good) == 7.5
    assert flipping.pair("q", good, BAD) == (2.5 + 1, 7.5)
    assert flipping.pair("q", BAD, good) == (7.5 + 1, 2.5)


def differences(annotator):
    """Of scores from their means: of the first, of the second."""
    middle = 5.0
    pairs = [
        annotator.pair("q", Shown(0.5, f"a{i}"), Shown(0.5, f"b{i}")) for i in range(MANY // 2)
    ]
    return [first - middle for first, _ in pairs], [second - middle for _, second in pairs]


def test_noise_is_of_each_response_and_calibration_of_the_call():
    first, second = differences(Annotator(noise=0.5))
    assert statistics.pstdev(first) == pytest.approx(0.5, rel=0.08)
    assert statistics.pstdev(second) == pytest.approx(0.5, rel=0.08)
    assert abs(statistics.correlation(first, second)) < 0.1
    first, second = differences(Annotator(calibration=0.5))
    assert statistics.pstdev(first) == pytest.approx(0.5, rel=0.08)
    assert first == second


def test_noise_has_no_mean():
    first, _ = differences(Annotator(noise=0.5))
    assert abs(statistics.fmean(first)) < 4 * 0.5 / math.sqrt(len(first))


def test_the_noise_of_the_two_orders_differs_and_of_the_same_call_does_not():
    annotator = Annotator(noise=1, calibration=1)
    assert annotator.pair("q", GOOD, BAD) == annotator.pair("q", GOOD, BAD)
    assert annotator.pair("q", GOOD, BAD) != annotator.pair("q", BAD, GOOD)[::-1]
    assert annotator.pair("q", GOOD, BAD) != annotator.pair("r", GOOD, BAD)
    assert annotator.single("q", GOOD) != Annotator(noise=1, calibration=1, seed=1).single(
        "q", GOOD
    )
    assert Annotator(noise=1).single("q", GOOD) != 7.5
    assert Annotator(calibration=1).single("q", GOOD) != 7.5


def test_chance_is_the_same_in_every_process():
    code = (
        "from verl_ext.simulated_judge.annotator import Annotator, Shown\n"
        "a = Annotator(noise=1, calibration=1, flip=0.5)\n"
        "print(a.pair('q', Shown(0.75, 'good'), Shown(0.25, 'bad')))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {repr(Annotator(noise=1, calibration=1, flip=0.5).pair("q", GOOD, BAD))}


def test_chance_is_uniform_and_normal():
    drawn = [uniform("u", i) for i in range(MANY)]
    assert all(0 < value < 1 for value in drawn)
    for edge in (0.1, 0.5, 0.9):
        assert within(sum(value < edge for value in drawn), MANY, edge)
    normal = [gauss(2.0, "n", i) for i in range(MANY)]
    assert statistics.pstdev(normal) == pytest.approx(2.0, rel=0.05)
    assert gauss(0.0, "n") == 0.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"flip": 0.51}, "flip"),
        ({"flip": -0.1}, "flip"),
        ({"noise": -1}, "noise"),
        ({"calibration": -1}, "calibration"),
        ({"resolution": -1}, "resolution"),
        ({"noise": float("nan")}, "noise"),
        ({"position_bias": float("inf")}, "position_bias"),
        ({"max_score": 0}, "max_score"),
        ({"low": 5, "high": 5}, "low and high"),
        ({"low": -1}, "low and high"),
        ({"high": 11}, "low and high"),
    ],
)
def test_annotators_that_cannot_be_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Annotator(**values)


@pytest.mark.parametrize("quality", [-0.1, 1.1, float("nan")])
def test_a_quality_out_of_range_is_refused(quality):
    with pytest.raises(ValueError, match="hidden quality"):
        Annotator().single("q", Shown(quality, "k"))


def test_calls_fail_by_their_shares():
    faults = Faults({"hang": 0.1, "http_500": 0.3})
    kinds = [faults.of_call(i, f"c{i}", 0, "") for i in range(MANY)]
    assert within(kinds.count(Fault.HANG), MANY, 0.1)
    assert within(kinds.count(Fault.HTTP_500), MANY, 0.3)
    assert within(kinds.count(None), MANY, 0.6)


def test_whether_a_call_fails_depends_on_content_attempt_and_seed_and_not_on_its_number():
    faults = Faults({"drop": 0.5})
    assert len({faults.of_call(i, "c", 0, "") for i in range(20)}) == 1
    assert len({faults.of_call(0, "c", i, "") for i in range(20)}) == 2
    assert len({faults.of_call(0, f"c{i}", 0, "") for i in range(20)}) == 2
    assert len({Faults({"drop": 0.5}, seed=i).of_call(0, "c", 0, "") for i in range(20)}) == 2


def test_only_calls_fail_whose_first_response_holds_the_marker():
    faults = Faults({"drop": 1.0}, marker="player 3")
    assert faults.of_call(0, "c", 0, "I am player 3.") is Fault.DROP
    assert faults.of_call(0, "c", 0, "I am player 4.") is None


def test_outages_begin_and_end_at_their_numbers():
    faults = Faults(outages=((2, 4), (6, 7)))
    down = [number for number in range(9) if faults.of_call(number, "c", 0, "") is Fault.OUTAGE]
    assert down == [2, 3, 6]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shares": {"hagn": 0.1}}, "did you mean 'hang'"),
        ({"shares": {"outage": 0.1}}, "no fault 'outage'"),
        ({"shares": {"hang": -0.1}}, "share of hang"),
        ({"shares": {"hang": float("nan")}}, "share of hang"),
        ({"shares": {"hang": 0.6, "drop": 0.5}}, "at most 1"),
        ({"outages": ((3, 2),)}, "outages"),
        ({"outages": ((-1, 2),)}, "outages"),
        ({"retry_after": "soon"}, "retry_after"),
        ({"slow_s": -1}, "slow_s"),
    ],
)
def test_faults_that_cannot_be_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Faults(**values)


def test_qualities_are_found_by_name():
    assert load("length") is length
    assert load("verl_ext.simulated_judge.quality:length") is length
    assert [length("", "a" * n) for n in (0, 100, 200, 300)] == [0, 0.5, 1, 1]


@pytest.mark.parametrize(
    "name", ["nowhere", "verl_ext_nowhere:f", "math:nowhere", ":f", "math:", "math:pi"]
)
def test_qualities_that_are_not_there_are_refused(name):
    with pytest.raises(ValueError, match="quality"):
        load(name)
