"""The filter as a trainer uses it: judged in a step, moved at its end, whatever the mode."""

import io
import math

import pytest
import torch

from verl_ext.masks.std_filter import StdFilterMask

# Of two responses with rewards 0 and x the unbiased standard deviation is x/√2.
UNIT = math.sqrt(2)
FROM_THE_FIRST_STEP = {"warmup_from": 1, "warmup_to": 1}


def judge(mask, **stds):
    """Judges prompts of two responses with these standard deviations."""
    rewards = [reward for std in stds.values() for reward in (0.0, std * UNIT)]
    return mask.judge(rewards, [name for name in stds for _ in range(2)])


def made(step=1, mean_std=1.0, **settings):
    """A filter after one step of its warm-up, in which the standard deviation was ``mean_std``."""
    mask = StdFilterMask(**FROM_THE_FIRST_STEP | settings)
    judge(mask, a=mean_std)
    mask.end_step(step)
    return mask


def call(mask, rewards, group_ids, **more):
    shape = (len(rewards), 3)
    return mask(
        torch.ones(shape),
        torch.ones(shape),
        rewards=torch.tensor(rewards),
        group_ids=group_ids,
        **more,
    )


def test_a_withheld_prompt_is_withheld_in_all_its_responses_and_tokens():
    keep = call(made(mode="mask"), [0.0, 0.0, 2.0, 0.0], ["a", "b", "a", "b"])  # √2 ≥ .5 > 0
    assert keep.dtype == torch.bool
    assert keep.tolist() == [[True] * 3, [False] * 3, [True] * 3, [False] * 3]


def test_a_step_is_judged_by_the_threshold_of_the_steps_before_it():
    mask = made(beta=1.0, decay=0.0)
    assert judge(mask, a=0.75, b=1.25) == {"a": False, "b": True}
    assert judge(mask, c=0.75) == {"c": False}  # a second update of the same step
    mask.end_step(2)
    assert mask.threshold == pytest.approx((0.75 + 1.25 + 0.75) / 3)
    assert mask.metrics == {
        "threshold": pytest.approx(1.0),  # that was in force
        "kept": 1 / 3,
        "mean_std": pytest.approx((0.75 + 1.25 + 0.75) / 3),
    }


def test_the_next_step_begins_with_nobody_judged():
    mask = made(decay=0.0)
    judge(mask, a=4.0)
    mask.end_step(2)
    assert mask.judged == {}
    judge(mask, a=1.0, b=1.0)
    mask.end_step(3)
    assert (mask.metrics["kept"], mask.metrics["mean_std"]) == (0.0, pytest.approx(1.0))


def test_a_step_without_a_prompt_counts_nowhere():
    mask = StdFilterMask(warmup_from=1, warmup_to=2)
    judge(mask, a=1.0)
    mask.end_step(1)
    mask.end_step(2)
    assert (mask.metrics, mask.news, mask.threshold) == ({}, "", 0.0)
    judge(mask, a=3.0)
    mask.end_step(3)
    assert mask.threshold == pytest.approx(0.5 * (1 + 3) / 2)


def test_where_the_filter_joins_a_run_its_warm_up_begins():
    mask = StdFilterMask(warmup_from=2, warmup_to=3)
    news = []
    for step, std in ((51, 9.0), (52, 1.0), (53, 2.0), (54, 4.0)):
        assert judge(mask, a=std, b=0.0)["b"] is (step < 54)
        mask.end_step(step)
        news.append(mask.news)
    assert news[0] == "no prompt is dropped up to step 53"
    assert news[2] == "from now on a prompt's standard deviation must reach 0.375"  # .5 · 1.5/2
    assert news[1] == news[3] == ""


def test_multipliers_are_told_so_that_the_data_can_be_asked_for_their_tasks():
    assert StdFilterMask().per_task == {}
    told = StdFilterMask(task_multipliers={"m": 0.25}).per_task
    assert told == {"task_multipliers": {"m": 0.25}}


def test_multipliers_ask_for_tasks_and_are_applied():
    plain, scaled = (
        StdFilterMask(),
        StdFilterMask(mode="mask", task_multipliers={"m": 0.25, "q": 1}),
    )
    scaled.load_state_dict(made().state_dict())
    assert (plain.needs, scaled.needs) == (
        ("rewards", "group_ids"),
        ("rewards", "group_ids", "task_ids"),
    )
    keep = call(scaled, [0.0, UNIT, 0.0, UNIT], list("aabb"), task_ids=list("mmqq"))
    assert keep[:, 0].tolist() == [False, False, True, True]  # .25 < .5 ≤ 1
    with pytest.raises(ValueError, match=r"task_multipliers lack \['x'\]"):
        call(scaled, [0.0, 1.0], list("aa"), task_ids=list("xx"))


def test_a_call_clears_what_the_last_step_had_to_say():
    mask = StdFilterMask(mode="mask")
    call(mask, [0.0, 1.0], ["a", "a"])
    mask.end_step(1)
    assert mask.metrics
    assert mask.news
    call(mask, [0.0, 1.0], ["b", "b"])
    assert (mask.metrics, mask.news) == ({}, "")


def test_a_resumed_filter_goes_on_and_says_nothing_twice():
    whole = StdFilterMask(warmup_from=1, warmup_to=2)
    judge(whole, a=1.0)
    whole.end_step(1)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = StdFilterMask(warmup_from=1, warmup_to=2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step, std in ((2, 2.0), (3, 0.3), (4, 0.9)):
        for mask in (whole, resumed):
            judge(mask, a=std, b=0.7)
            mask.end_step(step)
        assert (resumed.threshold, resumed.metrics) == (whole.threshold, whole.metrics)
        assert resumed.news == whole.news
    assert resumed.threshold > 0
    with pytest.raises(ValueError, match="must have the keys"):
        resumed.load_state_dict({"on": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "resampel"}, r"mode must be one of resample, mask.*did you mean 'resample'\?"),
        ({"mode": "masks"}, r"did you mean 'mask'\?"),
        ({"mode": None}, "mode must be one of"),
        ({"mode": "mask", "max_gen_batches": 3}, r"max_gen_batches=3 has no effect with mode=mask"),
        ({"denominator": "all"}, r"denominator=all has no effect with mode=resample"),
        ({"mode": "mask", "denominator": "some"}, "denominator must be one of"),
        ({"max_gen_batches": 0}, "max_gen_batches must be finite and >= 1"),
        ({"max_gen_batches": math.inf}, "max_gen_batches must be finite"),
        ({"beta": -1}, "beta must be"),
        ({"decay": 2}, "decay must be"),
        ({"warmup_to": 5}, "in this order"),
        ({"task_multipliers": {"m": 0}}, r"task_multipliers\['m'\] must be > 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StdFilterMask(**settings)


def test_the_defaults_are_the_authors_and_say_who_acts():
    resample, mask = StdFilterMask(), StdFilterMask(mode="mask")
    assert (resample.resamples, mask.resamples) == (True, False)
    assert (resample.max_gen_batches, mask.denominator) == (10, "kept")
    assert StdFilterMask(mode="mask", denominator="all").denominator == "all"


def test_prompts_without_any_reward_are_dropped_and_count_as_judged():
    mask = made()
    judge(mask, a=0.9)
    mask.reject(["b", "c"])
    assert mask.judged == {"a": True, "b": False, "c": False}
    mask.end_step(2)
    assert mask.metrics["kept"] == 1 / 3
    assert mask.metrics["mean_std"] == pytest.approx(0.9)


def test_one_batch_may_be_all_that_is_judged():
    assert StdFilterMask(max_gen_batches=1).max_gen_batches == 1


def test_the_authors_average_begins_at_the_sixth_step():
    thresholds = []
    for settings in ({}, {"warmup_from": 6}, {"warmup_from": 7}):
        mask = StdFilterMask(**settings)
        for step in range(1, 11):
            judge(mask, a=float(step))
            mask.end_step(step)
        thresholds.append(mask.threshold)
    assert thresholds[0] == thresholds[1] != thresholds[2]


def test_there_is_no_news_before_the_first_step():
    assert StdFilterMask().news == ""
