"""The warm-up: what is shown, what the loss stands on, and that it can be repeated."""

import hashlib
import json
from dataclasses import replace
from itertools import islice

import pytest
from unit.hash_seeds import same_output

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import torch
from unit.toy_world.tiny_worlds import BRIEF, SMALL

from verl_ext.toy import variants, world
from verl_ext.toy.demonstrations import WarmupSpec, demonstrations, prompts_and_responses
from verl_ext.toy.model import IGNORED, training_batch, warm_up
from verl_ext.toy.task import TaskSpec, compositions, run, split_of
from verl_ext.toy.tokenizer import END_ID, byte_tokenizer


def test_the_loss_stands_on_the_answer_and_its_end_alone():
    rows = [next(demonstrations(TaskSpec(), WarmupSpec(seed=seed))) for seed in range(4)]
    asked = [(problem.prompt, answer) for problem, answer in rows]
    input_ids, labels = training_batch(byte_tokenizer(), asked)
    for row, (_, answer) in enumerate(rows):
        learned = labels[row][labels[row] != IGNORED].tolist()
        assert learned == [*answer.encode(), END_ID]
        assert torch.equal(labels[row][labels[row] != IGNORED], input_ids[row][labels[row] != -100])


def test_carelessness_forgets_one_function_of_a_pair_and_spares_single_functions():
    data = demonstrations(
        TaskSpec(), WarmupSpec(single_share=0.5, careful_share=0.0, careless_share=1.0)
    )
    for problem, answer in (next(data) for _ in range(300)):
        assert split_of(problem.prompt) == "warmup"
        if len(problem.skills) == 1:
            assert answer == problem.answer
        else:
            assert answer in {run((skill,), problem.word) for skill in problem.skills}


def test_careful_demonstrations_are_all_right():
    data = demonstrations(TaskSpec(), WarmupSpec(careful_share=0.0, careless_share=0.0))
    assert all(answer == problem.answer for problem, answer in (next(data) for _ in range(300)))


def test_one_domain_can_be_spared_from_carelessness():
    data = demonstrations(
        TaskSpec(),
        WarmupSpec(
            single_share=0, careful_share=0, careless_share=1.0, careful_pairs="toy_left", seed=3
        ),
    )
    left = set(compositions("toy_left"))
    wrong = {True: 0, False: 0}
    for problem, answer in (next(data) for _ in range(400)):
        wrong[problem.skills in left] += answer != problem.answer
    assert wrong[True] == 0
    assert wrong[False] > 100  # of about 200; forgetting a function does not always show


def test_slips_change_letters_of_careless_pairs_alone_and_no_length():
    warmup = WarmupSpec(
        single_share=0.3,
        careful_share=0,
        careless_share=0.0,
        careful_pairs="toy_left",
        slip_share=0.5,
    )
    left = set(compositions("toy_left"))
    letters = changed = 0
    for problem, answer in islice(demonstrations(TaskSpec(), warmup), 1500):
        assert len(answer) == len(problem.answer)
        if len(problem.skills) == 1 or problem.skills in left:
            assert answer == problem.answer
        else:
            letters += len(answer)
            changed += sum(a != b for a, b in zip(answer, problem.answer, strict=True))
    # Drawn anew is every second letter, and one in six of them comes out as it was.
    expected = 0.5 * 5 / 6
    assert abs(changed / letters - expected) < 4 * (expected * (1 - expected) / letters) ** 0.5


def digest_of(recipe):
    """Of what a recipe's models are shown, careless from the start, and of its data files."""
    shown, files = hashlib.sha256(), hashlib.sha256()
    teachers = [warmup for _, tuning in recipe.teachers for warmup in tuning]
    for warmup in (recipe.warmup, *recipe.tuning, *teachers):
        rows = prompts_and_responses(recipe.task, replace(warmup, careful_share=0.0))
        for row in islice(rows, 1000):
            shown.update(repr(row).encode())
    for split in ("train", "validation"):
        files.update(json.dumps(world.verl_rows(recipe, split)).encode())
    return shown.hexdigest()[:12], files.hexdigest()[:12]


# Measured numbers rest on these: a change of one asks for all of its measurements again.
@pytest.mark.parametrize(
    ("variant", "shown", "files"),
    [
        ("w_reinforce", "b3f431878ac5", "7af0a2caf54f"),
        ("three_tasks", "b3f431878ac5", "87859177dc8e"),
        ("opd", "02da810bb5a6", "7af0a2caf54f"),
        ("opd_domains", "5bb02b7552f6", "bec1da235e54"),
        ("sdpo", "cbe7b722db28", "7af0a2caf54f"),
        ("sdpo_hard", "cbe7b722db28", "b2c2145dfcd6"),
        ("opd_forget", "5b619529a3ff", "e37cef782925"),
        ("opd_recover", "680d208ff068", "28d87958b8ab"),
    ],
)
def test_a_variants_content_stays_what_it_was(variant, shown, files):
    assert digest_of(variants.recipe_of(variant)) == (shown, files)


def test_the_pairs_can_be_those_of_one_domain():
    data = demonstrations(TaskSpec(), WarmupSpec(single_share=0, pairs="toy_right"))
    shown = {problem.skills for problem, _ in (next(data) for _ in range(400))}
    assert shown == set(compositions("toy_right"))


def test_a_misspelt_domain_is_refused_instead_of_sparing_nothing():
    with pytest.raises(ValueError, match="data_source must be one of"):
        next(demonstrations(TaskSpec(), WarmupSpec(careful_pairs="toy_lef")))


def test_carelessness_begins_after_the_careful_share_of_the_updates():
    warmup = WarmupSpec(steps=100, batch_size=4, careful_share=0.75, careless_share=1.0)
    data = demonstrations(TaskSpec(), warmup)
    right = [answer == problem.answer for problem, answer in (next(data) for _ in range(400))]
    assert all(right[:300])  # 75 updates of 4
    assert not all(right[300:])


def test_the_warm_up_learns():
    model = warm_up(
        TaskSpec(), SMALL, WarmupSpec(steps=30, batch_size=16, threads=1), progress=False
    )
    rows = [next(demonstrations(TaskSpec(), WarmupSpec(seed=9))) for _ in range(64)]
    asked = [(problem.prompt, answer) for problem, answer in rows]
    input_ids, labels = training_batch(byte_tokenizer(), asked)
    with torch.no_grad():
        loss = model(input_ids=input_ids, labels=labels).loss.item()
    assert loss < 4.0  # log(264) = 5.58 before training


def test_the_caller_keeps_its_random_state_and_its_threads():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    warm_up(TaskSpec(), SMALL, replace(BRIEF, threads=threads + 1), progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_two_processes_build_the_same_weights_bit_for_bit():
    code = (
        "import hashlib; from verl_ext.toy.model import *; from verl_ext.toy.task import TaskSpec;"
        "from verl_ext.toy.demonstrations import WarmupSpec;"
        "spec = ModelSpec(32, 1, 2, 2, 32); warmup = WarmupSpec(steps=2, batch_size=8, threads=1);"
        "model = warm_up(TaskSpec(), spec, warmup, progress=False);"
        "state = hashlib.sha256();"
        "[state.update(p.detach().numpy().tobytes()) for p in model.parameters()];"
        "print(state.hexdigest())"
    )
    assert same_output(code)


def test_the_loss_of_a_free_form_demonstration_stands_on_reasoning_and_answer():
    recipe = variants.recipe_of("rlpr")
    rows = list(islice(prompts_and_responses(recipe.task, recipe.tuning[-1]), 8))
    _, labels = training_batch(byte_tokenizer(), rows)
    for row, (_, response) in zip(labels, rows, strict=True):
        assert row[row != IGNORED].tolist() == [*response.encode(), END_ID]
