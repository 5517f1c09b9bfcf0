"""The cache of worlds: damage, failed builds, and which world has which folder."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

from unit.toy_world.tiny_worlds import BRIEF, CAREFUL, SMALL, TAUGHT, TINY

from verl_ext.toy import cache, variants, world
from verl_ext.toy.task import TaskSpec


def test_a_whole_world_is_taken_from_the_cache(built, tiny, monkeypatch):
    monkeypatch.setattr(world, "build", None)  # calling it would fail
    assert world.ensure("tiny", cache_dir=built.root.parent.parent) == built


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_one_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model/model.safetensors", truncate),
        ("model/model.safetensors", change_one_byte),
        ("train.parquet", os.remove),
        ("manifest.json", os.remove),
        ("manifest.json", truncate),
        ("manifest.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_damaged_world_is_built_again(tmp_path, tiny, capsys, name, damage):
    first = world.ensure("tiny", cache_dir=tmp_path, progress=False)
    expected = cache.digest(first.model / "model.safetensors")
    damage(first.root / name)
    assert cache.what_is_wrong(first.root) is not None
    again = world.ensure("tiny", cache_dir=tmp_path, progress=False)
    assert again == first
    assert cache.what_is_wrong(again.root) is None
    assert cache.digest(again.model / "model.safetensors") == expected
    assert "rebuilding" in capsys.readouterr().err


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        cache.build_once(tmp_path / "world", build)
    assert [path.name for path in tmp_path.iterdir()] == ["world.lock"]


def test_the_finished_folder_is_the_very_one_that_was_built_renamed_at_once(tmp_path):
    built = []

    def build(folder):
        (folder / "f").write_text("y")
        built.append(folder.stat().st_ino)

    assert cache.build_once(tmp_path / "world", build).stat().st_ino == built[0]


def test_what_a_killed_build_left_is_cleared(tmp_path):
    left_over = tmp_path / "world.partial-abc"
    left_over.mkdir()
    (left_over / "half").write_text("x")
    cache.build_once(tmp_path / "world", lambda folder: (folder / "f").write_text("y"))
    assert not left_over.exists()
    assert (tmp_path / "world" / "f").read_text() == "y"


def test_two_who_ask_at_once_build_once(tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        threading.Event().wait(0.2)  # long enough for the other one to find the lock taken
        (folder / "f").write_text("y")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: cache.build_once(tmp_path / "world", build), range(2)))
    assert len(built) == 1


def test_the_manifest_lists_every_file(built):
    files = json.loads((built.root / "manifest.json").read_text())["files"]
    on_disk = {p.relative_to(built.root).as_posix() for p in built.root.rglob("*") if p.is_file()}
    assert set(files) == on_disk - {"manifest.json"}


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_EXT_CACHE", str(tmp_path / "own"))
    assert world.path_of("w_reinforce").parent == tmp_path / "own" / "toy"
    monkeypatch.delenv("VERL_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert world.path_of("w_reinforce").parent == tmp_path / "xdg" / "verl_ext" / "toy"


def test_any_parameter_of_the_recipe_names_another_folder():
    names = {
        world.fingerprint(recipe)
        for recipe in (
            TINY,
            replace(TINY, seed=1),
            replace(TINY, warmup=replace(BRIEF, careless_share=0.25)),
            replace(TINY, task=TaskSpec(max_length=4)),
            replace(TINY, model=replace(SMALL, layers=2)),
            replace(TINY, tuning=(BRIEF,)),
            replace(TINY, teachers=(("a", (BRIEF,)),)),
            replace(TINY, teachers=(("b", (BRIEF,)),)),
            replace(TINY, teachers=(("b", (CAREFUL,)),)),
        )
    }
    assert len(names) == 9
    assert world.fingerprint(TINY) == world.fingerprint(replace(TINY))


def test_another_variant_rebuilds_nothing(monkeypatch):
    before = world.path_of("w_reinforce")
    monkeypatch.setitem(variants.VARIANTS, "another", TAUGHT)
    assert world.path_of("w_reinforce") == before
    assert variants.__file__ not in {str(path) for path in world.sources()}


def test_an_unknown_variant_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'w_reinforce'"):
        world.ensure("w_reinforced")
    with pytest.raises(ValueError, match="toy variant must be one of"):
        world.path_of("zzz")
