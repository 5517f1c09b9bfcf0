"""NaN at each stage stops the run with a file."""

import pytest
from adapters.finite.stops import INF, KEYS, NAN, STAGES, batch, filled, stopped

from verl_ext.adapters import replay
from verl_ext.adapters.trainer import finite


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_gives_no_number_stops_the_run_with_row_file_and_command(
    trainer, tmp_path, stage, value
):
    field = STAGES[stage][1]
    words = stopped(trainer(), stage, field, filled(value, (2, 1), (2, 3)))
    file = tmp_path / "run" / f"not_finite_step_7_{stage}.pt"
    assert f"{field} is NaN or infinite after the stage '{stage}', in 1 of 4 rows" in words
    assert f"first b_0_0. Look into it: verl-ext replay {file}" in words
    saved = replay.read(file)
    assert (saved.stage, saved.field, saved.step, saved.bad) == (stage, field, 7, ["b_0_0"])
    assert replay.where(saved, "b_0_0") == 1
    assert saved.row("b_0_0")["responses"].tolist() == [97, 98, 99, 100]
    assert saved.keys == (KEYS if stage == "advantages" else ["b_0_0"])


def test_the_servers_log_probs_are_looked_at_where_there_are_any(trainer, tmp_path):
    made = trainer(servers_too=True)
    made.queue.write("rollout_log_probs", filled(-INF, (3, 0)))
    with pytest.raises(finite.NotFiniteError, match="rollout_log_probs is NaN or infinite"):
        made._balance_batch(batch(), {})


def test_numbers_pass_and_nothing_is_written(trainer, tmp_path):
    made = trainer()
    made.writes = {stage: {field: filled(1e30, (0, 0))} for stage, (_, field) in STAGES.items()}
    for method, _ in STAGES.values():
        getattr(made, method)(batch(), {})
    made.logged = {"actor/grad_norm": 1.0, "critic/score/mean": NAN, "actor/pg_clipfrac": NAN}
    made._update_actor(batch(), {})
    assert not (tmp_path / "run").exists()


def test_what_no_loss_sees_may_be_anything(trainer):
    made = trainer()
    made.queue.columns["response_mask"][2][1] = 0  # an observation
    made.writes = {"log_probs": {"old_log_probs": filled(NAN, (2, 1), (3, 0))}}
    made._compute_old_log_prob(batch(padding=["b_1_0"]), {})
    made.writes = {"rewards": {"rm_scores": filled(NAN, (0, 0))}}
    made._balance_batch(batch(partition="val"), {})


@pytest.mark.parametrize("name", ["actor/grad_norm", "actor/pg_loss"])
def test_an_update_whose_loss_or_gradient_is_no_number_stops_the_run(trainer, tmp_path, name):
    made = trainer()
    made.logged = {"actor/grad_norm": 1.0, "actor/pg_loss": 0.5, name: [1.0, NAN]}
    with pytest.raises(finite.NotFiniteError, match=rf"{name} is NaN .* stage 'update'"):
        made._update_actor(batch(), {})
    assert replay.read(tmp_path / "run" / "not_finite_step_7_update.pt").bad == KEYS


def test_a_run_can_go_on_and_says_so(trainer, tmp_path, capsys):
    made = trainer(not_finite="report")
    made.writes = {"rewards": {"rm_scores": filled(NAN, (0, 2))}}
    made._balance_batch(batch(), {})
    assert "[verl_ext] step 7: rm_scores is NaN" in capsys.readouterr().out
    assert (tmp_path / "run" / "not_finite_step_7_rewards.pt").exists()
