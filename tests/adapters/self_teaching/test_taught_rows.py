"""Which rows a policy's own teacher teaches, and with which prompt and advantage."""

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from adapters.self_teaching.runs import QUESTION, STUDENT, group, groups, judged, row


def test_a_failure_is_judged_by_the_policy_that_has_seen_a_siblings_success(run):
    this = run(group())()
    prompt, tokens = this.read("a_0_0")
    assert QUESTION in prompt
    assert "aabb" in prompt
    assert prompt.count("<|im_end|>") == 1  # the solution comes without its own
    assert this.advantages() == {
        "a_0_0": judged("xy", tokens), "a_1_0": [0.0] * 5, "b_0_0": [0.0] * 4,
    }  # fmt: skip
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/prompt/own_success"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/prompt/no_success_no_feedback"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/non_finite"] == 0.0
    assert this.metrics["verl_ext/teacher/total_tokens"] == tokens + 3
    assert this.metrics["verl_ext/teacher/seconds"] >= 0
    (batch,) = this.workers.asked
    assert batch.extra_info["temperature"] == 0.7
    assert batch.partition_id == "verl_ext_teacher"


def test_alone_the_teacher_teaches_only_rows_that_it_judges(run):
    """The others leave the loss and its denominator, and are not computed."""
    this = run(group())()
    assert this.trainer.updated == [["a_0_0"]]
    masks = {key: values["loss_mask"].tolist() for key, values in this.fake.train.items()}
    assert masks == {"a_0_0": [1, 1, 1], "a_1_0": [0] * 5, "b_0_0": [0] * 4}
    gap = [STUDENT - a - STUDENT for a in this.advantages()["a_0_0"]]
    assert this.metrics["verl_ext/teacher/reverse_kl"] == pytest.approx(sum(gap) / 3, abs=1e-5)


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_beside_a_task_every_row_stays_and_the_others_have_the_tasks_advantage(run, estimator):
    task = {"task_estimator": estimator, "task_weight": 0.5, "coef": 2.0}
    this = run(group(), task=task)()
    alone = run(group(), task=task | {"coef": 0.0})()  # the teacher is not asked
    assert not alone.workers.asked
    _, tokens = this.read("a_0_0")
    both, of_task = this.advantages(), alone.advantages()
    assert both["a_1_0"] == of_task["a_1_0"] != [0.0] * 5
    assert both["b_0_0"] == of_task["b_0_0"]
    wanted = judged("xy", tokens, 2.0).expected
    assert both["a_0_0"] == pytest.approx(
        [a + b for a, b in zip(of_task["a_0_0"], wanted, strict=True)], abs=1e-5
    )
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]


@pytest.mark.parametrize(("task", "updates"), [({}, 0), ({"task_estimator": "grpo"}, 1)])
def test_without_any_teacher_prompt_the_task_alone_teaches_or_nothing_does(
    run, capsys, task, updates
):
    rows = {"a_0_0": row("a", "xy", 0.0), "b_0_0": row("b", "zz", 1.0)}
    this = run(rows, task=task)()
    assert not this.workers.asked
    assert len(this.trainer.updated) == updates
    said = capsys.readouterr().out
    assert "no row has a teacher prompt (no_success_no_feedback 1, own_success 1)" in said
    assert ("no update" in said) == (updates == 0)
    assert this.metrics["verl_ext/teacher/reverse_kl"] == 0.0
    if not updates:
        assert this.metrics["verl_ext/skipped_update"] == 1.0


@pytest.mark.parametrize(
    "extra",
    [
        {"reward_extra_info": {"feedback": "Letter 1 is wrong."}},
        {"feedback": "Letter 1 is wrong."},
        {"reward_extra_info": {"acc": 0.0}, "feedback": "Letter 1 is wrong."},
    ],
)
def test_feedback_comes_from_the_reward_function_or_the_agent_loop(run, extra):
    rows = {"a_0_0": row("a", "xy", 0.0) | {"extra_fields": extra}}
    prompt, _ = run(rows)().read("a_0_0")
    assert "Letter 1 is wrong." in prompt


def test_the_rules_of_hints_and_the_words_are_the_runs(run):
    rows = group(feedback="Too short.")
    hints = {"include_solution": False, "include_attempt": True}
    this = run(rows, hints=hints, texts={"feedback": "It says <{feedback}>"})()
    prompt, _ = this.read("a_0_0")
    assert "It says <Too short.>" in prompt
    assert "xy" in prompt
    assert "aabb" not in prompt


def test_a_tools_answer_is_read_and_not_judged(run):
    this = run(group(mask=[1, 0, 1]))()
    _, tokens = this.read("a_0_0")
    (asked,) = [v for v in this.seen if v["loss_mask"].any()]
    assert asked["input_ids"].tolist()[-3:] == this.fake.train["a_0_0"]["responses"].tolist()
    assert asked["loss_mask"].tolist() == [1, 0, 1]
    first, _, last = judged("xy", tokens).expected
    assert this.advantages()["a_0_0"] == pytest.approx([first, 0.0, last], abs=1e-5)


def test_padding_rows_are_nobodys_siblings_and_have_no_share(run):
    rows = group()
    rows["pad0_0_0"] = queue.padding(rows["a_1_0"]) | {
        "responses": torch.tensor([258]), "prompts": torch.tensor([258] * 3),
    }  # fmt: skip
    this = run(rows)()
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.trainer.updated == [["a_0_0"]]


def test_a_batch_without_a_lesson_is_forgotten_with_the_next_one(run):
    rows, keys = groups(2)
    rows["b_0_0"] = row("b", "zzz", 0.0)
    divergence = {"top_k": 4, "normalisation": "micro_batch_mean"}
    this = run(rows, task={"coef": 0.0}, divergence=divergence)(keys=[keys[0], ["b_0_0"], keys[1]])
    assert this.trainer.updated == keys


def test_the_solution_is_the_success_that_was_begun_first(run):
    """A batch has rows in the order in which they were done."""
    rows = {
        "a_2_0": row("a", "cc", 1.0),
        "a_10_0": row("a", "xy", 0.0),
        "a_1_0": row("a", "aabb", 1.0),
    }
    prompt, _ = run(rows)().read("a_10_0")
    assert "aabb" in prompt
