"""Tournament rewards without Ray: what a judge's answers become, the waiting group, the check."""

import asyncio
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.judge import client
from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.judge.verdict import Cost, Failure, PairVerdict, SingleVerdict
from verl_ext.adapters.rollout import stopping, workers
from verl_ext.adapters.rollout import tournament as guard
from verl_ext.adapters.tournament import check
from verl_ext.adapters.tournament.group import judged, noise
from verl_ext.adapters.tournament.settings import KEY, Tournament, tournament
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.toy.tokenizer import byte_tokenizer

JUDGE = {"base_url": "http://localhost:1/v1", "model": "m", "api_key_env": None}
QUESTION = [{"role": "user", "content": "say something long"}]
TEXTS = ["xx", "xxxxx", "x", "xxxx"]
COST = Cost(1, 0.25, 30, 4)


class LongerIsBetter:
    """A judge: a point a letter, and ``favour`` for the first; some of its calls fail."""

    def __init__(self, favour=0.0, fails=lambda *shown: False, moods=None, delays=None):
        self.favour, self.fails, self.moods, self.delays = favour, fails, moods, delays
        self.asked = []

    def seen(self, response):
        return replace(response, reasoning="")

    async def _wait(self):
        if self.delays:
            await asyncio.sleep(self.delays.random() / 1000)

    async def pair(self, question, first, second):
        assert question == QUESTION
        self.asked.append((first.answer, second.answer))
        await self._wait()
        if self.fails(first.answer, second.answer):
            return PairVerdict(None, Failure.TIMEOUT, "late", COST)
        mood = self.moods.gauss(0, 1) if self.moods else 0.0
        return PairVerdict((len(first.answer) + self.favour + mood, len(second.answer)), cost=COST)

    async def single(self, question, response, seed=None):
        self.asked.append((response.answer, seed))
        await self._wait()
        if self.fails(response.answer, seed):
            return SingleVerdict(None, Failure.MALFORMED, "no", COST)
        return SingleVerdict(float(len(response.answer)) + seed, cost=COST)


def responses(*lengths):
    return [JudgedResponse(answer="x" * length) for length in lengths]


def verdict(judge, *lengths, seed=0, **section):
    wanted = Tournament(judge=JUDGE, **section)
    return asyncio.run(judged(wanted, judge, QUESTION, responses(*lengths), seed))


# what a judge's answers become


def test_the_longest_of_four_wins_and_the_rewards_are_their_places():
    found = verdict(LongerIsBetter(), 2, 5, 1, 4)
    assert found.rewards == pytest.approx((1 / 3, 1, 0, 2 / 3))
    assert not found.void
    assert found.points == (2, 5, 1, 4)
    assert found.sums["comparisons"] <= 2 * 4 - 2
    assert found.sums["calls"] == 2 * found.sums["comparisons"]
    assert found.sums["seconds"] == 0.25 * found.sums["calls"]
    assert found.sums["tokens"] == 34 * found.sums["calls"]


def test_the_place_that_a_response_is_shown_at_decides_nothing_and_is_reported():
    found = verdict(LongerIsBetter(favour=3.0), 2, 5, 1, 4)
    assert found.rewards == pytest.approx((1 / 3, 1, 0, 2 / 3))
    assert found.sums["order"] / found.sums["pairs"] == pytest.approx(3.0)
    assert noise(found.sums) == pytest.approx(0.0, abs=1e-6)


def test_the_judges_mood_is_told_from_its_favour():
    judge = LongerIsBetter(favour=2.0, moods=random.Random(1))
    sums = {}
    for seed in range(200):
        for name, value in verdict(judge, 2, 5, 1, 4, seed=seed).sums.items():
            sums[name] = sums.get(name, 0) + value
    # The margin of a call moves by 1; that of both orders, halved, by 1/√2; half of it is the mood
    # of a response's mean of two calls: 1/√2/√2.
    assert noise(sums) == pytest.approx(0.5, rel=0.1)


def test_responses_that_look_alike_are_one_player():
    judge = LongerIsBetter()
    found = verdict(judge, 2, 5, 2, 5, 1)
    assert found.rewards == pytest.approx((0.5, 1, 0.5, 1, 0))
    assert all(first != second for first, second in judge.asked)
    judge = LongerIsBetter()
    assert verdict(judge, 3, 3, 3).rewards == (0, 0, 0)
    assert not judge.asked


def test_a_void_comparison_voids_the_group_and_says_why():
    found = verdict(LongerIsBetter(fails=lambda *shown: "x" in shown), 2, 5, 1, 4)
    assert found.void
    assert found.rewards == (0, 0, 0, 0)
    assert found.sums["void"] >= 1
    assert found.sums["failed/timeout"] >= 1


def test_a_share_of_void_comparisons_may_be_allowed():
    def fails(first, second):
        return (first, second) == ("xxxx", "xxxxx")  # the best two meet whoever is the anchor

    assert verdict(LongerIsBetter(fails=fails), 2, 5, 1, 4).void
    found = verdict(LongerIsBetter(fails=fails), 2, 5, 1, 4, max_void=0.5)
    assert not found.void
    assert found.sums["void"] == 1
    assert sorted([found.rewards[1], found.rewards[3]]) == pytest.approx([2 / 3, 1])


def test_the_anchor_is_drawn_and_the_first_where_it_is_greedy():
    def anchors(**section):
        found = set()
        for seed in range(40):
            judge = LongerIsBetter()
            verdict(judge, 2, 5, 1, 4, seed=seed, topology="anchor", **section)
            meets = [sum(answer in asked for asked in judge.asked) for answer in TEXTS]
            found.add(TEXTS[meets.index(6)])
        return found

    assert anchors() == set(TEXTS)
    assert anchors(anchor={"greedy": True}) == {TEXTS[0]}


class Contrasting(LongerIsBetter):
    """Points that do not add up to the same in every order."""

    async def pair(self, question, first, second):
        found = await super().pair(question, first, second)
        one, other = found.scores
        return replace(found, scores=(one + other / 7, other + one / 11))

    async def single(self, question, response, seed=None):
        found = await super().single(question, response, seed)
        return replace(found, score=found.score / 7)


@pytest.mark.parametrize("topology", ["single_elimination", "swiss", "pointwise"])
def test_when_answers_come_decides_nothing(topology):
    calls = {"calls": 4} if topology == "pointwise" else {}
    lengths = [3, 1, 4, 1, 5, 9, 2, 6]
    found = {
        repr(verdict(Contrasting(delays=random.Random(n)), *lengths, topology=topology, **calls))
        for n in range(8)
    }
    assert len(found) == 1


def test_pointwise_judges_each_response_alone_and_as_often_as_asked():
    judge = LongerIsBetter()
    found = verdict(judge, 2, 5, 2, topology="pointwise", calls=3)
    assert sorted(judge.asked) == [("xx", s) for s in range(3)] + [("x" * 5, s) for s in range(3)]
    assert found.rewards == pytest.approx((0.3, 0.6, 0.3))  # means of 2, 3, 4 and of 5, 6, 7
    assert found.points == (3, 6, 3)
    # Three calls with the variance 1: that of their mean is 1/3.
    assert noise(found.sums) == pytest.approx((1 / 3) ** 0.5)
    lost = verdict(
        LongerIsBetter(fails=lambda answer, seed: seed == 1), 2, 5, topology="pointwise", calls=3
    )
    assert lost.void
    assert lost.rewards == (0, 0)
    kept = verdict(
        LongerIsBetter(fails=lambda answer, seed: seed == 1), 2, 5, topology="pointwise", calls=3,
        max_void=0.4,
    )  # fmt: skip
    assert kept.rewards == pytest.approx((0.3, 0.6))
    unheard = verdict(
        LongerIsBetter(fails=lambda answer, seed: answer == "xx"), 2, 5, 6, 7,
        topology="pointwise", calls=1, max_void=0.4,
    )  # fmt: skip
    assert unheard.void


# the group


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def world(monkeypatch, tokenizer):
    """A worker whose sessions sample what ``texts`` says; what is published, in order."""
    made = SimpleNamespace(published={}, stopped=[], judge=LongerIsBetter(), sampling={}, errors=[])
    base = AgentLoopWorkerTQ.__ray_actor_class__

    async def put(key, partition_id, tag):
        made.stopped.append((partition_id, tag["error"]))

    async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        tasks = [
            asyncio.ensure_future(
                self._run_agent_loop(
                    sampling_params, trajectory, session_id=n, agent_name="a", **prompt
                )
            )
            for n in range(len(made.texts))
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        made.errors += [error for error in results if error]

    async def run_agent_loop(self, sampling_params, trajectory, *, agent_name, **kwargs):
        session = kwargs["session_id"]
        made.sampling[session] = sampling_params
        await asyncio.sleep(made.delays.random() / 1000)
        text = made.texts[session]
        if text is None:
            raise ConnectionError("the session's server died")
        await self._agent_loop_postprocess(output(text), trajectory["validate"], **kwargs)

    async def publish(self, output, validate, **kwargs):
        made.published[kwargs["session_id"]] = output

    def output(text):
        ids = tokenizer(text)["input_ids"]
        return AgentLoopOutput(
            prompt_ids=[1],
            response_ids=ids,
            response_mask=[1] * len(ids),
            metrics=AgentLoopMetrics(),
            extra_fields={},
        )

    monkeypatch.setattr(stopping.tq, "async_kv_put", put)
    monkeypatch.setattr(base, "_run_prompt", run_prompt)
    monkeypatch.setattr(base.__mro__[1], "_run_agent_loop", run_agent_loop)
    monkeypatch.setattr(base, "_agent_loop_postprocess", publish)
    monkeypatch.setattr(client, "Judge", lambda settings: made.judge)
    made.delays = random.Random(0)

    def run(texts, *, validate=False, **section):
        made.texts = texts
        worker = workers.RolloutWorker.__new__(workers.RolloutWorker)
        worker.tokenizer, worker.llm_client, worker.distillation_enabled = tokenizer, None, False
        worker.config = configuration(len(texts), **section)
        prompt = {"uid": "u", "raw_prompt": QUESTION, "data_source": "toy"}
        sampling = {"temperature": 0.8, "top_p": 0.9, "top_k": 5}
        asyncio.run(
            worker._run_prompt(prompt, sampling, trajectory={"validate": validate}, trace=False)
        )
        assert not worker._ext_groups
        return made.published

    made.run = run
    return made


def configuration(n=4, **section):
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "verl_ext.rank",
                "verl_ext": {"group_reward": {"tournament": {"judge": dict(JUDGE)} | section}},
            },
            "actor_rollout_ref": {"rollout": {"n": n}},
            "reward": {"reward_model": {"enable": False}},
        }
    )


def test_each_session_is_published_with_its_place_once_all_are_there(world):
    published = world.run(TEXTS)
    rewards = [published[n].reward_score for n in range(4)]
    assert rewards == pytest.approx([1 / 3, 1, 0, 2 / 3])
    info = published[1].extra_fields["reward_extra_info"]
    assert info == {"points": 5.0, "void": 0.0, "outcome": "judged"}
    reports = [published[n].extra_fields[guard.REPORT] for n in range(4)]
    assert all(report == reports[0] for report in reports)
    assert not world.stopped


def test_a_session_that_fails_is_not_waited_for(world):
    published = world.run(["xx", None, "x", "xxxx"])
    assert {n: published[n].reward_score for n in published} == {0: 0.5, 2: 0.0, 3: 1.0}
    (error,) = world.errors
    assert isinstance(error, ConnectionError)


def test_a_lone_session_is_published_without_a_judge(world):
    published = world.run([None, None, "x"])
    assert published[2].reward_score == 0
    assert not world.judge.asked


def test_a_validation_is_not_judged_and_has_no_anchor(world):
    published = world.run(TEXTS, validate=True, anchor={"greedy": True})
    assert published[0].reward_score is None
    assert not world.judge.asked
    assert world.sampling[0]["temperature"] == 0.8


def test_which_session_ends_first_decides_nothing(world):
    """Where the judge cannot tell, chance does: that of the seed."""
    found = set()
    for seed in range(8):
        world.delays = random.Random(seed)
        published = world.run(["aa", "bb", "cc", "dd", "ee", "fff"])
        found.add(tuple(published[n].reward_score for n in range(6)))
    assert len(found) == 1


def test_a_dead_judge_gives_all_the_same_and_the_reason(world):
    world.judge = LongerIsBetter(fails=lambda *shown: True)
    published = world.run(TEXTS)
    assert [published[n].reward_score for n in range(4)] == [0, 0, 0, 0]
    info = published[2].extra_fields["reward_extra_info"]
    assert info["void"] == 1.0
    assert info["outcome"].startswith("void: timeout ")
    assert info["points"] != info["points"]  # NaN: there is none
    assert published[2].extra_fields[guard.REPORT]["void"]


def test_a_group_that_is_to_be_replaced_is_not_published_and_fails_once(world):
    world.judge = LongerIsBetter(fails=lambda *shown: True)
    assert not world.run(TEXTS, on_failure="drop_group", max_dropped=2)
    (error,) = world.errors
    assert isinstance(error, guard.GroupDroppedError)
    assert "the judge has failed for 3 of 3 comparisons of a prompt (timeout 6)" in str(error)
    assert not world.stopped


def test_a_run_that_is_to_stop_is_told_so(world):
    world.judge = LongerIsBetter(fails=lambda *shown: True)
    assert not world.run(TEXTS, on_failure="raise")
    partition, error = world.stopped[0]
    assert partition == stopping.PARTITION
    assert "on_failure=raise" in error


@pytest.mark.parametrize("fault", [JudgeError, ValueError])  # a key; a prompt that is no text
def test_a_judge_that_cannot_be_asked_stops_the_run(world, fault):
    async def pair(*shown):
        raise fault("the key is wrong")

    world.judge.pair = pair
    assert not world.run(TEXTS)
    assert world.stopped[0] == (stopping.PARTITION, "the key is wrong")
    assert all(isinstance(error, fault) for error in world.errors)


@pytest.mark.parametrize("train", [False, True])
def test_a_greedy_anchor_is_judged_and_trained_on_only_if_asked(world, train):
    published = world.run(TEXTS, anchor={"greedy": True, "train": train})
    assert world.sampling[0] == {"temperature": 0, "top_p": 1.0, "top_k": -1}
    assert world.sampling[1] == {"temperature": 0.8, "top_p": 0.9, "top_k": 5}
    assert sorted(published) == ([0, 1, 2, 3] if train else [1, 2, 3])
    assert published[1].reward_score == 1
    assert published[3].reward_score == pytest.approx(2 / 3)


def test_the_judge_sees_the_policys_words_and_not_the_tools(world, tokenizer):
    worker = workers.RolloutWorker.__new__(workers.RolloutWorker)
    worker.tokenizer = tokenizer
    said, answered, then = (tokenizer(text)["input_ids"] for text in ("let me", "TOOL", "so: 4"))
    mask = [1] * len(said) + [0] * len(answered) + [1] * len(then)
    output = SimpleNamespace(response_ids=said + answered + then, response_mask=mask)
    response = worker._ext_shown([output])
    assert response == JudgedResponse(reasoning="let me", answer="so: 4")


# settings and check


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
    refused("there is one of each", n=1)
    refused("a judge is described where base_url=simulated", simulated={"noise": 1.0})
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    refused("the environment has no NO_SUCH_KEY", judge=JUDGE | {"api_key_env": "NO_SUCH_KEY"})


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
    config.algorithm.verl_ext.group_reward.tournament.urls = ["http://a:1/v1", "http://b:2/v1"]
    assert [one.base_url for one in tournament(config).judges] == [
        "http://a:1/v1",
        "http://b:2/v1",
    ]


def test_the_rank_estimator_takes_a_number_a_response():
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.7]])
    mask = torch.ones(4, 2)
    estimator = ADV_ESTIMATOR_REGISTRY["verl_ext.rank"]
    advantages, _ = estimator(
        token_level_rewards=rewards, response_mask=mask, index=["a", "a", "a", "b"], config=None
    )
    assert advantages[:, 0].tolist() == pytest.approx([1, 0, -1, 0], abs=1e-5)
