"""The plugin of docs/write_your_own.md: short, right, checked like ours, and found by verl."""

import os
import subprocess
import sys

import pytest
import torch
from docs.blocks import ROOT, blocks

from verl_ext import catalog

PAGE = "docs/write_your_own.md"
MODULE = next(block.text for block in blocks(PAGE) if block.language == "python")


@pytest.fixture
def plugin(monkeypatch):
    """The module's names; what it registers is gone afterwards."""
    before = [(each, dict(each)) for each in (catalog.ADVANTAGES, catalog.MASKS)]
    namespace = {}
    exec(compile(MODULE, PAGE, "exec"), namespace)
    yield namespace
    for entries, original in before:
        entries.clear()
        entries.update(original)


def test_it_has_fewer_than_60_lines():
    assert len(MODULE.splitlines()) < 60


def test_the_estimator_takes_the_median_of_the_prompt_and_of_no_other(plugin):
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.25], [0.0, 0.5], [0.0, 7.0], [9.0, 2.0]])
    mask = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 1], [0, 1]])
    advantages, returns = plugin["median_baseline"](
        rewards, mask, ["a", "a", "a", "b", "b"], weight=2.0
    )
    # medians: 0.5 of 1, 0.25, 0.5; 4.5 of 7 and 2 (the masked 9 does not count)
    expected = [[1.0, 1.0], [0.0, -0.5], [0.0, 0.0], [5.0, 5.0], [0.0, -5.0]]
    assert torch.equal(advantages, torch.tensor(expected))
    assert torch.equal(returns, advantages)


def test_the_mask_withholds_long_responses_as_a_whole(plugin):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    keep = plugin["length_cap"](torch.ones(3, 3), mask, max_tokens=2)
    assert keep.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert keep.dtype == torch.bool


@pytest.mark.parametrize(
    ("response", "power", "score"),
    [("abcd", 1, 1), ("abxx", 1, 0.5), ("abxx", 2, 0.25), ("", 1, 0), ("abcdef", 1, 1)],
)
def test_the_reward_is_the_share_of_the_reference(plugin, response, power, score):
    assert plugin["compute_score"]("toy", response, "abcd", power=power) == score


def test_bad_input_is_refused_and_not_scored(plugin):
    with pytest.raises(ValueError, match="a reference answer is empty"):
        plugin["compute_score"]("toy", "abc", "")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be"):
            plugin["median_baseline"](torch.ones(1, 1), torch.ones(1, 1), ["a"], weight=weight)
    with pytest.raises(ValueError, match="max_tokens must be >= 1"):
        plugin["length_cap"](torch.ones(1, 1), torch.ones(1, 1), max_tokens=0)


RUN = ["+scale=cpu", "algorithm.adv_estimator=mine.median_baseline"]
MASK = "+algorithm.verl_ext.masks.length_cap={max_tokens: 12}"
CALL = """
import sys
import torch
import verl
from docs.verl_line import composed
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl_ext.adapters import driver_check
from verl_ext.adapters.masks import MaskChain

def refused(*overrides):
    try:
        driver_check.check(composed("ppo_trainer", [*sys.argv[1:3], *overrides]))
    except driver_check.SettingsError as error:
        return str(error)

config = composed("ppo_trainer", [*sys.argv[1:], "+algorithm.verl_ext.advantage.weight=2.0"])
estimator = get_adv_estimator_fn(config.algorithm.adv_estimator)
advantages, _ = estimator(
    token_level_rewards=torch.tensor([[0.0, 1.0], [0.0, 0.0]]), response_mask=torch.ones(2, 2),
    index=["a", "a"], config=config.algorithm,
)
assert advantages.tolist() == [[1.0, 1.0], [-1.0, -1.0]], advantages
chain = MaskChain(config.algorithm.verl_ext.masks)
assert not chain(torch.ones(1, 13), torch.ones(1, 13), {}).teaches
assert chain(torch.ones(1, 12), torch.ones(1, 12), {}).teaches
assert "did you mean 'weight'" in refused("+algorithm.verl_ext.advantage.wieght=1")
assert "weight must be finite" in refused("+algorithm.verl_ext.advantage.weight=-1")
assert "did you mean 'length_cap'" in refused("+algorithm.verl_ext.masks.length_cup={}")
"""


@pytest.mark.parametrize("way", ["module", "entry_point"])
def test_verl_finds_it_hands_it_its_settings_and_refuses_wrong_ones(tmp_path, way):
    """In a process of its own: verl loads plugins while it is imported."""
    (tmp_path / "my_plugin.py").write_text(MODULE, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{tmp_path}"}
    if way == "module":
        environment["VERL_USE_EXTERNAL_MODULES"] = "my_plugin"
    else:  # what `pip install` of the page's pyproject.toml leaves beside the module
        info = tmp_path / "my_plugin-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[verl.plugins]\nmy_plugin = my_plugin\n")
    program = [sys.executable, "-c", CALL, *RUN, MASK]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
