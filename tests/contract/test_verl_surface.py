"""Every private symbol of verl, Ray, vLLM, Megatron and Hydra that we override or read.

When an upgrade moves one of them, this file fails and nothing else has to be searched. The other
end of each thread is named in `docs/verl_surface.md`.
"""

import importlib
import inspect

import pytest
import verl  # loads the plugin  # noqa: F401
from contract.signatures import SIGNATURES
from contract.sources import SOURCES


def resolve(path):
    module, _, attributes = path.partition(":")
    value = importlib.import_module(module)
    for name in attributes.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature_is_the_one_we_call_or_override(path):
    parameters = list(inspect.signature(inspect.unwrap(resolve(path))).parameters)
    expected = SIGNATURES[path]
    assert parameters[: len(expected)] == expected


@pytest.mark.parametrize("path", SOURCES)
def test_source_still_contains_what_we_count_on(path):
    value = resolve(path)
    source = inspect.getsource(inspect.unwrap(value))
    for line in SOURCES[path]:
        assert line in source, f"{path} no longer contains: {line}"


def test_an_agent_loop_worker_hands_each_session_its_number_and_the_prompts_fields():
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    worker = AgentLoopWorkerTQ.__ray_actor_class__
    assert "session_id=i, **prompt" in inspect.getsource(worker._run_prompt)
    assert 'f"{uid}_{session_id}_{i}"' in inspect.getsource(worker._agent_loop_postprocess)


def test_verl_asks_the_teacher_of_a_sessions_last_output_alone():
    """Once it asks for all, ours must not."""
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    source = inspect.getsource(AgentLoopWorkerTQ.__ray_actor_class__._agent_loop_postprocess)
    assert source.count("self._compute_teacher_logprobs(") == 1
    assert "prompt_ids=final_output.prompt_ids" in source
    assert "sample_kwargs=kwargs" in source
    assert source.index("_compute_teacher_logprobs(") < source.index("output.as_dict()")


def test_a_row_keeps_its_chat_and_an_outputs_score_is_the_sessions():
    """What a policy's own teacher is made of."""
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    source = inspect.getsource(AgentLoopWorkerTQ.__ray_actor_class__._agent_loop_postprocess)
    assert "field.update(kwargs)" in source  # raw_prompt among them
    assert 'extra_fields["reward_extra_info"]' in source


def test_fsdp2_keeps_what_it_has_gathered_unless_it_is_told_not_to():
    """Why exchanged weights are resharded first."""
    from torch.distributed.fsdp import FSDPModule

    assert callable(FSDPModule.reshard)


def test_a_session_that_raises_makes_its_prompt_a_failure_and_no_more():
    """Why a worker has to tell the trainer by the queue."""
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    source = inspect.getsource(AgentLoopWorkerTQ.__ray_actor_class__._run_prompt)
    assert "session_errors = await _settle_session_tasks(tasks)" in source
    assert 'status = "failure"' in source


def test_the_trainer_exists_before_the_agent_loop_manager_is_looked_up():
    from verl.trainer.main_ppo import TaskRunnerV1

    runner = TaskRunnerV1.__ray_actor_class__
    run = inspect.getsource(runner.run)
    assert run.index("trainer_cls(config=config)") < run.index("self.init_agent_loop_manager()")
    manager = inspect.getsource(runner.init_agent_loop_manager)
    assert '"agent_loop_manager_class"' in manager


def test_the_tracker_is_written_after_everything_else_of_a_checkpoint():
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    save = inspect.getsource(PPOTrainer._save_checkpoint)
    assert save.index('"data.pt"') < save.index('"latest_checkpointed_iteration.txt"')


def test_a_checkpoint_is_written_when_the_step_is_over():
    """Masks and averages move at its end, and their state must hold it; servers still sleep."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    fit = inspect.getsource(PPOTrainer.fit)
    assert fit.index("self.step(metrics") < fit.index("self._save_checkpoint()")
    assert fit.index("self.step(metrics") < fit.index("self.on_step_end()")


def test_main_ppo_validates_before_it_starts_ray_and_looks_the_trainer_up_by_our_name():
    source = inspect.getsource(importlib.import_module("verl.trainer.main_ppo"))
    main = source[source.index("def main(config)") :]
    assert main.index("validate_config(") < main.index("run_ppo(")
    assert "get_trainer_cls(config.trainer.v1.trainer_mode)" in source


def test_a_prompts_sessions_can_wait_for_each_other():
    """The group stage: they are tasks of one coroutine, and settled before its end."""
    from verl.trainer.ppo.v1 import trainer_base
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    worker = AgentLoopWorkerTQ.__ray_actor_class__
    source = inspect.getsource(worker._run_prompt)
    for line in (
        'uid, partition_id = prompt["uid"], "train" if not trajectory["validate"] else "val"',
        'n = prompt.pop("__rollout_n__", config.n if not trajectory["validate"]',
        "self._run_agent_loop(",
        "session_errors = await _settle_session_tasks(tasks)",
    ):
        assert line in source
    assert source.index("_settle_session_tasks(tasks)") < source.index('status = "finished"')
    assert "sampling_params, trajectory=trajectory, trace=trace" in source
    published = inspect.getsource(worker._agent_loop_postprocess)
    assert published.index("self._compute_score(") < published.index("kv_batch_put(")
    scored = inspect.getsource(worker.__mro__[1]._compute_score)
    assert "if final_output.reward_score is None and enable_async_reward" in scored
    params = {}
    trainer_base.apply_greedy_sampling_params(params)
    assert params == {"temperature": 0, "top_p": 1.0, "top_k": -1}


def test_the_policys_servers_have_addresses_and_failed_groups_are_replaced():
    from verl.trainer.ppo.v1 import replay_buffer, trainer_base
    from verl.workers.rollout.llm_server import LLMServerManager

    assert "return self.server_addresses" in inspect.getsource(LLMServerManager.get_addresses)
    source = inspect.getsource(trainer_base.PPOTrainer._build_replay_buffer)
    assert 'sampler_config.get("sync_refill_failed_groups", False)' in source
    signature = inspect.signature(replay_buffer.ReplayBuffer._evict_terminal_groups)
    assert list(signature.parameters) == [
        "self", "global_steps", "partition_id", "eviction_reasons",
    ]  # fmt: skip
    evict = inspect.getsource(replay_buffer.ReplayBuffer._evict_terminal_groups)
    assert "stale_uids, dapo_uids, failed_uids, dapo_counts = eviction_reasons" in evict


def test_verl_fills_places_by_what_is_pending_or_running_at_its_last_look():
    """Why ``deterministic`` fills them while anything is under way."""
    from verl.trainer.ppo.v1 import replay_buffer

    source = inspect.getsource(replay_buffer.ReplayBuffer.sample)
    reasons = source.index("self._terminal_eviction_reasons(")
    waiting = "len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])"
    counted = source.index(f"inflight_count = {waiting}")
    assert reasons < counted < source.index("max_inflight_prompts - inflight_count")
    assert "max_inflight_prompts = self.max_inflight_gen_batches * self.train_batch_size" in source
    look = inspect.getsource(replay_buffer.ReplayBuffer._sync_metadata_from_transfer_queue)
    assert "self.pending_keys.clear()" in look
