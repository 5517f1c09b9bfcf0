"""NaN at each stage stops the run with a file, from which one command makes it again."""

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from transfer_queue import KVBatchMeta

from verl_ext.adapters import replay
from verl_ext.adapters.trainer import finite
from verl_ext.cli.main import main
from verl_ext.toy import world

KEYS = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
LENGTHS = (3, 2, 4, 1)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model():
    """The toy's policy."""
    return world.ensure("w_reinforce").model


def jagged(rows):
    return torch.nested.as_nested_tensor(
        [torch.as_tensor(row) for row in rows], layout=torch.jagged
    )


class Queue:
    """verl's queue of one batch."""

    def __init__(self):
        self.columns = {
            "prompts": [torch.tensor([104, 105, 106 + n]) for n in range(4)],
            "responses": [torch.arange(97, 97 + n) for n in LENGTHS],
            "response_mask": [torch.ones(n, dtype=torch.long) for n in LENGTHS],
            "rm_scores": [torch.tensor([0.0] * (n - 1) + [float(n % 2)]) for n in LENGTHS],
            "entropy": [torch.ones(n) for n in LENGTHS],
            "uid": ["a", "a", "b", "b"],
            "data_source": ["toy"] * 4,
            "reward_model": [{"ground_truth": "abc", "style": "rule"}] * 4,
        }

    def get(self, keys, partition_id, select_fields):
        rows = [KEYS.index(key) for key in keys]
        found = {}
        for name in select_fields:
            if name in self.columns:
                values = [self.columns[name][row] for row in rows]
                tensors = isinstance(values[0], torch.Tensor)
                found[name] = jagged(values) if tensors else NonTensorStack(*values)
        return TensorDict(found, batch_size=len(rows))

    def write(self, name, values):
        self.columns[name] = [torch.tensor(row) for row in values]


class Base:
    """verl's trainer: each stage writes what it is told to."""

    def __init__(self, config):
        self.config, self.global_steps, self.writes, self.logged = config, 7, {}, {}

    def _stage(self, name, batch):
        for column, values in self.writes.get(name, {}).items():
            self.queue.write(column, values)
        return batch

    def _balance_batch(self, batch, metrics):
        return self._stage("rewards", batch)

    def _compute_old_log_prob(self, batch, metrics):
        return self._stage("log_probs", batch)

    def _compute_ref_log_prob(self, batch, metrics):
        return self._stage("reference", batch)

    def _compute_advantage(self, batch, metrics):
        return self._stage("advantages", batch)

    def _update_actor(self, batch, metrics):
        metrics.update(self.logged)
        return batch


class Trainer(finite.Finite, Base):
    pass


REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float("nan") if len(solution_str) == 3 else 1.0}
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch, model):
    def made(servers_too=False, **ours):
        (tmp_path / "reward.py").write_text(REWARD)
        custom = {"path": str(tmp_path / "reward.py"), "name": "score", "reward_kwargs": {}}
        config = {
            "algorithm": {
                "adv_estimator": "grpo", "gamma": 1.0, "lam": 1.0,
                "norm_adv_by_std_in_grpo": True, "verl_ext": ours,
            },
            "actor_rollout_ref": {
                "rollout": {"n": 2, "temperature": 1.0, "calculate_log_probs": servers_too},
                "model": {"path": str(model)},
            },
            "trainer": {"default_local_dir": str(tmp_path / "run")},
            "reward": {"custom_reward_function": custom},
        }  # fmt: skip
        result = Trainer(OmegaConf.create(config))
        result.queue = Queue()
        monkeypatch.setattr(finite.tq, "kv_batch_get", result.queue.get)
        return result

    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    return made


def batch(partition="train", padding=()):
    tags = [{"is_padding": key in padding} for key in KEYS]
    return KVBatchMeta(keys=list(KEYS), tags=tags, partition_id=partition)


def filled(value, *places):
    """(rows, time) of zeros, but for some places."""
    rows = [[0.0] * n for n in LENGTHS]
    for row, token in places:
        rows[row][token] = value
    return rows


STAGES = {
    "rewards": ("_balance_batch", "rm_scores"),
    "log_probs": ("_compute_old_log_prob", "old_log_probs"),
    "reference": ("_compute_ref_log_prob", "ref_log_prob"),
    "advantages": ("_compute_advantage", "advantages"),
}


def stopped(made, stage, field, values, **how):
    made.writes = {stage: {field: values}}
    with pytest.raises(finite.NotFiniteError) as error:
        getattr(made, STAGES[stage][0])(batch(**how), {})
    return str(error.value)


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


# The command.


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
