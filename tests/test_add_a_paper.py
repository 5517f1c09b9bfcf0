"""A paper is added in the places that CONTRIBUTING names, and everything else follows from them."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("advantage_fns", "reward_fns", "recipes", "verl_ext", "hydra_plugins")
if importlib.util.find_spec("setuptools") is None:
    pytest.skip("building the wheel needs setuptools", allow_module_level=True)

# 1. The function.
FUNCTION = '''"""Leave-one-out baseline (Kool et al. 2019)."""

from collections.abc import Collection, Hashable

from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import label_index, outcome_scores, spread_over_tokens, sums_over


def leave_one_out(
    token_level_rewards: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    group_ids: Collection[Hashable],
    *,
    scale: float = 1.0,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """A = scale (r - mean of the others in its group); 0 for a group of one."""
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    rewards = outcome_scores(token_level_rewards, response_mask).double()
    groups = label_index("group_ids", group_ids, len(rewards), rewards.device)
    count = int(groups.max()) + 1
    sums = rewards.new_zeros(count).index_add(0, groups, rewards)[groups]
    sizes = rewards.new_zeros(count).index_add(0, groups, rewards.new_ones(len(rewards)))[groups]
    others = (sums - rewards) / (sizes - 1).clamp_min(1)
    made = (scale * (rewards - others) * (sizes > 1)).float()
    advantages = spread_over_tokens(made, response_mask)
    return advantages, advantages
'''

# 2. One entry each in papers.py and catalog.py.
PAPER = """    "leave_one_out": Paper(
        title="Buy 4 REINFORCE Samples, Get a Baseline for Free!",
        url="https://openreview.net/forum?id=r1lgTGL5DE",
        summary="the other responses' mean is the baseline",
        line=f"{RUN} +paper=leave_one_out +scale=cpu",
    ),
}
"""
ESTIMATOR = """    "verl_ext.leave_one_out": Plugin(
        function=leave_one_out,
        title=papers.PAPERS["leave_one_out"].title,
        url=papers.PAPERS["leave_one_out"].url,
        summary="outcome minus the mean of the others of its group",
        line=f"algorithm.adv_estimator=verl_ext.leave_one_out {_OURS}",
        overlays=("leave_one_out",),
        needs=("group_ids",),
    ),
}

# A teacher's term"""
NEW_IMPORT = "from verl_ext.advantage_fns.leave_one_out import leave_one_out\n"
IMPORT = "from verl_ext.advantage_fns.rank import rank\n"

# 3. The recipe.
RECIPE = """# @package _global_
# Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE.
defaults:
  - /base
  - _self_

algorithm:
  adv_estimator: verl_ext.leave_one_out
  verl_ext:
    advantage:
      scale: 1.0
    toy: w_reinforce

trainer:
  v1:
    trainer_mode: verl_ext.sync
"""

# What a user of the new release finds.
USE = """
import json
import torch, verl
from hydra import compose, initialize_config_module
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl_ext.adapters import advantage, driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.sessions import sessions

RUN = ["+paper=leave_one_out", "+scale=cpu"]
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides=RUN)
    driver_check.check(config)
    try:
        wrong = compose("ppo_trainer", overrides=[*RUN, "algorithm.verl_ext.advantage.scale=0"])
        driver_check.check(wrong)
        refused = ""
    except SettingsError as error:
        refused = str(error)
rewards, mask = torch.tensor([[1.0], [0.0], [0.5], [1.0]]), torch.ones(4, 1)
groups = ["a", "a", "a", "b"]
context = advantage.BatchContext(
    sessions([f"{g}_{n}_0" for n, g in enumerate(groups)], [{}] * 4), mask.bool(),
    {"group_ids": groups},
)
with advantage.batch_context(context):
    made, _ = ADV_ESTIMATOR_REGISTRY["verl_ext.leave_one_out"](
        token_level_rewards=rewards, response_mask=mask, index=groups, config=config.algorithm
    )
print(json.dumps({"advantages": made.flatten().tolist(), "refused": refused}))
"""


def put(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} no longer has what CONTRIBUTING says to add to"
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The wheel with the paper in it, installed in a folder."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "advantage_fns" / "leave_one_out.py").write_text(FUNCTION)
    papers = source / "verl_ext" / "papers.py"
    papers.write_text(papers.read_text().rstrip().removesuffix("}") + PAPER)
    catalog = source / "verl_ext" / "catalog.py"
    put(catalog, "}\n\n# A teacher's term", ESTIMATOR)
    put(catalog, IMPORT, NEW_IMPORT + IMPORT)
    (source / "recipes" / "paper" / "leave_one_out.yaml").write_text(RECIPE)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def in_release(release, folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(release)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_it_is_registered_composed_checked_and_computed(release, tmp_path):
    out = in_release(release, tmp_path, "-c", USE)
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout.splitlines()[-1])
    # 1 - (0 + .5) / 2, 0 - (1 + .5) / 2, .5 - (1 + 0) / 2, and a group of one.
    assert found["advantages"] == pytest.approx([0.75, -0.75, 0.0, 0.0])
    assert "algorithm.verl_ext.advantage: scale must be > 0" in found["refused"]


def test_it_is_listed_with_the_line_to_type(release, tmp_path):
    out = in_release(release, tmp_path, "-m", "verl_ext", "list")
    assert "verl_ext.leave_one_out" in out.stdout
    assert "+paper=leave_one_out +scale=cpu" in out.stdout
