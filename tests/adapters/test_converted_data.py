"""What ``verl-ext convert`` writes, through verl's own dataset class and its own verifiers."""

import json

import datasets
import numpy as np
import pytest
import verl  # loads the plugin  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.utils.reward_score import default_compute_score

from verl_ext import overlays
from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.data.convert import convert
from verl_ext.data.locations import default_folder, maker
from verl_ext.data.records import Record
from verl_ext.data.tasks import TASKS
from verl_ext.toy.tokenizer import byte_tokenizer

PUBLIC = {
    "gsm8k": [
        {"question": "Two and 2?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
        {"question": "1,200 twice?", "answer": "So\n#### 2,400"},
        {"question": "Five less than 2?", "answer": "2-5=-3\n#### -3"},
    ],
    "math": [
        {"problem": text, "level": "Level 2", "type": "Algebra", "solution": solution}
        for text, solution in [
            ("Halve $1$.", "It is $\\boxed{\\frac{1}{2}}$."),
            ("A prime?", "It is $\\boxed 5$."),
            ("No?", "$\\fbox{\\text{no}}$"),
            ("Pairs?", "$\\boxed{\\left(1, \\sqrt{2}\\right]}$"),
            ("A set?", "$\\boxed{\\left\\{1, 10{,}000\\right\\}}$"),
        ]
    ],
}
# A response that ends as the instruction asks.
RESPONSES = {"gsm8k": "I think.\n#### {}", "math": "I think, so $\\boxed{{{}}}$"}


@pytest.fixture(params=PUBLIC)
def task(request):
    return request.param


@pytest.fixture
def files(task, tmp_path):
    for split, rows in {"train": PUBLIC[task][1:], "test": PUBLIC[task][:1]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    convert(TASKS[task], [tmp_path], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _no_cache_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def dataset(verl_config, task, file, tmp_path, *overrides):
    config = verl_config(f"+task={task}", f"+data.cache_dir={tmp_path}/cache", *overrides).data
    return RLHFDataset([str(file)], byte_tokenizer(), config)


def test_every_row_reaches_verl_with_all_that_the_verifier_needs(
    task, files, verl_config, tmp_path
):
    rows = dataset(verl_config, task, files / "train.parquet", tmp_path)
    batch = collate_fn([rows[i] for i in range(len(rows))])
    assert len(rows) == len(PUBLIC[task]) - 1
    for i, messages in enumerate(batch["raw_prompt"]):
        assert messages[0]["role"] == "user"
        assert messages[0]["content"].endswith(TASKS[task].instruction)
        truth = batch["reward_model"][i]["ground_truth"]
        right = RESPONSES[task].format(truth)
        wrong = RESPONSES[task].format(truth + "7")
        source, info = batch["data_source"][i], batch["extra_info"][i]
        assert default_compute_score(source, right, truth, info) == 1.0
        assert default_compute_score(source, wrong, truth, info) == 0.0
    assert batch["index"].tolist() == np.arange(len(rows)).tolist()


def test_the_recipe_leaves_out_prompts_that_verl_would_cut(task, files, verl_config, tmp_path):
    short = "data.max_prompt_length=30"
    assert len(dataset(verl_config, task, files / "train.parquet", tmp_path, short)) == 0


def test_the_published_solution_itself_is_right(task, files, verl_config, tmp_path):
    """gsm8k: as published. math: with the answer in a box with braces, as the prompt asks."""
    for row in PUBLIC[task]:
        example = TASKS[task].read(Record("here", row))
        solution = example.details["answer"]
        if "\\boxed{" not in solution and task == "math":
            solution = f"\\boxed{{{example.ground_truth}}}"
        score = default_compute_score(TASKS[task].data_source, solution, example.ground_truth)
        assert score == 1.0


def test_the_recipe_looks_where_the_converter_writes(task, verl_config):
    data = verl_config(f"+task={task}").data
    assert data.train_files == str(default_folder(task) / "train.parquet")
    assert data.val_files == str(default_folder(task) / "test.parquet")


def test_missing_data_is_answered_with_the_command(task, verl_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = verl_config("+paper=w_reinforce", "+scale=cpu", f"task={task}")
    with pytest.raises(SettingsError, match=f"Make it: verl-ext convert {task} --from FOLDER"):
        driver_check.check(config)


def test_missing_data_of_the_users_own_names_no_command(verl_config):
    config = verl_config("+paper=w_reinforce", "+scale=cpu", "task=gsm8k", "data.val_files=/no/x")
    config.data.train_files = []
    with pytest.raises(SettingsError, match=r"there is no file /no/x\. Name your own"):
        driver_check.check(config)


def test_every_task_has_a_command_that_makes_its_files_or_asks_for_them(verl_config):
    own = set()  # tasks whose data nobody published: the user names the files
    for name in set(overlays.names("task")) - {"toy"}:  # built by the run itself
        short = ("data.max_prompt_length=64", "data.max_response_length=64")
        config = verl_config("+paper=w_reinforce", "+scale=cpu", f"task={name}", *short)
        files = (config.data.train_files, config.data.val_files)
        if files == (None, None):
            own.add(name)
            with pytest.raises(SettingsError, match=r"data\.train_files"):
                driver_check.check(config)
        else:
            assert all(name in maker(file) for file in files)
    assert own == {f"qwenlong_l15_stage{stage}" for stage in (1, 2, 3)}


@settings(max_examples=50, deadline=None)
@given(number=st.integers(-(10**7), 10**7), other=st.integers(-(10**7), 10**7))
def test_gsm8k_gives_1_for_the_right_number_and_0_for_any_other(number, other):
    fields = {"question": "?", "answer": f"So\n#### {number:,}"}
    truth = TASKS["gsm8k"].read(Record("here", fields)).ground_truth
    for written in (f"{other}", f"{other:,}"):
        score = default_compute_score("openai/gsm8k", f"Hm.\n#### {written}", truth)
        assert score == float(number == other)
    assert default_compute_score("openai/gsm8k", f"Hm.\n#### {number:,}", truth) == 1.0
