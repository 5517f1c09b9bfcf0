"""Whole runs of a policy that teaches itself; tests/engine_parity has the numbers."""

import pytest
import torch
from runs.launch import largest_move, same_weights, saved_weights, train, without_clocks
from safetensors.torch import load_file

from verl_ext.toy import world

ENGINES = ("dp", "megatron")

SHORT = ["+scale=cpu", "trainer.val_before_train=false", "trainer.test_freq=-1"]


def check(metrics, steps):
    assert set(metrics) == set(range(1, steps + 1))
    for step in metrics.values():
        assert step["training/rollout_probs_diff_max"] < 1e-4
        # The log-probs are our kernel's in the update and verl's before it.
        assert abs(step["actor/ppo_kl"]) < 1e-5
        assert 0.2 < step["verl_ext/teacher/prompt/taught"] < 1
        assert step["verl_ext/teacher/support_non_finite"] == 0.0
        assert step["verl_ext/divergence/value"] > 0
        assert step["verl_ext/divergence/top_k_overlap"] == pytest.approx(1)  # one update a step
        assert 0 <= step["verl_ext/divergence/student_tail"] < 0.1
        assert step["actor/grad_norm"] > 0


STEPS, SAVED = 3, 2


def run(folder, *overrides):
    folder.mkdir()
    _, metrics = train(
        folder,
        "+paper=sdpo",
        *SHORT,
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={STEPS}",
        *overrides,
    )
    return metrics


EVERY = [(engine, source) for engine in ENGINES for source in ("ema", "self", "trust_region")]


@pytest.mark.run
@pytest.mark.parametrize(
    ("engine", "source"),
    [
        case if case == ("dp", "ema") else pytest.param(*case, marks=pytest.mark.wide)
        for case in EVERY
    ],
)
def test_a_policy_that_teaches_itself_resumes_to_the_bit(tmp_path, engine, source):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    settings = [f"model_engine={engine}", f"algorithm.verl_ext.teacher.source={source}"]
    expected = run(whole, *settings, f"trainer.save_freq={SAVED}")
    check(expected, steps=STEPS)
    distances = [step.get("verl_ext/teacher/ema_distance") for step in expected.values()]
    if source == "ema":
        assert distances == sorted(distances)
        assert distances[-1] > distances[0]  # the average lags behind
    else:
        assert distances == [None] * STEPS
    assert largest_move(whole, STEPS, "sdpo") > 1e-3  # or equality would say nothing

    found = run(
        resumed,
        *settings,
        f"trainer.save_freq={STEPS}",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={whole}/checkpoints/global_step_{SAVED}",
    )
    assert {step: without_clocks(values) for step, values in found.items()} == {
        STEPS: without_clocks(expected[STEPS])
    }
    assert same_weights(whole, resumed, STEPS)
    averages = [average_of(folder / "checkpoints", STEPS) for folder in (whole, resumed)]
    assert all(bool(average) == (source == "ema") for average in averages)
    assert all(averages[0][name].equal(averages[1][name]) for name in averages[0])


@pytest.mark.run
@pytest.mark.wide
def test_the_average_of_a_policy_in_bfloat16_is_exact(tmp_path):
    """Against a float64 average of the weights that the run saved at every step."""
    rate, folder = 0.05, tmp_path / "run"
    bf16 = [
        f"actor_rollout_ref.actor.fsdp_config.{key}=bfloat16" for key in ("dtype", "model_dtype")
    ]
    metrics = run(folder, *bf16, "trainer.save_freq=1", f"algorithm.verl_ext.teacher.rate={rate}")
    assert all(step["verl_ext/teacher/prompt/taught"] > 0 for step in metrics.values())

    start = load_file(world.ensure("sdpo").model / "model.safetensors")
    average = {name: weight.bfloat16().double() for name, weight in start.items()}
    for step in range(1, STEPS + 1):
        saved = saved_weights(folder / "checkpoints", step)
        assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
        for name, mean in average.items():
            mean.add_(rate * (saved[name].double() - mean))
        found = average_of(folder / "checkpoints", step)
        assert found.keys() == average.keys()
        for name, mean in average.items():
            assert found[name].dtype == torch.float32
            # Of a weight near 0 a millionth of how far the average moves a step: 0.05 of 2e-3.
            torch.testing.assert_close(found[name].double(), mean, rtol=1e-6, atol=1e-10)
    assert largest_move(folder, STEPS, "sdpo") > 1e-3


def average_of(checkpoints, step):
    """The averaged teacher's weights in a checkpoint of one rank, by name; empty without one."""
    files = list((checkpoints / f"global_step_{step}").rglob("verl_ext_ema_*.pt"))
    assert len(files) < 2
    return torch.load(files[0], weights_only=True)["weights"] if files else {}


@pytest.mark.run
@pytest.mark.wide
def test_feedback_and_a_task_teach_on_megatron_within_a_trust_region(tmp_path):
    """Two tensor-parallel ranks; the reference worker has both a KL and the teacher to serve."""
    _, metrics = train(
        tmp_path,
        "model_engine=megatron",
        "+paper=sdpo_rich_feedback",
        *SHORT,
        "algorithm.verl_ext.teacher.source=trust_region",
        "algorithm.verl_ext.teacher.hints.feedback_only_without_solution=false",
        "algorithm.verl_ext.advantage.task_estimator=grpo",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2",
    )
    check(metrics, steps=2)
    for step in metrics.values():
        # A success without a sibling that succeeded is all that nobody teaches.
        failed = 1 - step["critic/rewards/mean"]
        assert step["verl_ext/teacher/prompt/taught"] >= failed
    assert metrics[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-5)
    assert metrics[2]["actor/kl_loss"] > 0
