"""The string task as parquet files: what is in them, and how they get there."""

import argparse
import json
import os
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from verl_ext.cli import toy
from verl_ext.reward_fns.string_composition import compute_score
from verl_ext.toy import string_programs
from verl_ext.toy.string_parquet import DATA_SOURCE, HELD_OUT, SCHEMA, Layout, write_parquet
from verl_ext.toy.string_programs import EVAL_FUNCTIONS, TRAIN_FUNCTIONS, ProgramOptions

SMALL = {"train_rows": 41, "val_rows_per_level": 5, "levels": (1, 2, 4)}


def rows(path):
    return pq.read_table(path).to_pylist()


def names(text, functions):
    return {k for k in functions if f"func_{k}(" in text}


def test_files_have_verls_columns_and_the_rows_asked_for(tmp_path):
    paths = write_parquet(tmp_path / "new" / "folder", **SMALL)
    train, val = rows(paths["train"]), rows(paths["val"])
    assert pq.read_schema(paths["train"]).equals(SCHEMA)
    assert pq.read_schema(paths["val"]).equals(SCHEMA)
    assert len(train) == 41
    assert len(val) == 5 * 3 * 2
    assert [row["extra_info"]["index"] for row in train] == list(range(41))
    assert {(r["extra_info"]["level"], r["data_source"]) for r in val} == {
        (level, source) for level in (1, 2, 4) for source in (DATA_SOURCE, HELD_OUT)
    }
    # 41 rows over levels 1 and 2: the first level takes the odd one.
    assert [r["extra_info"]["level"] for r in train] == [1] * 21 + [2] * 20
    for row in train + val:
        assert [message["role"] for message in row["prompt"]] == ["user"]
        assert row["extra_info"]["program"] in row["prompt"][0]["content"]
        assert f'main_solution("{row["extra_info"]["input"]}")' in row["prompt"][0]["content"]
        assert row["reward_model"]["style"] == "rule"
    assert {r["extra_info"]["split"] for r in train} == {"train"}
    assert {r["extra_info"]["split"] for r in val} == {"val"}


def test_data_source_tells_which_functions_a_row_uses(tmp_path):
    paths = write_parquet(tmp_path, **SMALL)
    for row in rows(paths["train"]) + rows(paths["val"]):
        text = row["extra_info"]["program"]
        foreign = EVAL_FUNCTIONS if row["data_source"] == DATA_SOURCE else TRAIN_FUNCTIONS
        assert not names(text, foreign)


def test_ground_truth_scores_1_and_anything_else_0(tmp_path):
    for row in rows(write_parquet(tmp_path, **SMALL)["val"]):
        truth = row["reward_model"]["ground_truth"]
        right = "so ```json\n" + json.dumps({"output": truth}) + "\n```"
        wrong = "so ```json\n" + json.dumps({"output": truth + "!"}) + "\n```"
        assert compute_score(row["data_source"], right, truth, row["extra_info"])["score"] == 1
        assert compute_score(row["data_source"], wrong, truth, row["extra_info"])["score"] == 0


def test_no_training_row_repeats_a_validation_problem(tmp_path, monkeypatch):
    # Three-letter words of a and b: so few problems that independent draws would collide for sure.
    short = lambda rng, shortest, longest: "".join(rng.choices("ab", k=3))  # noqa: E731
    monkeypatch.setattr(string_programs, "_letters", short)
    paths = write_parquet(
        tmp_path, train_rows=150, train_levels=(1,), val_rows_per_level=60, levels=(1,)
    )

    def problems(path):
        for row in rows(path):
            info = row["extra_info"]
            without_literals = re.sub("'[^']*'", "", info["program"].split("return ")[1])
            yield info["program"], info["input"] if "x" in without_literals else None

    train, val = list(problems(paths["train"])), set(problems(paths["val"]))
    assert not set(train) & val
    assert len({program for program, _ in train}) == 150  # one row per expression
    assert {program for program, _ in train} & {program for program, _ in val}  # another input


def test_level_1_training_still_shows_every_function_on_x(tmp_path):
    paths = write_parquet(tmp_path, train_rows=3000, val_rows_per_level=200, train_levels=(1,))
    text = "\n".join(row["extra_info"]["program"] for row in rows(paths["train"]))
    assert all(f"func_{k}(x)" in text for k in (3, 4, 9, 15, 17, 22))


def test_validation_does_not_depend_on_the_amount_of_training(tmp_path):
    one = write_parquet(tmp_path / "a", **SMALL)
    two = write_parquet(tmp_path / "b", **{**SMALL, "train_rows": 7, "train_levels": (2,)})
    assert rows(one["val"]) == rows(two["val"])


def test_seed_fixes_the_files_and_another_seed_changes_them(tmp_path):
    one = write_parquet(tmp_path / "a", **SMALL, seed=1)
    two = write_parquet(tmp_path / "b", **SMALL, seed=1)
    other = write_parquet(tmp_path / "c", **SMALL, seed=2)
    for split in ("train", "val"):
        assert one[split].read_bytes() == two[split].read_bytes()
        assert rows(one[split]) != rows(other[split])


def test_files_are_the_same_whatever_pythonhashseed(tmp_path):
    code = (
        "import sys; from verl_ext.toy.string_parquet import *\n"
        "write_parquet(sys.argv[1], train_rows=60, val_rows_per_level=5, layout=Layout(stage=1))"
    )
    for hash_seed in ("0", "77"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        folder = tmp_path / hash_seed
        subprocess.run([sys.executable, "-c", code, str(folder)], env=env, check=True)
    for split in ("train", "val"):
        name = f"{split}.parquet"
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "77" / name).read_bytes()


def test_stage_1_defines_what_it_uses_and_holds_nothing_out(tmp_path):
    paths = write_parquet(tmp_path, **SMALL, layout=Layout(stage=1))
    for row in rows(paths["train"]) + rows(paths["val"]):
        content = row["prompt"][0]["content"]
        used = names(row["extra_info"]["program"], range(25))
        assert {k for k in range(25) if f"def func_{k}(" in content} == used
        assert row["data_source"] == DATA_SOURCE
    val_text = "".join(row["extra_info"]["program"] for row in rows(paths["val"]))
    assert names(val_text, TRAIN_FUNCTIONS)
    assert names(val_text, EVAL_FUNCTIONS)


def test_avoid_twins_reaches_the_held_out_rows(tmp_path):
    paths = write_parquet(
        tmp_path, train_rows=2, val_rows_per_level=100, levels=(3,), layout=Layout(avoid_twins=True)
    )
    held_out = [r for r in rows(paths["val"]) if r["data_source"] == HELD_OUT]
    assert not names("".join(r["extra_info"]["program"] for r in held_out), {7, 8, 18})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_rows": 0}, "train_rows must be >= 1, got 0"),
        ({"val_rows_per_level": -1}, "val_rows_per_level must be >= 1, got -1"),
        ({"levels": ()}, r"levels must be distinct levels >= 1, got \[\]"),
        ({"levels": (1, 1)}, r"levels must be distinct levels >= 1, got \[1, 1\]"),
        ({"train_levels": (0, 1)}, r"train_levels must be distinct levels >= 1, got \[0, 1\]"),
    ],
)
def test_impossible_sizes_are_refused_by_name_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_parquet(tmp_path / "out", **{**SMALL, **arguments})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": 3}, "stage must be 1 or 2, got 3"),
        ({"stage": 1, "avoid_twins": True}, "avoid_twins has no effect in stage 1"),
        ({"stage": 2, "definitions": "all"}, "definitions has no effect in stage 2"),
        ({"stage": 1, "definitions": "none"}, "definitions must be used or all, got 'none'"),
    ],
)
def test_settings_without_effect_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(**arguments)


def test_impossible_options_leave_no_folder(tmp_path):
    layout = Layout(options=ProgramOptions(max_length=1))
    with pytest.raises(ValueError, match="no new program at level 1"):
        write_parquet(tmp_path / "out", **SMALL, layout=layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_write_leaves_the_old_files_and_no_half_one(tmp_path, monkeypatch, failing):
    paths = write_parquet(tmp_path, **SMALL, seed=1)
    before = {name: path.read_bytes() for name, path in paths.items()}
    real, calls = pq.write_table, []

    def broken(table, where):
        calls.append(where)
        if len(calls) == failing:
            where.write_bytes(b"half")
            raise OSError("disk full")
        real(table, where)

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        write_parquet(tmp_path, **SMALL, seed=2)
    assert len(calls) == failing
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.parquet", "val.parquet"]


def parsed(*words):
    parser = argparse.ArgumentParser()
    toy.add_parser(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args(["toy", *words])


def test_command_writes_the_files(tmp_path, capsys):
    words = "--train-rows 12 --train-levels 2 --val-rows-per-level 3 --levels 1 3 --require-input"
    args = parsed("string_composition", "--out", str(tmp_path), *words.split())
    assert toy.run(args) == 0
    assert str(tmp_path / "train.parquet") in capsys.readouterr().out
    assert len(rows(tmp_path / "train.parquet")) == 12
    assert len(rows(tmp_path / "val.parquet")) == 12


def test_command_says_what_is_wrong_and_returns_2(tmp_path, capsys):
    args = parsed("string_composition", "--out", str(tmp_path), "--stage", "1", "--avoid-twins")
    assert toy.run(args) == 2
    assert "avoid_twins has no effect in stage 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed("no_such_world")


def test_recipe_composes_over_verls_config_and_names_things_that_exist():
    hydra = pytest.importorskip("hydra")
    pytest.importorskip("verl")
    search = "hydra.searchpath=[pkg://verl_ext.recipes]"
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        cfg = hydra.compose("ppo_trainer", overrides=[search, "+task=string_composition"])
    custom = cfg.reward.custom_reward_function
    assert custom.path == "pkg://verl_ext.reward_fns.string_composition"
    assert dict(custom.reward_kwargs) == {"binary": True}
    assert custom.name == "compute_score"
    assert cfg.data.max_prompt_length == 1024
    assert cfg.actor_rollout_ref.rollout.response_length == 8192

    score = pytest.importorskip("verl.trainer.ppo.reward").get_custom_reward_fn(cfg)
    assert score(data_source="s", solution_str="none", ground_truth="a", extra_info={}) == {
        "score": 0.0,
        "acc": 0.0,
        "parsed": 0.0,
    }
