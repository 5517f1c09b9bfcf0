"""Each cell of the capability matrix, run and resumed: `make test-matrix` runs and records them.

``make test`` runs a cover of them (``cells.py``); ``VERL_EXT_RECORD=1`` writes what passed to
``docs/capability.json``.
"""

import math

import pytest
from matrix.cells import CELLS, RECORDING, RESUMED, ROOT, TRAINED, record, refusals
from runs.launch import train, without_clocks

# Of a clock, or of what this machine has seen before.
OF_THE_MACHINE = ("call_seconds", "base_cache_hits")
STEPS, SAVED = 2, 1


# What a run alone can tell: a policy that teaches itself needs a session's one response.
TEACHING_ITSELF = ("sdpo", "sdpo_rich_feedback", "sdpo_test_time")
SEVERAL = "the agent loop cuts a session into several outputs"
LOOPS = "- {name: two_outputs, _target_: matrix.two_outputs.TwoOutputs}"


def run(folder, cell, *overrides):
    folder.mkdir()
    if cell.outputs == 2:
        (folder / "loops.yaml").write_text(LOOPS)
        agent = "actor_rollout_ref.rollout.agent"
        overrides = (*overrides, f"{agent}.agent_loop_config_path={folder}/loops.yaml")
    _, metrics = train(
        folder,
        *cell.overrides,
        f"trainer.default_local_dir={folder.parent}/{folder.name}/checkpoints",
        f"trainer.total_training_steps={STEPS}",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",  # Megatron wants steps after it
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        *overrides,
    )
    return {
        step: {k: v for k, v in without_clocks(values).items() if not k.endswith(OF_THE_MACHINE)}
        for step, values in metrics.items()
    }


def refused_by_run(cell):
    return cell.outputs == 2 and cell.method in TEACHING_ITSELF


def cells(refused):
    return [
        cell if cell in RESUMED else pytest.param(cell, marks=pytest.mark.wide)
        for cell in CELLS
        if str(cell) not in refusals("driver") and refused_by_run(cell) == refused
    ]


@pytest.fixture
def our_agent_loops(monkeypatch):
    """Ray's workers can import those of this folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


def trained(folder, cell, *overrides):
    whole = run(folder / "whole", cell, *overrides)
    assert set(whole) == {1, STEPS}
    for step in whole.values():
        assert math.isfinite(step["critic/advantages/mean"])
        assert step.get("actor/grad_norm", 0) > 0 or step.get("verl_ext/skipped_update") == 1
    return whole


@pytest.mark.run
@pytest.mark.parametrize("cell", TRAINED, ids=str)
@pytest.mark.usefixtures("our_agent_loops")
def test_a_cell_trains(tmp_path, cell):
    trained(tmp_path, cell, "trainer.save_freq=-1")


@pytest.mark.run
@pytest.mark.parametrize("cell", cells(refused=False), ids=str)
@pytest.mark.usefixtures("our_agent_loops")
def test_a_cell_trains_and_resumes(tmp_path, verl_config, cell):
    whole = trained(tmp_path, cell, f"trainer.save_freq={SAVED}")
    saved = tmp_path / "whole" / "checkpoints" / f"global_step_{SAVED}"
    resume = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={saved}")
    resumed = run(tmp_path / "resumed", cell, "trainer.save_freq=-1", *resume)
    assert set(resumed) == {STEPS}
    if cell.repeats:
        assert resumed[STEPS] == whole[STEPS]
    else:
        assert math.isfinite(resumed[STEPS]["critic/advantages/mean"])
    if RECORDING:
        resume = "bit for bit" if cell.repeats else "goes on"
        record(cell, verl_config(*cell.overrides), resume=resume)


@pytest.mark.run
@pytest.mark.parametrize("cell", cells(refused=True), ids=str)
@pytest.mark.usefixtures("our_agent_loops")
def test_a_run_refuses_a_cell(tmp_path, verl_config, cell):
    with pytest.raises(AssertionError, match=SEVERAL):
        run(tmp_path / "refused", cell)
    if RECORDING:
        record(cell, verl_config(*cell.overrides), refused=SEVERAL, by="run")
