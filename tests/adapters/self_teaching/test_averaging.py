"""When the average of a policy moves: once a step, and not where the optimizer stood still."""

import math

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.self_teaching.runs import group, groups, row

TAUGHT, UNTAUGHT = ["a_0_0", "a_1_0"], ["b_0_0"]


@pytest.mark.parametrize("updates", [1, 4])
def test_an_average_moves_once_a_step_however_many_updates_it_has(run, updates):
    rows, keys = groups(updates)
    this = run(rows, source="ema")(keys=keys)
    assert len(this.trainer.updated) == updates
    assert this.workers.averaged == 1
    assert this.metrics["verl_ext/teacher/ema_distance"] == pytest.approx(0.2)
    this(keys=keys)
    assert this.workers.averaged == 2


def test_another_teacher_is_no_average(run):
    this = run(group())()
    assert this.workers.averaged == 0
    assert not any("ema" in name for name in this.metrics)


@pytest.mark.parametrize("grad_norms", [(math.nan,), (math.inf,), (math.nan, 1.0)])
def test_an_average_stays_where_the_optimizer_stood_still(run, capsys, grad_norms):
    rows, keys = groups(len(grad_norms))
    this = run(rows, source="ema")(*grad_norms, keys=keys)
    assert this.workers.averaged == 0
    assert "the averaged teacher stays as it is" in capsys.readouterr().out


def test_an_average_stays_where_the_update_was_skipped(run):
    this = run({"a_0_0": row("a", "xy", 0.0)}, source="ema")()
    assert this.trainer.updated == []
    assert this.workers.averaged == 0


@pytest.mark.parametrize("keys", [[TAUGHT, UNTAUGHT], [UNTAUGHT, TAUGHT]])
def test_an_average_follows_the_updates_that_were_not_skipped(run, keys):
    this = run(group(), source="ema")(keys=keys)
    assert len(this.trainer.updated) == 1
    assert this.workers.averaged == 1
