"""The reference-probability reward without Ray: workers, base scores, the trainer."""

import asyncio
import json
import math
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from ray.exceptions import ActorDiedError
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.workers.rollout.llm_server import LLMServerClient

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.reference_probability import base_scores, questions, settings
from verl_ext.adapters.reference_probability.splicer import Splicer
from verl_ext.adapters.rollout import reference_probability as guard
from verl_ext.adapters.rollout import stopping, workers
from verl_ext.reward_fns.response_format import Tags
from verl_ext.toy.tokenizer import byte_tokenizer

TAGS = {"think": ["[", "]"], "answer": ["{", "}"]}
PROMPT = "f(ab)="


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def config(**section):
    section = {"tags": TAGS, "repetition": None} | section
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "grpo",
                "verl_ext": {"group_reward": {"reference_probability": section}},
            },
            "actor_rollout_ref": {
                "rollout": {"prompt_length": 20, "response_length": 30, "max_model_len": None}
            },
        }
    )


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
    tokenizer, response, *, reference="xyz", source="qa", validate=False, base=0.0, **section
):
    made = workers.RolloutWorker.__new__(workers.RolloutWorker)
    made.config, made.tokenizer, made.llm_client = config(**section), tokenizer, object()
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


def test_a_request_that_a_weight_update_aborted_is_asked_again(tokenizer, queue, server):
    server.aborts = 2
    rewarded(tokenizer, "[r]{no}")
    assert len(server.asked) == 3
    assert len(queue.published) == 1


MIXED = {
    "default": {"probability": 0.5, "verifier": 2.0},
    "maths": {"probability": 0.0, "verifier": 1.0},
}


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


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mod": "rollout"}, "did you mean 'mode'"),
        ({"mode": "rolout"}, "did you mean 'rollout'"),
        ({"debias": "refresh"}, "refresh_every"),
        ({"refresh_every": 5}, "debias=refresh"),
        ({"tags": {"think": ["a"]}}, "opening and a closing tag"),
        ({"format": {"weight": 2}}, "weight must be in"),
        ({"repetition": {"ngram": 3}}, "did you mean 'ngram_size'"),
        ({"reduction": "mode"}, "reduction must be one of"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section, message):
    with pytest.raises(SettingsError, match=message):
        settings.reference_probability(config(**section)).rule()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"probability": -1}, ">= 0"),
        ({"probability": 0}, "not both 0"),
        ({"verifer": 1}, "verifier"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    with pytest.raises(SettingsError, match=message):
        settings.reference_probability(config(weights={"qa": weights})).weights_of("qa")


@pytest.mark.parametrize(("prompt", "whole", "left"), [(5, None, 30), (20, None, 29), (5, 20, 14)])
def test_a_spliced_response_has_the_room_that_server_and_batch_leave(prompt, whole, left):
    made = config()
    made.actor_rollout_ref.rollout.max_model_len = whole
    assert settings.room(made, prompt) == left


def test_a_tokenizer_without_characters_is_refused():
    with pytest.raises(SettingsError, match="fast tokenizer"):
        Splicer(SimpleNamespace(is_fast=False), Tags())
    with pytest.raises(SettingsError, match="end-of-sequence"):
        Splicer(SimpleNamespace(is_fast=True, eos_token=None), Tags())


def rows(*references, source="qa"):
    return [
        {
            "data_source": source,
            "raw_prompt": [{"role": "user", "content": f"question {n}"}],
            "reward_model": {"ground_truth": reference},
        }
        for n, reference in enumerate(references)
    ]


def found(tokenizer, data, **section):
    wanted = settings.reference_probability(config(**section))
    return questions.questions(data, wanted, Splicer(tokenizer, wanted.rule().tags), 10)


def test_questions_are_known_by_prompt_and_reference(tokenizer):
    data = rows("a", "b") + rows("a")
    asked = found(tokenizer, data)
    assert list(asked) == [questions.key_of(row) for row in data[:2]]
    first = asked[questions.key_of(data[0])]
    assert tokenizer.decode(first.answer.token_ids) == " a <|im_end|>"
    assert sum(first.answer.reference_mask) == 1


def test_bad_references_are_named_with_their_rows_before_anything_is_generated(tokenizer):
    data = rows("a", "", "x" * 20, "{", " ", *[""] * 5)
    with pytest.raises(SettingsError) as refused:
        found(tokenizer, data)
    text = str(refused.value)
    assert "7 rows have an empty reference answer (rows 1, 4, 5, 6, 7, ...)" in text
    assert "1 rows have a reference answer that is by itself longer" in text
    assert "(rows 2)" in text
    assert "(rows 3)" in text


def test_a_source_that_is_not_in_the_data_is_named(tokenizer):
    with pytest.raises(SettingsError, match=r"'maths'.*did you mean"):
        found(tokenizer, rows("a"), weights=MIXED)


def test_rows_with_a_verifier_alone_need_no_reference(tokenizer):
    assert found(tokenizer, rows("", source="maths"), weights={"maths": MIXED["maths"]}) == {}


def test_base_scores_are_kept_and_found_again(tmp_path):
    file = tmp_path / "deep" / "scores.json"
    first = base_scores.BaseScores(file)
    assert first.missing(["a", "b", "a"]) == ["a", "b"]
    first.update({"a": 0.1, "b": 1 / 3}, keep=True)
    first.update({"b": 0.9})  # refreshed: not for others
    again = base_scores.BaseScores(file)
    assert again.missing(["b", "c"]) == ["c"]
    assert (again.hits, again["b"], "a" in again) == (1, 1 / 3, False)
    again.load_state_dict(first.state_dict())
    assert (again["b"], again["a"]) == (0.9, 0.1)
    assert list(file.parent.iterdir()) == [file]


def test_a_damaged_cache_is_named(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"a": 0.1})[:-3])
    with pytest.raises(SettingsError, match="damaged"):
        base_scores.BaseScores(file)


def test_another_model_has_other_base_scores(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_text("one")
    before = base_scores.fingerprint(base_scores.model_identity(str(tmp_path)), "mean")
    assert before == base_scores.fingerprint(base_scores.model_identity(str(tmp_path)), "mean")
    weights.write_text("other")
    after = base_scores.fingerprint(base_scores.model_identity(str(tmp_path)), "mean")
    assert before != after
    assert after != base_scores.fingerprint(base_scores.model_identity(str(tmp_path)), "product")
