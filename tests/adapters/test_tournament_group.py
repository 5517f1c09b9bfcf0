"""The group of sessions that wait for each other and are judged together, without Ray."""

import asyncio
import random
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.tournament_judges import QUESTION, TEXTS, LongerIsBetter, configuration
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_ext.adapters.judge import client
from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.rollout import stopping, workers
from verl_ext.adapters.rollout import tournament as guard
from verl_ext.reward_fns.judge_prompt import JudgedResponse


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
