"""The models of a world: its own, its teachers, and those that worlds share."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq
from unit.toy_world.tiny_worlds import BRIEF, CAREFUL, LEFT, SMALL, TAUGHT, TINY, weights

from verl_ext.toy import cache, free_form, variants, world
from verl_ext.toy.model import warm_up


def test_a_world_names_its_teachers_and_the_first_of_them(taught):
    assert list(taught.teachers) == ["left", "late", "early"]
    assert taught.part("teacher") == taught.part("teacher_left") == taught.root / "teacher_left"
    assert taught.part("teacher_late") == taught.root / "teacher_late"
    assert taught.part("model") == taught.model
    assert all(path.exists() for path in taught.parts.values())


def test_teachers_have_the_models_tokenizer_and_are_watched_over(taught):
    files = json.loads((taught.root / "manifest.json").read_text())["files"]
    for name, folder in taught.teachers.items():
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / file).read_bytes() == (taught.model / file).read_bytes()
        assert f"teacher_{name}/model.safetensors" in files
        assert not (folder / cache.MANIFEST).exists()


def test_each_teacher_has_the_training_its_recipe_gives_it(built, taught):
    teachers = {name: weights(folder) for name, folder in taught.teachers.items()}
    assert teachers["early"] == weights(built.model)  # the warm-up alone
    assert teachers["left"] == weights(taught.model)  # the model's own tuning
    assert len(set(teachers.values())) == 3
    start = built.model
    for tuning, name in ((LEFT, "left"), (CAREFUL, "late")):  # each goes on from the one before
        model = warm_up(TINY.task, SMALL, tuning, start=start, progress=False)
        world.toy_model.save_model(model, built.root.parent / f"again_{name}")
        start = built.root.parent / f"again_{name}"
        assert weights(start) == teachers[name]


def test_models_that_are_trained_alike_are_trained_once(taught, monkeypatch):
    swapped = replace(TAUGHT, tuning=(LEFT, CAREFUL), teachers=(("student", (LEFT,)),))
    monkeypatch.setitem(variants.VARIANTS, "swapped", swapped)
    monkeypatch.setattr(world.toy_model, "warm_up", None)  # calling it would fail
    again = world.ensure("swapped", cache_dir=taught.root.parent.parent, progress=False)
    assert weights(again.model) == weights(taught.teachers["late"])
    assert weights(again.part("teacher")) == weights(taught.model)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(built, taught):
    with pytest.raises(ValueError, match=r"no part 'teacher_lft'.*teacher_left, teacher_late"):
        taught.part("teacher_lft")
    with pytest.raises(ValueError, match=r"no part 'teacher'; it has model, train, val$"):
        built.part("teacher")


def test_worlds_that_differ_in_their_prompts_alone_share_one_warm_up(built, monkeypatch):
    tasks = (("toy_exact", 8), ("toy_points", 4))
    other = replace(TINY, train=tasks, validation=tasks, seed=3)
    monkeypatch.setitem(variants.VARIANTS, "other", other)
    monkeypatch.setattr(world.toy_model, "warm_up", None)  # calling it would fail
    again = world.ensure("other", cache_dir=built.root.parent.parent, progress=False)
    assert again.root != built.root
    weights = [cache.digest(each.model / "model.safetensors") for each in (built, again)]
    assert weights[0] == weights[1]
    assert not (again.model / cache.MANIFEST).exists()


def test_worlds_with_another_warm_up_share_none(tmp_path):
    folders = {
        world.warmed_up(recipe, tmp_path, progress=False)
        for recipe in (TINY, replace(TINY, warmup=replace(BRIEF, seed=1)), replace(TINY, seed=1))
    }
    assert len(folders) == 2


def test_a_free_form_world_is_tuned_from_the_same_warm_up(built, monkeypatch):
    form = replace(TINY, tuning=(replace(BRIEF, free_form=True, seed=1),))
    monkeypatch.setitem(variants.VARIANTS, "form", form)
    again = world.ensure("form", cache_dir=built.root.parent.parent, progress=False)
    assert weights(again.model) != weights(built.model)
    for row in pq.read_table(again.val).to_pylist():
        assert free_form.word_of(row["reward_model"]["ground_truth"])
