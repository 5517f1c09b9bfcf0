"""The reference worker's log-probs are looked at where it was asked for them."""

import pytest
from adapters.finite.stops import NAN, Base, Queue, batch, filled
from adapters.teaching_config import config

from verl_ext.adapters.trainer import finite, teaching


class Taught(finite.Finite, teaching.Teaching, Base):
    base_mode = "sync"


@pytest.fixture
def taught(monkeypatch, tmp_path):
    def made(kl=False, **teacher):
        divergence = {"top_k": 4, "support": "teacher"}
        settings = config(teacher=teacher, divergence=divergence, coef=0.0)
        settings.actor_rollout_ref.actor.use_kl_loss = kl
        settings.trainer = {"default_local_dir": str(tmp_path)}
        result = Taught(settings)
        result.queue = Queue()
        result.writes = {"reference": {"ref_log_prob": filled(NAN, (0, 0))}}
        monkeypatch.setattr(finite.tq, "kv_batch_get", result.queue.get)
        return result

    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    return made


OWN = {"source": "trust_region", "rate": 0.25, "path": None}


@pytest.mark.parametrize("teacher", [{}, OWN])
def test_what_is_not_asked_for_is_not_looked_for(taught, teacher):
    this, rows = taught(**teacher), batch()
    assert this._compute_ref_log_prob(rows, {}) is rows
    assert "ref_log_prob" not in this.queue.columns


def test_the_log_probs_of_a_kl_term_are_looked_at(taught):
    with pytest.raises(finite.NotFiniteError, match="stage 'reference'"):
        taught(kl=True, **OWN)._compute_ref_log_prob(batch(), {})
