"""A run that reports what is no number goes on to its metrics, which leave it out."""

import math

import pytest
import torch
from adapters.finite.stops import INF, NAN, Base, Trainer, batch, filled

from verl_ext.adapters.trainer import batch_fields, off_policy


class Measured(Base):
    def _compute_metrics(self, batch, metrics, **more):
        metrics["verl"] = 1.0


class OffPolicy(Trainer, off_policy.OffPolicy, Measured):
    pass


@pytest.fixture
def measured(trainer, monkeypatch):
    def made(**ours):
        of_stops = trainer(servers_too=True, **ours)
        result = OffPolicy(of_stops.config)
        result.queue = of_stops.queue
        monkeypatch.setattr(batch_fields.tq, "kv_batch_get", result.queue.get)
        result.queue.write("rollout_log_probs", filled(0.0))
        return result

    return made


def metrics_of(made, **writes):
    found = {}
    made.writes = {stage: {name: values} for stage, (name, values) in writes.items()}
    made._balance_batch(batch(), found)
    made._compute_old_log_prob(batch(), found)
    made._compute_metrics(batch(), found)
    return found


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("stage", "field"), [("rewards", "rollout_log_probs"), ("log_probs", "old_log_probs")]
)
def test_log_probs_that_are_none_are_reported_and_not_measured(
    measured, tmp_path, stage, field, value
):
    writes = {"log_probs": ("old_log_probs", filled(0.0))} | {stage: (field, filled(value, (2, 1)))}
    assert metrics_of(measured(not_finite="report"), **writes) == {"verl": 1.0}
    assert (tmp_path / "run" / f"not_finite_step_7_{stage}.pt").exists()


@pytest.mark.parametrize("ours", [{}, {"not_finite": "report"}])
def test_numbers_are_measured(measured, ours):
    old = filled(math.log(3), (0, 0))
    found = metrics_of(measured(**ours), log_probs=("old_log_probs", old))
    assert found[off_policy.METRIC] == pytest.approx((3 + 9) ** 2 / (10 * (9 + 9)))


def test_what_no_loss_sees_keeps_nothing_from_being_measured(measured):
    made = measured(not_finite="report")
    made.queue.columns["response_mask"][2] = torch.tensor([1, 0, 1, 1])
    found = metrics_of(made, log_probs=("old_log_probs", filled(NAN, (2, 1))))
    assert found[off_policy.METRIC] == 1.0
