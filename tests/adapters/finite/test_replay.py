"""The command that makes a stopped step's NaN again from its file."""

import pytest
import torch
from adapters.finite.stops import INF, NAN, batch, filled, stopped

from verl_ext.adapters import replay
from verl_ext.adapters.trainer import finite
from verl_ext.cli.main import main


def replayed(tmp_path, stage, *options):
    return main(["replay", str(tmp_path / "run" / f"not_finite_step_7_{stage}.pt"), *options])


def test_a_reward_is_given_again_by_the_runs_own_function(trainer, tmp_path, capsys):
    stopped(trainer(), "rewards", "rm_scores", filled(NAN, (0, 2), (1, 1)))
    assert replayed(tmp_path, "rewards") == 0
    said = capsys.readouterr().out
    assert "a_0_0: toy, 3 tokens, first at token 2 (id 99)" in said
    assert "no number again  a_0_0: the reward function gives {'score': nan}" in said
    assert "a number now     a_1_0: the reward function gives {'score': 1.0}" in said


def test_an_advantage_is_computed_again_from_the_whole_group(trainer, tmp_path, capsys):
    made = trainer()
    made.queue.columns["rm_scores"][1][-1] = INF
    stopped(made, "advantages", "advantages", filled(NAN, (0, 0), (1, 0)))
    assert replayed(tmp_path, "advantages") == 0
    said = capsys.readouterr().out
    assert "no number again  a_0_0: reward 1, advantages no number in" in said
    assert "no number again  a_1_0: reward inf" in said


def test_an_advantage_that_is_a_number_now_is_said_to_be(trainer, tmp_path, capsys):
    stopped(trainer(), "advantages", "advantages", filled(NAN, (2, 0)))
    assert replayed(tmp_path, "advantages") == 1
    said = capsys.readouterr().out
    assert "a number now     b_0_0: reward 0, advantages from" in said
    assert "not reproduced" in said


@pytest.mark.parametrize("mixer", ["verl_ext.opd", "verl_ext.sdpo"])
@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("verl_ext.w_reinforce", {"positive_weight": 0.25}, "from 0 to 0.25"),
        ("verl_ext.task_norm", {"eps": 0.5}, "from 0 to 0.4641"),  # .5 / (√(1/3) + .5)
        ("verl_ext.rank", {"eps": 0.5}, "from 0 to 0.4142"),  # .5 / (√½ + .5)
        ("grpo", {}, "from 0 to 0.7071"),
        (None, {}, "from 0 to 0"),
    ],
)
def test_a_mix_gives_its_tasks_advantage_again(
    trainer, tmp_path, capsys, mixer, task, arguments, said
):
    mix = {"task_estimator": task, "task_weight": 2.0, "task_arguments": arguments, "coef": 0.5}
    made = trainer(advantage=mix if task else {"coef": 0.5})
    made.config.algorithm.adv_estimator = mixer
    stopped(made, "advantages", "advantages", filled(NAN, (0, 0)))
    assert replayed(tmp_path, "advantages") == 1
    assert f"a_0_0: reward 1, advantages {said}" in capsys.readouterr().out


def test_tasks_of_a_column_of_ones_own_are_kept_with_the_rows(trainer, tmp_path, capsys):
    made = trainer(advantage={"eps": 0.5}, task_key="kind")
    made.config.algorithm.adv_estimator = "verl_ext.task_norm"
    made.queue.columns["kind"] = ["x", "x", "y", "y"]
    stopped(made, "advantages", "advantages", filled(NAN, (0, 0)))
    assert replayed(tmp_path, "advantages") == 1
    # .5 / (√½ + .5): each task's own spread
    assert "a_0_0: reward 1, advantages from 0 to 0.4142" in capsys.readouterr().out


@pytest.fixture(scope="module")
def broken(model, tmp_path_factory):
    """The toy's policy with a weight that is none."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("broken")
    loaded = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        loaded.model.layers[0].mlp.up_proj.weight[0, 0] = NAN
    loaded.save_pretrained(folder)
    return folder


def test_log_probs_are_computed_again_with_the_weights_one_names(trainer, tmp_path, broken, capsys):
    stopped(trainer(), "log_probs", "old_log_probs", filled(NAN, (2, 0)))
    assert replayed(tmp_path, "log_probs") == 1  # the run's first weights are sound
    assert "a number now     b_0_0: log-probs from -" in capsys.readouterr().out
    assert replayed(tmp_path, "log_probs", "--model", str(broken)) == 0
    assert "no number again  b_0_0: log-probs no number in 4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["ref", "trust_region", None])
def test_a_reference_is_the_teacher_that_the_reference_worker_holds(
    trainer, tmp_path, broken, capsys, source
):
    teacher = {"source": source, "path": str(broken)} if source else None
    stopped(trainer(teacher=teacher), "reference", "ref_log_prob", filled(NAN, (2, 0)))
    assert replayed(tmp_path, "reference") == int(source != "ref")
    stopped(trainer(teacher=teacher), "log_probs", "old_log_probs", filled(NAN, (2, 0)))
    assert replayed(tmp_path, "log_probs") == 1  # the policy's own


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_are_those_of_each_token_after_all_before_it(model, temperature):
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    prompt, response = torch.tensor([104, 105, 106]), torch.tensor([97, 98, 99])
    expected = []
    for place in range(3):
        seen = torch.cat([prompt, response[:place]]).unsqueeze(0)
        last = policy(seen).logits[0, -1] / temperature
        expected.append((last[response[place]] - last.logsumexp(-1)).item())
    found = replay._log_probs(policy, prompt, response, temperature)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_an_update_is_done_again_row_by_row(trainer, tmp_path, capsys):
    made = trainer()
    advantages = filled(0.5, *((row, 0) for row in range(4)))
    old = filled(-1.0)
    old[2][1] = -1e4  # a ratio that overflows
    advantages[2][1] = 1.0
    made.queue.write("advantages", advantages)
    made.queue.write("old_log_probs", old)
    made.logged = {"actor/grad_norm": NAN}
    with pytest.raises(finite.NotFiniteError):
        made._update_actor(batch(), {})
    assert replayed(tmp_path, "update") == 0
    said = capsys.readouterr().out
    assert said.count("a number now") == 3
    assert "no number again  b_0_0: log-probs from" in said


def test_a_file_that_is_none_of_ours_is_refused(tmp_path, capsys):
    torch.save({"version": 0}, tmp_path / "x.pt")
    assert main(["replay", str(tmp_path / "x.pt")]) == 2
    assert "is no file of a stopped step" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "nothing.pt")]) == 2
