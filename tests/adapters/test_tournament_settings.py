"""What the driver makes of a tournament's section: refusals, judges of its own, the estimator."""

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.tournament_judges import JUDGE, configuration

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.tournament import check
from verl_ext.adapters.tournament.settings import KEY, tournament


def refused(match, n=4, **section):
    with pytest.raises(SettingsError, match=match):
        check.check(configuration(n, **section))


def test_settings_that_cannot_be_or_do_nothing_are_refused(monkeypatch):
    check.check(configuration())
    refused("topology must be one of .* did you mean 'swiss'", topology="swis")
    refused("on_failure must be one of .* did you mean 'raise'", on_failure="rase")
    refused(r"max_void must be in \[0, 1\)", max_void=1.0)
    refused("calls=None and topology=pointwise", topology="pointwise")
    refused("calls=2 and topology=single_elimination", calls=2)
    refused("max_dropped=None and on_failure=drop_group", on_failure="drop_group")
    refused("max_dropped=1 and on_failure=void_pair", max_dropped=1)
    refused("train=true has no effect without greedy=true", anchor={"train": True})
    refused(
        "anchor.greedy has no effect with topology=pointwise",
        topology="pointwise", calls=1, anchor={"greedy": True},
    )  # fmt: skip
    refused("did you mean 'topology'", topologie="swiss")
    refused("base_url is empty: nobody judges", judge={"model": "m"})
    refused("timeout_s must be > 0", judge=JUDGE | {"base_url": "policy", "timeout_s": 0})
    refused("there is one of each", n=1)
    refused(
        r"where base_url=simulated, and there alone\. Add: .*simulated=null",
        simulated={"noise": 1.0},
    )
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    refused("the environment has no NO_SUCH_KEY", judge=JUDGE | {"api_key_env": "NO_SUCH_KEY"})
    refused("no variable called that", judge=JUDGE | {"api_key_env": "sk-secret"})
    with pytest.raises(SettingsError) as refusal:
        check.check(configuration(judge=JUDGE | {"api_key_env": "sk-secret"}))
    assert "sk-secret" not in str(refusal.value)


def test_two_rewards_for_one_response_are_refused():
    config = configuration()
    config.algorithm.verl_ext.group_reward.reference_probability = {}
    with pytest.raises(SettingsError, match="both set a response's reward"):
        check.check(config)


def test_a_simulated_judge_runs_as_long_as_it_is_wanted_and_its_address_is_written_down():
    judge = JUDGE | {"base_url": "simulated", "model": "simulated"}
    described = {"quality": "length", "noise": 0.5, "faults": {"shares": {"http_500": 0.5}}}
    config = configuration(judge=judge, simulated=described)
    check.check(config)
    wanted = tournament(config)
    assert wanted.simulated_by().annotator.noise == 0.5
    assert wanted.simulated_by().faults.shares == {"http_500": 0.5}
    running = check.prepare(config)
    try:
        (settings,) = tournament(config).judges
        assert settings.base_url == running.url
    finally:
        running.stop()
    refused(f"{KEY}.simulated", judge=judge, simulated={"noize": 0.5})


def test_the_toys_judge_keeps_its_habits_when_one_is_added(verl_config):
    added = "+algorithm.verl_ext.group_reward.tournament.simulated.position_bias=1.5"
    described = tournament(verl_config("+paper=arena_rl", "+scale=cpu", added)).simulated_by()
    assert described.quality == "verl_ext.toy.hidden_quality:quality"
    assert described.annotator.position_bias == 1.5
    assert described.annotator.calibration == 2.0
    elsewhere = tournament(verl_config("+paper=arena_rl", "+scale=gpu8"))
    assert not elsewhere.described
    assert elsewhere.address is None


def test_the_policys_servers_take_turns_as_judges():
    config = configuration(judge=JUDGE | {"base_url": "policy"})
    check.check(config)
    with pytest.raises(JudgeError, match="base_url=policy: the run has no such server"):
        _ = tournament(config).judges
    config.algorithm.verl_ext.group_reward.tournament.urls = ["http://a:1/v1", "http://b:2/v1"]
    assert [one.base_url for one in tournament(config).judges] == [
        "http://a:1/v1",
        "http://b:2/v1",
    ]


def test_the_policy_does_not_judge_where_its_servers_sleep_meanwhile():
    config = configuration(judge=JUDGE | {"base_url": "policy"})
    for mode in ("sync", "separate_async", "colocate_async"):
        config.trainer.v1.trainer_mode = f"verl_ext.{mode}"
        if mode != "colocate_async":
            check.check(config)
    with pytest.raises(SettingsError, match=r"Add: trainer\.v1\.trainer_mode=verl_ext\.separate"):
        check.check(config)


def test_the_rank_estimator_takes_a_number_a_response():
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.7]])
    mask = torch.ones(4, 2)
    estimator = ADV_ESTIMATOR_REGISTRY["verl_ext.rank"]
    advantages, _ = estimator(
        token_level_rewards=rewards, response_mask=mask, index=["a", "a", "a", "b"], config=None
    )
    assert advantages[:, 0].tolist() == pytest.approx([1, 0, -1, 0], abs=1e-5)
