"""Where a run may name a part of the toy world, and what is built for it."""

from dataclasses import replace

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import toy
from verl_ext.adapters.errors import SettingsError
from verl_ext.reward_fns.response_format import Tags
from verl_ext.toy import free_form, hints, variants, world

TAUGHT = replace(variants.BASE, teachers=(("left", ()), ("right", ())))
RUN = ("+paper=w_reinforce", "+scale=cpu")


@pytest.fixture(autouse=True)
def taught(monkeypatch, tmp_path):
    monkeypatch.setitem(variants.VARIANTS, "taught", TAUGHT)
    monkeypatch.setenv("VERL_EXT_CACHE", str(tmp_path))


def without_toy(**others):
    """A configuration whose data and model are the user's own."""
    return OmegaConf.create(
        {
            "data": {"train_files": "a.parquet", "val_files": "b.parquet"},
            "actor_rollout_ref": {"model": {"path": "somebody/model"}},
            "algorithm": {"verl_ext": {"toy": "taught"}},
            **others,
        }
    )


def test_every_part_resolves_to_its_place_in_the_variants_folder():
    config = OmegaConf.create({"algorithm": {"verl_ext": {"toy": "taught"}}})
    for part in ("model", "train", "val", "teacher", "teacher_left", "teacher_right"):
        config[part] = f"${{verl_ext_toy:{part}}}"
    root = world.path_of("taught")
    assert config.model == str(root / "model")
    assert config.train == str(root / "train.parquet")
    assert config.val == str(root / "val.parquet")
    assert config.teacher == config.teacher_left == str(root / "teacher_left")
    assert config.teacher_right == str(root / "teacher_right")


def test_neither_data_nor_model_nor_teacher_of_the_toy_world_is_in_use():
    assert not toy.in_use(without_toy())
    assert not toy.in_use(without_toy(distillation=None))
    assert not toy.in_use(without_toy(distillation={"teacher_models": {"teacher_model": None}}))
    own = {"teacher_models": {"teacher_model": {"key": None, "model_path": "???"}}}
    assert not toy.in_use(without_toy(distillation=own))


@pytest.mark.parametrize("teacher", ["teacher", "teacher_left"])
def test_a_teacher_at_our_place_is_in_use(teacher):
    section = {"toy": "taught", "teacher": {"path": f"${{verl_ext_toy:{teacher}}}"}}
    assert toy.in_use(without_toy(algorithm={"verl_ext": section}))


@pytest.mark.parametrize("name", ["teacher_model", "right"])
def test_a_teacher_among_verls_is_in_use(name):
    models = {"first": {"model_path": "a/b"}, name: {"model_path": "${verl_ext_toy:teacher}"}}
    assert toy.in_use(without_toy(distillation={"teacher_models": models}))


@pytest.mark.parametrize(
    "override",
    ["data.train_files", "data.val_files", "actor_rollout_ref.model.path"],
)
def test_data_and_model_are_in_use_under_verls_own_configuration(verl_config, override):
    assert toy.in_use(verl_config(*RUN))
    own = ("data.train_files=a", "data.val_files=b", "actor_rollout_ref.model.path=c")
    assert not toy.in_use(verl_config(*RUN, *own))
    others = [line for line in own if not line.startswith(override)]
    assert toy.in_use(verl_config(*RUN, *others))


def test_a_teacher_that_the_variant_does_not_have_is_refused_with_those_it_has(verl_config):
    teacher = "distillation.teacher_models.teacher_model.model_path"
    variant = "algorithm.verl_ext.toy=taught"
    toy.check(verl_config(*RUN, variant, f"{teacher}='${{verl_ext_toy:teacher_left}}'"))
    with pytest.raises(
        SettingsError, match=rf"{teacher}: .*'teacher_lft'.*teacher_left, teacher_right"
    ):
        toy.check(verl_config(*RUN, variant, f"{teacher}='${{verl_ext_toy:teacher_lft}}'"))
    with pytest.raises(SettingsError, match="no part 'teacher'; it has model, train, val"):
        toy.check(verl_config(*RUN, f"{teacher}='${{verl_ext_toy:teacher}}'"))


def test_the_variant_of_the_run_is_built_if_a_part_is_in_use(monkeypatch):
    built = []
    monkeypatch.setattr(world, "ensure", lambda variant, **_: built.append(variant))
    toy.provide(without_toy())
    assert built == []
    models = {"one": {"model_path": "${verl_ext_toy:teacher}"}}
    toy.provide(without_toy(distillation={"teacher_models": models}))
    assert built == ["taught"]


def test_the_toys_model_is_spoken_to_in_its_own_words_and_no_other_is(verl_config):
    texts = "${verl_ext_toy_texts:}"
    config = verl_config(*RUN, f"+algorithm.verl_ext.texts='{texts}'")
    assert config.algorithm.verl_ext.texts == hints.TEXTS
    assert without_toy(texts=texts).texts == {}


def test_a_response_has_the_variants_tokens_and_what_you_type_beats_it(verl_config):
    free = "algorithm.verl_ext.toy=rlpr"
    assert verl_config(*RUN).data.max_response_length == 16
    config = verl_config(*RUN, free)
    assert config.data.max_response_length == free_form.MAX_TOKENS
    assert config.actor_rollout_ref.rollout.response_length == free_form.MAX_TOKENS
    assert verl_config(*RUN, free, "data.max_response_length=40").data.max_response_length == 40
    assert verl_config(*RUN, free, "task=math").data.max_response_length == 3072


@pytest.mark.parametrize("variant", sorted(set(variants.VARIANTS) - {"rlpr"}))
def test_responses_of_all_other_variants_stay_as_long_as_they_were(variant):
    section = {"verl_ext": {"toy": variant}}
    config = without_toy(algorithm=section, tokens="${verl_ext_toy_response_tokens:}")
    assert config.tokens == 16


def test_the_reward_of_free_form_answers_is_the_hidden_judge(verl_config):
    config = verl_config(*RUN, "algorithm.verl_ext.toy=rlpr")
    path = config.reward.custom_reward_function.path
    assert path == "pkg://verl_ext.toy.free_form_reward"
    toy.check(config)


def test_an_unknown_variant_is_still_refused_in_words(verl_config):
    with pytest.raises(SettingsError, match="did you mean 'rlpr'"):
        toy.check(verl_config(*RUN, "algorithm.verl_ext.toy=rlprr"))


def test_the_tags_are_the_toys_on_its_free_form_variant_alone(verl_config):
    tags = "+algorithm.verl_ext.tags='${verl_ext_toy_tags:}'"
    usual = {"think": ["<think>", "</think>"], "answer": ["<answer>", "</answer>"]}
    free = "algorithm.verl_ext.toy=rlpr"
    assert verl_config(*RUN, free, tags).algorithm.verl_ext.tags == free_form.TAGS
    assert verl_config(*RUN, tags).algorithm.verl_ext.tags == usual  # the toy, another variant
    own = ("data.train_files=a", "data.val_files=b", "actor_rollout_ref.model.path=c")
    assert verl_config(*RUN, free, *own, tags).algorithm.verl_ext.tags == usual
    assert verl_config(*RUN, free, "task=math", tags).algorithm.verl_ext.tags == usual
    section = {"verl_ext": {"toy": "rlpr"}}
    assert without_toy(algorithm=section, tags="${verl_ext_toy_tags:}").tags == usual
    assert Tags().all == (*usual["think"], *usual["answer"])
