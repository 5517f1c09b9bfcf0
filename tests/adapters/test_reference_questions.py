"""The reward's settings, the questions it finds in the data, and the base scores on the disk."""

import json
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.reference_settings import MIXED, config

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.reference_probability import base_scores, questions, settings
from verl_ext.adapters.reference_probability.splicer import Splicer
from verl_ext.reward_fns.response_format import Tags


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


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    found = {"a/model": str(tmp_path / "1f2e" / "config.json"), "a/gone": None}
    monkeypatch.setattr(base_scores, "try_to_load_from_cache", lambda name, _: found[name])
    assert base_scores.model_identity("a/model") == ["a/model", "1f2e", []]
    assert base_scores.model_identity("a/gone") == ["a/gone", "gone", []]
    monkeypatch.undo()
    assert base_scores.model_identity("hdfs://a/model") == ["hdfs://a/model", "model", []]
