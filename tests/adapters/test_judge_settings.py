"""Settings of a judge."""

import pytest

from verl_ext.adapters.judge.settings import JudgeSettings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://user:word@h/v1"}, "no user or password"),
        ({"base_url": None}, "base_url"),
        ({"model": ""}, "model"),
        ({"rubric": " "}, "rubric"),
        ({"api_key_env": ""}, "api_key_env"),
        ({"cache": ""}, "cache"),
        ({"max_score": 0}, "max_score"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"backoff_s": -1}, "backoff_s"),
        ({"max_backoff_s": float("inf")}, "max_backoff_s"),
        ({"structured": "json"}, "did you mean 'json_schema'"),
        ({"show_reasoning": "no"}, "show_reasoning"),
        ({"show_tool_calls": 1}, "show_tool_calls"),
        ({"extra_body": {"temperature": 1}}, "extra_body must not have 'temperature'"),
        ({"criteria": {"path": 0}}, r"criteria\.path"),
        ({"criteria": {"path": {"wieght": 1}}}, "did you mean 'weight'"),
        ({"breaker": {"failure": 1}}, "did you mean 'failures'"),
        ({"breaker": {"failures": 0}}, r"breaker\.failures"),
        ({"breaker": {"cooldown_s": -1}}, r"breaker\.cooldown_s"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(values, said):
    with pytest.raises(ValueError, match=said):
        JudgeSettings(**{"base_url": "http://h/v1", "model": "m", **values})


def test_criteria_are_weights_or_have_a_description():
    criteria = {"path": 0.6, "answer": {"weight": 0.4, "description": "is it right"}}
    rule = JudgeSettings("http://h/v1", "m", criteria=criteria).rule
    assert [(c.name, c.weight, c.description) for c in rule.criteria] == [
        ("path", 0.6, ""),
        ("answer", 0.4, "is it right"),
    ]
