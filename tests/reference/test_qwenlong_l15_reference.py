"""task_norm and the entropy masks against QwenLong-L1.5's own, retold slowly."""

import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch

from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.masks.entropy import EntropyGate, ReadmeBand, batch_entropy, keep_mask

_spec = importlib.util.spec_from_file_location(
    "reference_qwenlong_l15", Path(__file__).with_name("qwenlong_l15.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

SEEDS = range(10)
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}  # sums in another order, in float64


def random_batch(seed):
    """Outcomes, labels and ragged entropies of four tasks on scales from 1 to 1000."""
    draw = random.Random(seed)
    outcomes, groups, tasks, entropies = [], [], [], []
    for prompt in range(12):
        task = draw.randrange(4)
        for _ in range(draw.randint(1, 8)):
            outcomes.append(10**task * draw.choice([0, 1, 0.5, draw.random()]))
            groups.append(f"prompt {prompt}")
            tasks.append(f"task {task}")
            entropies.append([draw.random() for _ in range(draw.randint(1, 9))])
    order = list(range(len(outcomes)))
    draw.shuffle(order)
    return tuple([values[row] for row in order] for values in (outcomes, groups, tasks, entropies))


def padded(rows, on_padding=0.0):
    """Ragged rows as a float64 tensor, and the mask of what is sampled."""
    values = torch.full((len(rows), max(map(len, rows))), on_padding, dtype=torch.float64)
    mask = torch.zeros(values.shape, dtype=torch.int64)
    for row, cells in enumerate(rows):
        values[row, : len(cells)] = torch.tensor(cells, dtype=torch.float64)
        mask[row, : len(cells)] = 1
    return values, mask


def scored(outcomes, lengths):
    """Token-level rewards with the outcome on the last token."""
    rows = zip(outcomes, lengths, strict=True)
    return padded([[0.0] * (length - 1) + [outcome] for outcome, length in rows])


@pytest.mark.parametrize("seed", SEEDS)
def test_as_published_the_advantages_are_the_authors(seed):
    outcomes, groups, tasks, entropies = random_batch(seed)
    rewards, mask = scored(outcomes, map(len, entropies))
    advantages, _ = task_norm(rewards, mask, groups, tasks, singleton="paper")
    theirs = torch.tensor(
        reference.authors_advantages(outcomes, groups, tasks), dtype=torch.float64
    )
    torch.testing.assert_close(advantages, theirs.unsqueeze(-1) * mask, **TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_by_default_they_are_the_authors_wherever_a_prompt_has_two_responses(seed):
    outcomes, groups, tasks, entropies = random_batch(seed)
    rewards, mask = scored(outcomes, map(len, entropies))
    advantages, _ = task_norm(rewards, mask, groups, tasks)
    theirs = reference.authors_advantages(outcomes, groups, tasks)
    expected = [
        advantage if groups.count(group) > 1 else 0.0
        for advantage, group in zip(theirs, groups, strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64).unsqueeze(-1) * mask
    torch.testing.assert_close(advantages, expected, **TOLERANCE)


def test_deviates_from_the_authors_for_a_lone_response():
    # Its outcome stays uncentred there and, alone in its task, is divided by 1e-6; ours gives 0.
    outcomes, groups, tasks = [1.0, 0.0, 0.5], "aab", "ttu"
    theirs = reference.authors_advantages(outcomes, groups, tasks)
    assert theirs[2] == pytest.approx(500_000)
    rewards, mask = scored(outcomes, [1, 1, 1])
    ours, _ = task_norm(rewards, mask, groups, tasks)
    assert ours[:2, 0].tolist() == pytest.approx(theirs[:2])
    assert ours[2, 0] == 0


def test_deviates_from_the_authors_for_a_nan_outcome():
    # Theirs spreads it over the task, other prompts included; ours says which row it is.
    outcomes = [1.0, 0.0, math.nan, 0.0]
    theirs = reference.authors_advantages(outcomes, "aabb", "tttt")
    assert all(map(math.isnan, theirs))
    rewards, mask = scored(outcomes, [1] * 4)
    with pytest.raises(ValueError, match="row 2: nan"):
        task_norm(rewards, mask, "aabb", "tttt")


def test_deviates_from_the_authors_for_a_row_without_sampled_tokens():
    # Theirs counts it as an outcome of 0: the group's mean falls from 1 to 2/3.
    theirs = reference.authors_advantages([1.0, 1.0, 0.0], "aaa", "ttt")
    assert theirs[0] > 0
    rewards, mask = torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[1], [1], [0]])
    ours, _ = task_norm(rewards, mask, "aaa", "ttt")
    assert not ours.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_batch_entropy_is_the_papers(seed):
    *_, entropies = random_batch(seed)
    entropy, mask = padded(entropies, on_padding=math.nan)
    expected = reference.papers_batch_entropy(entropies)
    assert batch_entropy(entropy, mask).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["token_threshold", "sequence_threshold"])
def test_the_static_clip_is_equation_nine(level, seed):
    outcomes, groups, tasks, entropies = random_batch(seed)
    advantages = reference.authors_advantages(outcomes, groups, tasks)
    entropy, mask = padded(entropies)
    signs = torch.tensor(advantages, dtype=torch.float64).unsqueeze(-1) * mask
    kept = keep_mask(signs, mask, gate_on=False, entropy=entropy, **{level: 0.5})
    expected = reference.papers_clip(
        advantages, entropies, token_level=level == "token_threshold", threshold=0.5
    )
    for row, indicator in enumerate(expected):
        assert kept[row, : len(indicator)].tolist() == indicator
    assert not kept.all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gate_is_the_authors_intended_rule(seed):
    draw = random.Random(seed)
    course = [draw.uniform(0, 0.5) for _ in range(200)]
    gate = EntropyGate(0.135, 0.28)
    states = [gate.update(entropy) for entropy in course]
    assert states == reference.papers_gate(course, 0.135, 0.28)


def test_the_readme_band_is_the_readmes_rule():
    course = [0.10, 0.15, 0.20, 0.25, 0.27, 0.31, 0.25, 0.18, 0.14, 0.12, 0.20, 0.29, 0.15]
    band = ReadmeBand(0.135, 0.28)
    states = [band.update(entropy) for entropy in [*course, 0.135, 0.28]]
    assert states == [reference.readme_masks(entropy, 0.135, 0.28) for entropy in course] + [
        False,
        False,
    ]
    assert states[:13] == [False] + [True] * 4 + [False] + [True] * 3 + [False, True, False, True]
    band.load_state_dict(band.state_dict())


def test_deviates_from_the_readme_at_high_entropy():
    # Where the entropy is highest the README masks nothing; the paper's gate masks there.
    assert not reference.readme_masks(0.31, 0.135, 0.28)
    assert EntropyGate(0.135, 0.28).update(0.31)


def test_deviates_from_the_readme_within_the_band():
    # From a calm start the README masks between the thresholds; the gate waits for the upper one.
    assert reference.readme_masks(0.2, 0.135, 0.28)
    assert not EntropyGate(0.135, 0.28).update(0.2)


def test_deviates_from_the_readme_in_withholding_negative_advantages_alone():
    # The README also drops the row of advantage 0 and the successful one whose reward is −.2.
    advantages, outcomes = [0.866, -0.866, 0.0, -0.866, 0.866], [1, 0, 0.5, 0, -0.2]
    theirs = reference.readme_rows(advantages, outcomes)
    ours = keep_mask(torch.tensor(advantages).unsqueeze(-1), torch.ones(5, 1), gate_on=True)
    assert theirs == [True, False, False, False, False]
    assert ours.flatten().tolist() == [True, False, True, False, True]


def test_deviates_from_the_readme_where_the_first_token_is_not_sampled():
    # The README reads a row's advantage off its first column, 0 where a tool's answer stands.
    advantages, mask = torch.tensor([[0.0, 0.5], [0.0, -0.5]]), torch.tensor([[0, 1], [0, 1]])
    assert reference.readme_rows(advantages[:, 0].tolist(), [1, 0]) == [False, False]
    kept = keep_mask(advantages, mask, gate_on=True)
    assert kept[:, 1].tolist() == [True, False]
