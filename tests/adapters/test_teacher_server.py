"""Teacher servers that answer, lie, hang and die, as a worker asks them: no Ray, no model."""

import asyncio
import math
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from ray.exceptions import ActorDiedError, RayTaskError
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.experimental.teacher_loop.teacher_manager import AsyncTeacherLLMServerManager
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_ext.adapters.rollout import stopping, teacher_server, workers
from verl_ext.adapters.rollout.teacher_server import TeacherError

PROMPT, RESPONSE = [5, 6, 7], [8, 9]


def answer(*log_probs):
    """As a server's: entry i is about token i + 1, the last is a dummy."""
    ids = [*PROMPT[1:], *RESPONSE, 0]
    return SimpleNamespace(
        extra_fields={
            "prompt_ids": [[token] for token in ids],
            "prompt_logprobs": [[value] for value in log_probs],
        }
    )


class Client:
    def __init__(self, does):
        self.does, self.asked = does, 0

    async def generate(self, **request):
        self.asked += 1
        assert request["prompt_ids"] == PROMPT + RESPONSE
        if isinstance(self.does, BaseException):
            raise self.does
        if self.does == "hangs":
            await asyncio.sleep(60)
        return self.does


class Queue:
    def __init__(self):
        self.tags = {}

    async def async_kv_put(self, key, partition_id, tag):
        self.tags.setdefault(partition_id, {})[key] = tag


GOOD = answer(-1.0, -2.0, -3.0, -4.0, 0.0)


@pytest.fixture
def queue(monkeypatch):
    made = Queue()
    monkeypatch.setattr(stopping, "tq", made)
    return made


def worker(top_k=None, teachers=("letters", "exact"), **section):
    """One of ours on verl's own teacher manager, with one client for all teachers."""
    made = workers.RolloutWorker.__new__(workers.RolloutWorker)
    ours = {"teacher": {"source": "server"} | section}
    made.config = OmegaConf.create({"algorithm": {"adv_estimator": "grpo", "verl_ext": ours}})
    made.distillation_enabled, made.teacher_key = True, "data_source"
    manager = AsyncTeacherLLMServerManager.__new__(AsyncTeacherLLMServerManager)
    manager.teacher_key = made.teacher_key
    model = SimpleNamespace(model_path="/models/t", inference=SimpleNamespace(temperature=1.0))
    manager.teacher_model_configs = dict.fromkeys(teachers, model)
    manager.distillation_loss_config = SimpleNamespace(
        topk=top_k, loss_settings=SimpleNamespace(use_topk=top_k is not None)
    )
    made.teacher_server_manager = manager
    return made


def asked(made, does, source="letters", validate=False):
    """What a row carries after its teacher was asked; how often the teacher was."""
    client = Client(does)
    models = made.teacher_server_manager.teacher_model_configs
    made.teacher_server_manager.teacher_client = dict.fromkeys(models, client)
    output = SimpleNamespace(
        extra_fields={}, multi_modal_data=None, mm_processor_kwargs=None, mm_processor_output=None
    )
    row = {"data_source": source}
    call = made._compute_teacher_logprobs(output, PROMPT, RESPONSE, validate, row)
    asyncio.run(call)
    return output.extra_fields, client.asked


DEATHS = {
    "a dead server": (ActorDiedError(), "ActorDiedError: The actor died unexpectedly"),
    "a dead engine": (
        RayTaskError("generate", "long traceback", RuntimeError("engine is dead")),
        "RuntimeError: engine is dead",
    ),
    "an aborted request": (SimpleNamespace(extra_fields={}), "KeyError: 'prompt_ids'"),
    "a short answer": (answer(-1.0), "AssertionError"),
    "a hole in the answer": (answer(-1.0, None, -3.0, -4.0, 0.0), "RuntimeError: "),
    "a server that hangs": ("hangs", "no answer within 0.01 s"),
}


def test_a_run_without_teacher_servers_asks_none(queue):
    made = worker()
    made.distillation_enabled = False
    assert asked(made, GOOD) == ({}, 0)


def test_an_answer_is_passed_on_as_it_is_with_the_name_of_who_gave_it(queue):
    fields, _ = asked(worker(), GOOD)
    assert fields["teacher_logprobs"].tolist() == [[-1.0], [-2.0], [-3.0], [-4.0], [0.0]]
    assert fields["teacher_ids"].squeeze(-1).tolist() == [6, 7, 8, 9, 0]
    assert fields["verl_ext_teacher"] == {
        "teacher": "letters",
        "tokens": 2,
        "non_finite": 0,
        "failure": "",
    }
    assert queue.tags == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("place", "counted"), [(0, 0), (1, 0), (2, 1), (3, 1)]
)  # two of the prompt, two of the response
def test_what_is_not_finite_becomes_the_floor_and_is_counted_in_the_response(
    queue, value, place, counted
):
    given = [-1.0, -2.0, -3.0, -4.0, 0.0]
    given[place] = value
    fields, _ = asked(worker(log_prob_floor=-7.5), answer(*given))
    given[place] = -7.5
    assert fields["teacher_logprobs"].squeeze(-1).tolist() == given
    assert fields["verl_ext_teacher"]["non_finite"] == counted


@pytest.mark.parametrize("death", DEATHS)
def test_a_failure_stops_the_run_by_default_with_teacher_model_cause_and_remedy(queue, death):
    does, words = DEATHS[death]
    with pytest.raises(TeacherError) as raised:
        asked(worker(timeout_s=0.01), does)
    (told,) = queue.tags[stopping.PARTITION].values()
    assert told == {"error": str(raised.value)}
    assert str(raised.value).startswith(f"teacher 'letters' (/models/t) failed: {words}")
    assert "algorithm.verl_ext.teacher.on_teacher_failure=drop" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("death", DEATHS)
def test_a_failure_drops_the_row_on_request_which_keeps_the_fields_of_the_others(
    queue, death, top_k
):
    does, words = DEATHS[death]
    made = worker(top_k=top_k, timeout_s=0.01, on_teacher_failure="drop")
    fields, _ = asked(made, does)
    width = top_k or 1
    assert fields["teacher_logprobs"].equal(torch.zeros(5, width))
    assert fields["teacher_ids"].equal(torch.zeros(5, width, dtype=torch.int32))
    assert fields["verl_ext_teacher"]["failure"].startswith(words)
    assert queue.tags == {}


@pytest.mark.parametrize("on_teacher_failure", ["stop", "drop"])
def test_a_row_without_a_teacher_stops_the_run_whatever_a_failure_does(queue, on_teacher_failure):
    made = worker(on_teacher_failure=on_teacher_failure)
    with pytest.raises(TeacherError, match=r"no teacher for data_source='math'.*letters, exact"):
        asked(made, GOOD, source="math")
    assert stopping.PARTITION in queue.tags


def test_one_teacher_teaches_every_row_and_has_verls_name(queue):
    fields, _ = asked(worker(teachers=["default"]), GOOD, source="whatever")
    assert fields["verl_ext_teacher"]["teacher"] == "default"


def test_a_validation_asks_nobody(queue):
    assert asked(worker(), GOOD, validate=True) == ({}, 0)


def test_a_mistake_of_ours_is_no_failure_of_the_teacher(queue):
    with pytest.raises(ZeroDivisionError):
        asked(worker(on_teacher_failure="drop"), ZeroDivisionError())


def test_a_report_survives_verls_row(queue):
    fields, _ = asked(worker(), GOOD)
    output = AgentLoopOutput(
        prompt_ids=PROMPT,
        response_ids=RESPONSE,
        response_mask=[1, 1],
        metrics=AgentLoopMetrics(),
    )
    output.extra_fields.update(fields)
    row = output.as_dict()
    assert row["extra_fields"] == {"verl_ext_teacher": fields["verl_ext_teacher"]}
    assert row["teacher_logprobs"].shape == (5, 1)


def test_each_output_of_a_session_gets_its_own_log_probs(queue, monkeypatch):
    """verl asks for the last one alone; here the others are asked for before."""
    base = AgentLoopWorkerTQ.__ray_actor_class__
    made, done = worker(), []

    async def asks(self, output, prompt_ids, response_ids, validate, sample_kwargs=None):
        done.append((output.name, prompt_ids, response_ids, sample_kwargs["data_source"]))

    async def postprocess(self, output, validate, **kwargs):
        done.append("verl")

    monkeypatch.setattr(teacher_server.TeacherGuard, "_compute_teacher_logprobs", asks)
    monkeypatch.setattr(base, "_agent_loop_postprocess", postprocess)
    outputs = [SimpleNamespace(name=n, prompt_ids=[n], response_ids=[n, n]) for n in (1, 2, 3)]
    asyncio.run(made._agent_loop_postprocess(outputs, False, data_source="x"))
    assert done == [(1, [1], [1, 1], "x"), (2, [2], [2, 2], "x"), "verl"]
    done.clear()
    asyncio.run(made._agent_loop_postprocess(outputs[0], False, data_source="x"))
    assert done == ["verl"]
