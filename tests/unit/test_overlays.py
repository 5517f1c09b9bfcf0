"""The command line is read before Hydra composes anything."""

import pytest

from verl_ext import overlays


@pytest.mark.parametrize(
    "line",
    [
        ["+paper=w_reinforce", "+scale=cpu"],
        ["+paper=[w_reinforce,nsr]", "+scale=cpu", "task=toy"],
        ["+paper=psr"],
        ["+task=gsm8k"],
        ["model_engine=megatron", "+scale=gpu8", "trainer.experiment_name=paper=x"],
        [],
    ],
)
def test_well_formed_lines_pass(line):
    overlays.check(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["+paper=w_reinforec"], r"did you mean \+paper=w_reinforce\?"),
        (["+paper=[w_reinforce,ns]"], r"unknown paper 'ns'.*\+paper=nsr"),
        (["+scale=gpu9"], r"did you mean \+scale=gpu"),
        (["+scale=cpu", "+paper=nsr"], r"Type: \+paper=nsr \+scale=cpu"),
        (["+paper=nsr", "+scale=cpu", "+task=gsm8k"], r"Type: task=gsm8k"),
        (["task=gsm8k"], r"Type: \+task=gsm8k"),
        (["paper=nsr"], r"Type: \+paper=nsr"),
        (["++scale=cpu"], r"Type: \+scale=cpu"),
    ],
)
def test_malformed_lines_are_answered_with_the_line_to_type(line, message):
    with pytest.raises(overlays.OverlayError, match=message):
        overlays.check(line)


def test_every_group_lists_its_files():
    assert {"w_reinforce", "psr", "nsr"} <= set(overlays.names("paper"))
    assert {"cpu", "gpu1", "gpu8", "gpu64"} == set(overlays.names("scale"))
    stages = {f"qwenlong_l15_stage{number}" for number in (1, 2, 3)}
    assert {"toy", "string_composition", "gsm8k", "math"} | stages == set(overlays.names("task"))
