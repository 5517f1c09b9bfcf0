"""The reference-probability reward in the rollout's workers, without Ray."""

import asyncio
import math
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.reference_settings import MIXED, config
from ray.exceptions import ActorDiedError
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.workers.rollout.llm_server import LLMServerClient

from verl_ext.adapters.rollout import reference_probability as guard
from verl_ext.adapters.rollout import stopping, workers

PROMPT = "f(ab)="


class Queue:
    def __init__(self):
        self.tags, self.published = {}, []

    async def async_kv_put(self, key, partition_id, tag):
        self.tags.setdefault(partition_id, {})[key] = tag


@pytest.fixture
def queue(monkeypatch):
    made = Queue()
    monkeypatch.setattr(guard, "tq", made)
    monkeypatch.setattr(stopping, "tq", made)
    base = AgentLoopWorkerTQ.__ray_actor_class__

    async def publish(self, output, validate, **kwargs):
        made.published.append((output, kwargs))

    async def verify(self, outputs, kwargs):
        outputs[-1].reward_score = 0.25
        outputs[-1].extra_fields["reward_extra_info"] = {"acc": 1.0}

    monkeypatch.setattr(base, "_agent_loop_postprocess", publish)
    monkeypatch.setattr(base.__mro__[1], "_compute_score", verify)
    return made


@pytest.fixture
def server(monkeypatch):
    """Answers −0.1 n for the n-th token from the sequence's start; remembers what it was asked."""
    made = SimpleNamespace(asked=[], does=None, aborts=0)

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        made.asked.append(prompt_ids)
        assert sampling_params["prompt_logprobs"] == 0
        assert sampling_params["temperature"] == 1.0
        if made.aborts:
            made.aborts -= 1
            return SimpleNamespace(stop_reason="aborted", extra_fields={})
        if isinstance(made.does, BaseException):
            raise made.does
        if made.does == "late":
            await asyncio.sleep(0.05)
        if made.does == "hangs":
            await asyncio.sleep(60)
        rows = [[-0.1 * place] for place in range(1, len(prompt_ids))] + [[0.0]]
        if made.does == "NaN":
            rows = [[math.nan]] * len(rows)
        if made.does == "short":
            rows = rows[1:]
        return SimpleNamespace(stop_reason="completed", extra_fields={"prompt_logprobs": rows})

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    monkeypatch.setattr(guard, "RETRY_S", 0)
    return made


def sampled(tokenizer, response, prompt=PROMPT):
    ids = tokenizer(response)["input_ids"]
    return AgentLoopOutput(
        prompt_ids=tokenizer(prompt)["input_ids"],
        response_ids=ids,
        response_mask=[1] * len(ids),
        metrics=AgentLoopMetrics(),
        extra_fields={},
    )


def rewarded(
    tokenizer,
    response,
    *,
    reference="xyz",
    source="qa",
    validate=False,
    base=0.0,
    trainer_mode="sync",
    **section,
):
    made = workers.RolloutWorker.__new__(workers.RolloutWorker)
    made.config, made.tokenizer, made.llm_client = config(**section), tokenizer, object()
    made.config.trainer.v1.trainer_mode = trainer_mode
    made.distillation_enabled = False
    output = sampled(tokenizer, response) if isinstance(response, str) else response
    row = {
        "uid": "u",
        "session_id": 3,
        "data_source": source,
        "reward_model": {"ground_truth": reference},
    }
    if base is not None:
        row[guard.BASE] = torch.tensor(base, dtype=torch.float64)
    asyncio.run(made._agent_loop_postprocess(output, validate, **row))
    return output


def test_the_reference_takes_the_answers_place_and_its_tokens_are_the_reward(
    tokenizer, queue, server
):
    output = rewarded(tokenizer, "[r]{ no}<|im_end|>", base=0.05)
    (asked,) = server.asked
    assert tokenizer.decode(asked) == PROMPT + "[r]{ xyz }<|im_end|>"
    places = [len(PROMPT) + 5, len(PROMPT) + 6, len(PROMPT) + 7]  # of x, y, z
    probability = sum(math.exp(-0.1 * place) for place in places) / 3
    gain = probability - 0.05
    assert output.reward_score == pytest.approx(0.9 * gain + 0.1)
    info = output.extra_fields["reward_extra_info"]
    assert info["probability"] == pytest.approx(probability)
    assert (info["base"], info["format"], info["outcome"]) == (0.05, 1.0, "ok")
    ((_, kwargs),) = queue.published
    assert guard.BASE not in kwargs


def test_a_prompt_that_lost_its_base_score_stops_the_run(tokenizer, queue, server):
    with pytest.raises(guard.ScoringError, match="without its base score"):
        rewarded(tokenizer, "[r]{no}", base=None)
    assert list(queue.tags) == [stopping.PARTITION]
    alone = rewarded(tokenizer, "[r]{no}", base=None, debias="none").reward_score
    assert alone == rewarded(tokenizer, "[r]{no}", base=0.0).reward_score


def test_an_invalid_format_asks_nobody_and_earns_nothing(tokenizer, queue, server):
    output = rewarded(tokenizer, "[r xyz")
    assert (output.reward_score, server.asked) == (0.0, [])
    assert output.extra_fields["reward_extra_info"]["outcome"] == "invalid_format"
    assert len(queue.published) == 1


@pytest.mark.parametrize(
    ("reference", "does", "outcome"),
    [
        ("", None, "empty_reference"),
        ("x}", None, "reference_has_tag"),
        ("x" * 40, None, "too_long"),
        ("xyz", "NaN", "invalid_log_prob"),
    ],
)
def test_a_response_that_cannot_be_scored_is_put_down_and_not_published(
    tokenizer, queue, server, reference, does, outcome
):
    server.does = does
    output = rewarded(tokenizer, "[r]{no}", reference=reference)
    assert output.reward_score is None
    assert queue.published == []
    assert queue.tags == {guard.UNSCORED: {"u_3": {"uid": "u", "outcome": outcome}}}


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (ActorDiedError(), "ActorDiedError: The actor died"),
        ("late", "no answer within 0.01 s"),
        ("hangs", "no answer within 0.01 s"),
        ("short", "ValueError: .* log-probs of"),
    ],
)
def test_a_server_that_fails_stops_the_run(tokenizer, queue, server, does, message):
    server.does = does
    with pytest.raises(guard.ScoringError, match=message):
        rewarded(tokenizer, "[r]{no}", timeout_s=0.01)
    assert list(queue.tags) == [stopping.PARTITION]
    assert queue.published == []


def test_a_request_waits_as_long_as_the_trainer_has_the_devices(tokenizer, queue, server):
    server.does = "late"
    mode = "colocate_async"
    output = rewarded(tokenizer, "[r]{no}", trainer_mode=mode, timeout_s=0.01)
    assert output.reward_score is not None
    assert not queue.tags


def test_a_request_that_a_weight_update_aborted_is_asked_again(tokenizer, queue, server):
    server.aborts = 2
    rewarded(tokenizer, "[r]{no}")
    assert len(server.asked) == 3
    assert len(queue.published) == 1


def test_rewards_mix_by_weight_and_a_verifiable_source_keeps_its_verifier(tokenizer, queue, server):
    alone = rewarded(tokenizer, "[r]{no}").reward_score
    mixed = rewarded(tokenizer, "[r]{no}", weights=MIXED)
    assert mixed.reward_score == pytest.approx(0.5 * alone + 2 * 0.25)
    assert mixed.extra_fields["reward_extra_info"]["verifier"] == 0.25
    assert mixed.extra_fields["reward_extra_info"]["acc"] == 1.0  # the verifier's own
    asked = len(server.asked)
    left = rewarded(tokenizer, "[r]{no}", weights=MIXED, source="maths")
    assert len(server.asked) == asked
    assert left.reward_score is None  # verl's own postprocessing asks the verifier
    assert guard.REPORT not in left.extra_fields


def test_validation_is_verls(tokenizer, queue, server):
    output = rewarded(tokenizer, "[r]{no}", validate=True)
    assert (output.reward_score, server.asked) == (None, [])
    assert len(queue.published) == 1


def test_a_session_of_several_outputs_is_rewarded_by_its_last(tokenizer, queue, server):
    outputs = [sampled(tokenizer, "[q]"), sampled(tokenizer, "[r]{no}")]
    rewarded(tokenizer, outputs)
    assert outputs[0].reward_score is None  # verl copies the last one's
    assert outputs[1].reward_score > 0


def test_images_are_refused(tokenizer, queue, server):
    output = sampled(tokenizer, "[r]{no}")
    output.multi_modal_data = {"images": [1]}
    with pytest.raises(guard.ScoringError, match="images"):
        rewarded(tokenizer, output)


def test_in_trainer_mode_the_spliced_response_waits(tokenizer, queue, server):
    output = rewarded(tokenizer, "[r]{no}", mode="trainer", base=0.05)
    assert server.asked == []
    pending = output.extra_fields[guard.REPORT]["pending"]
    assert tokenizer.decode(pending["token_ids"]) == "[r]{ xyz }<|im_end|>"
    own = [t for t, mine in zip(pending["token_ids"], pending["reference"], strict=True) if mine]
    assert tokenizer.decode(own) == "xyz"
    assert (pending["base"], pending["response"]) == (0.05, "[r]{no}")
    assert rewarded(tokenizer, "no", mode="trainer").extra_fields[guard.REPORT]["pending"] is None
