"""pass@k of what verl's validation collects."""

import pytest

from verl_ext.adapters.validation import pass_at_k_metrics


def test_pass_at_k_by_data_source():
    metrics = pass_at_k_metrics(
        ["a", "a", "a", "a", "b", "b"],
        ["p", "p", "q", "q", "r", "r"],
        {"reward": [0.0] * 6, "acc": [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]},
        {},
    )
    assert metrics == {
        "verl_ext/val/a/pass@1": pytest.approx(1 / 4),  # one of four samples
        "verl_ext/val/a/pass@2": pytest.approx(1 / 2),  # one of two prompts
        "verl_ext/val/b/pass@1": 1.0,
        "verl_ext/val/b/pass@2": 1.0,
    }


def test_the_reward_counts_where_not_every_sample_has_an_accuracy():
    metrics = pass_at_k_metrics(["a"], ["p"], {"reward": [1.0], "acc": [None]}, {})
    assert metrics == {"verl_ext/val/a/pass@1": 1.0}


def test_outcomes_that_are_not_0_or_1_have_no_pass_at_k():
    assert pass_at_k_metrics(["a"], ["p"], {"reward": [0.5]}, {}) == {}


def test_a_failed_sample_counts_as_wrong():
    metrics = pass_at_k_metrics(["a"], ["p"], {"reward": [1.0]}, {("a", "p"): 4})
    assert metrics["verl_ext/val/a/pass@1"] == pytest.approx(1 / 4)
    assert metrics["verl_ext/val/a/pass@4"] == 1.0


def test_a_prompt_whose_samples_all_failed_counts_as_wrong():
    metrics = pass_at_k_metrics(["a"], ["p"], {"reward": [1.0]}, {("a", "p"): 1, ("a", "q"): 1})
    assert metrics["verl_ext/val/a/pass@1"] == pytest.approx(1 / 2)
