"""A judge that does not judge is told before the run, with what to type."""

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.tournament import check
from verl_ext.adapters.tournament.settings import KEY
from verl_ext.simulated_judge.faults import Faults


def prepared(url, *, topology="single_elimination", calls=None, **judge):
    quick = {"api_key_env": None, "attempts": 2, "backoff_s": 0.01, "timeout_s": 30.0}
    judge = {"base_url": url, "model": "simulated", **quick, **judge}
    section = {"topology": topology, "calls": calls, "judge": judge}
    config = {"algorithm": {"verl_ext": {"group_reward": {"tournament": section}}}}
    return check.prepare(OmegaConf.create(config))


@pytest.mark.parametrize("pointwise", [{}, {"topology": "pointwise", "calls": 3}])
def test_a_judge_is_asked_once_before_the_run(serve, capsys, pointwise):
    server = serve()
    assert prepared(server.url, **pointwise) is None
    assert server.stats()["calls"] == 1
    assert "judge simulated answered in" in capsys.readouterr().out


def test_the_first_judgement_is_not_taken_from_the_cache(serve, tmp_path):
    server = serve()
    for _ in range(2):
        prepared(server.url, cache=str(tmp_path / "cache"))
    assert server.stats()["calls"] == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("http_500", r"2 attempts \(http_error: HTTP 500"),
        ("hang", r"timeout: 1 s\)\. More patience: .*judge\.timeout_s=300"),
        ("drop", r"connection: .*judge\.base_url="),
        ("malformed", "malformed: .*JSON schema"),
        ("truncated", r"truncated: .*judge\.max_tokens=2048"),
        ("rejected", r"1 attempts \(rejected: .*judge\.structured=none"),
        ("out_of_range", "out_of_range"),
    ],
)
def test_a_judge_that_does_not_judge_is_refused_with_the_reason(serve, fault, said):
    server = serve(faults=Faults({fault: 1.0}, slow_s=60))
    with pytest.raises(
        SettingsError, match=f"(?s){KEY}.judge: 'simulated' at {server.url}.*{said}"
    ):
        prepared(server.url, timeout_s=1.0 if fault == "hang" else 30.0)


def test_a_judge_that_fails_once_and_then_judges_is_good(serve):
    prepared(serve(faults=Faults(outages=((0, 1),))).url)


def test_a_wrong_model_is_refused_by_name(serve):
    with pytest.raises(SettingsError, match=f"{KEY}.judge: .*'other'.*404"):
        prepared(serve().url, model="other")


def test_nobody_listening_is_refused_with_the_address():
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:9/v1.*Is it running there"):
        prepared("http://127.0.0.1:9/v1")


def test_the_policys_servers_are_not_asked_before_they_are_there():
    assert prepared("policy") is None
