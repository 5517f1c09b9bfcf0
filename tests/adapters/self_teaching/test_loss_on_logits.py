"""A loss on logits: what the teacher is asked on the support, and which rows it teaches."""

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.self_teaching.runs import QUESTION, TOKENIZER, group, row

from verl_ext.adapters.teacher import support
from verl_ext.adapters.teacher.loss import TAUGHT

ON_LOGITS = {"task": {"coef": 0.0}, "divergence": {"top_k": 4}}


def test_a_loss_on_logits_asks_about_every_row_and_says_which_are_taught(run):
    this = run(group(), **ON_LOGITS)()
    assert not this.workers.asked
    (batch,) = this.workers.asked_on_support
    assert list(batch.keys) == ["a_0_0", "a_1_0", "b_0_0"]
    assert batch.fields == list(support.FIELDS)
    assert batch.extra_info["temperature"] == 0.7
    prompt = TOKENIZER.decode(this.fake.train["a_0_0"][support.TEACHER_PROMPT])
    assert QUESTION in prompt
    assert "aabb" in prompt
    for key in ("a_1_0", "b_0_0"):
        assert this.fake.train[key][support.TEACHER_PROMPT].tolist() == [0]
    taught = {key: values[TAUGHT].tolist() for key, values in this.fake.train.items()}
    assert taught == {"a_0_0": [1] * 3, "a_1_0": [0] * 5, "b_0_0": [0] * 4}
    assert this.advantages() == {"a_0_0": [0.0] * 3, "a_1_0": [0.0] * 5, "b_0_0": [0.0] * 4}
    assert this.trainer.updated == [["a_0_0"]]
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/support_non_finite"] == 0.0
    assert this.metrics["verl_ext/teacher/seconds"] >= 0
    assert "verl_ext/teacher/reverse_kl" not in this.metrics
    assert this.metrics["verl_ext/divergence/value"] == 0.25  # all tokens of the loss are taught


def test_beside_a_task_the_divergences_metrics_are_of_the_taught_tokens(run):
    task = {"task_estimator": "grpo", "coef": 0.0}
    this = run(group(), task=task, divergence={"top_k": 4})()
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]
    for name in ("value", "student_tail"):
        assert this.metrics[f"verl_ext/divergence/{name}"] == pytest.approx(0.25 * 12 / 3)
    assert this.metrics["verl_ext/divergence/loss"] == 0.25


def test_means_of_micro_batches_keep_the_rows_that_nobody_teaches(run):
    """The authors' denominators count them."""
    divergence = {"top_k": 4, "normalisation": "micro_batch_mean"}
    this = run(group(), task={"coef": 0.0}, divergence=divergence)()
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]
    nobody = run({"a_0_0": row("a", "xy", 0.0)}, task={"coef": 0.0}, divergence=divergence)()
    assert nobody.trainer.updated == []


def test_what_is_not_finite_on_the_support_is_counted(run):
    this = run(group(), broken="nan", **ON_LOGITS)()
    assert this.metrics["verl_ext/teacher/support_non_finite"] == pytest.approx(6 / (3 * 4))


def test_both_forms_at_once_ask_twice(run):
    this = run(group(), divergence={"top_k": 4})()
    assert len(this.workers.asked) == len(this.workers.asked_on_support) == 1
