"""Every private symbol of verl, Ray, vLLM, Megatron and Hydra that we override or read.

When an upgrade moves one of them, this file fails and nothing else has to be searched. The other
end of each thread is named in `docs/verl_surface.md`.
"""

import importlib
import inspect

import pytest
import verl  # loads the plugin  # noqa: F401

SIGNATURES = {
    "verl.checkpoint_engine.base:CheckpointEngine.prepare": ["self"],
    "verl.checkpoint_engine.base:CheckpointEngine.build_topology": [
        "actor_wg_world_size", "rollout_world_size", "metadata",
    ],
    "verl.checkpoint_engine.base:CheckpointEngine.init_process_group": ["self"],
    "verl.checkpoint_engine.base:CheckpointEngine.finalize": ["self"],
    "verl.checkpoint_engine.base:CheckpointEngine.send_weights": [
        "self", "weights", "global_steps",
    ],
    "verl.checkpoint_engine.base:CheckpointEngine.receive_weights": ["self", "global_steps"],
    "verl.checkpoint_engine.base:CheckpointEngineRegistry.register": ["backend"],
    "verl.workers.rollout.utils:ensure_async_iterator": ["iterable"],
    "verl.utils.fsdp_utils:fsdp2_sharded_save_to_cpu": ["model"],
    "verl.utils.megatron_utils:copy_megatron_model_to_cpu": ["models"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_old_log_prob": [
        "self", "batch", "metrics",
    ],
    "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories": [
        "data", "batch_keys", "adv_estimator", "gamma", "lam", "num_repeat",
        "norm_adv_by_std_in_grpo", "config",
    ],
    "verl.trainer.ppo.reward:get_custom_reward_fn": ["config"],
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": [
        "self", "outputs", "kwargs",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._balance_batch": ["self", "batch", "metrics"],
    "verl.utils.tensordict_utils:list_of_dict_to_tensordict": ["list_of_dicts"],
    "verl.trainer.ppo.core_algos:register_adv_est": ["name_or_enum"],
    "verl.trainer.ppo.ray_trainer:compute_advantage": [
        "data", "adv_estimator", "gamma", "lam", "num_repeat", "norm_adv_by_std_in_grpo", "config",
    ],
    "verl.trainer.ppo.v1.trainer_base:register_trainer": ["name"],
    "verl.trainer.ppo.v1.trainer_base:get_trainer_cls": ["name"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.__init__": ["self", "config"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._build_replay_buffer": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_advantage": ["self", "batch", "metrics"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._update_actor": ["self", "batch", "metrics"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._init_resource_pool_mgr": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_ref_log_prob": [
        "self", "batch", "metrics",
    ],
    "verl.workers.engine_workers:ActorRolloutRefWorker.init_model": ["self"],
    "verl.workers.engine_workers:ActorRolloutRefWorker.update_actor": ["self", "data"],
    "verl.workers.engine_workers:ActorRolloutRefWorker.save_checkpoint": ["self", "local_path"],
    "verl.workers.engine_workers:ActorRolloutRefWorker.load_checkpoint": ["self", "local_path"],
    "verl.workers.engine_workers:TrainingWorker.infer_batch": ["self", "data"],
    "verl.workers.engine.base:BaseEngineCtx.__init__": ["self", "engine", "mode"],
    "verl.utils.tokenizer.continuous_token_wiring:create_continuous_token_builder": ["tokenizer"],
    "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder.build_initial_tokens": [
        "self", "messages", "tools",
    ],
    "verl.tools.tool_registry:load_all_tools": ["tool_config_path", "function_tool_path"],
    "verl.utils.import_utils:resolve_config_path": ["config_path"],
    "transfer_queue:kv_clear": ["keys", "partition_id"],
    "verl.workers.engine_workers:TrainingWorker.__init__": ["self", "config"],
    "verl.workers.engine_workers:TrainingWorker.set_loss_fn": ["self", "loss_fn"],
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.forward_step": [
        "self", "micro_batch", "loss_function", "forward_only",
    ],
    "verl.workers.utils.losses:ppo_loss": ["config", "model_output", "data", "dp_group"],
    "verl.trainer.ppo.core_algos:agg_loss": ["loss_mat", "loss_mask", "loss_agg_mode"],
    "verl.workers.utils.padding:no_padding_2_padding": ["tensor", "data"],
    "verl.workers.utils.padding:response_from_nested": ["tensor", "response_mask"],
    "verl.utils.ulysses:get_ulysses_sequence_parallel_group": [],
    "verl.utils.ulysses:slice_input_tensor": ["x", "dim"],
    "verl.models.mcore.util:preprocess_thd_engine": ["input_ids", "pre_process"],
    "verl.models.mcore.util:preprocess_bshd_engine": ["input_ids", "pre_process"],
    "verl.utils.tokenizer:hf_tokenizer": ["name_or_path"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._init_dataloader": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._fetch_one_gen_batch": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._next_train_batch": ["self", "num_prompts"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._add_prompts_to_generate": ["self", "num_prompts"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._save_checkpoint": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._load_checkpoint": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_metrics": [
        "self", "batch", "metrics", "timing_raw", "global_steps", "epoch",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.get_llm_client": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.on_validate_begin": ["self"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.on_validate_end": ["self"],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._terminal_eviction_reasons": [
        "self", "global_steps", "partition_id",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._dapo_filtered_keys": ["self", "partition_id"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.step": ["self", "metrics", "timing_raw"],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._sampleable_terminal_keys": [
        "self", "partition_id", "eviction_reasons",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._select_prompt_uids": [
        "self", "partition_id", "sampleable_keys", "batch_size",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._materialize_batch": [
        "self", "partition_id", "selected_prompt_uids", "partition_snapshot",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._clear_groups": [
        "self", "partition_id", "uids",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync.wait_for_sampleable": [
        "self", "global_steps", "partition_id", "target_count",
    ],
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.generate_sequences": ["self", "prompts"],
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._run_agent_loop": [
        "self", "sampling_params", "trajectory", "agent_name", "trace",
    ],
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_teacher_logprobs": [
        "self", "output", "prompt_ids", "response_ids", "validate", "sample_kwargs",
    ],
    "verl.experimental.teacher_loop.teacher_manager:AsyncTeacherLLMServerManager"
    "._resolve_teacher_key": ["self", "routing_key"],
    "verl.trainer.ppo.utils:need_teacher_policy": ["config"],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._sync_metadata_from_transfer_queue": ["self"],
    "transfer_queue:async_kv_put": ["key", "partition_id", "fields", "tag"],
    "verl.workers.rollout.llm_server:LLMServerClient.generate": [
        "self", "request_id", "prompt_ids", "sampling_params",
    ],
    "verl.workers.rollout.llm_server:LLMServerManager.get_client": ["self", "client_cls"],
    "verl.utils.dataset.rl_dataset:collate_fn": ["data_list"],
    "verl.utils.tensordict_utils:assign_non_tensor_stack": ["tensor_dict", "key", "val"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._val_metrics_update": [
        "self", "data_sources", "sample_uids", "reward_extra_infos_dict", "sample_turns",
        "expected_acc_counts",
    ],
    "verl.utils.seqlen_balancing:get_seqlen_balanced_partitions": [
        "seqlen_list", "k_partitions", "equal_size",
    ],
    "verl.workers.utils.padding:response_to_nested": ["tensor", "response_mask"],
    "verl.utils.config:validate_config": ["config", "use_reference_policy", "use_critic"],
    "verl.utils.distributed:initialize_global_process_group_ray": ["timeout_second", "backend"],
    "verl.workers.engine.base:EngineRegistry.register": [
        "model_type", "backend", "device", "vendor",
    ],
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightReceiver"
    ".receive_weights": ["self", "on_bucket_received"],
    "verl.plugin.platform.platform_manager:PlatformRegistry.register": ["platform"],
    "verl.plugin.platform.platform_manager:get_platform": [],
    "verl.plugin.platform.platform_manager:set_platform": ["platform"],
    "transfer_queue:kv_batch_get": ["keys", "partition_id", "select_fields"],
    "transfer_queue:kv_batch_put": ["keys", "partition_id", "fields", "tags"],
    "transfer_queue:kv_list": ["partition_id"],
    "transfer_queue:KVBatchMeta.select_keys": ["self", "keys_to_select"],
    "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm": ["layer", "remove_weight"],
    "verl.workers.config.engine:McoreEngineConfig.__post_init__": ["self"],
    "verl.workers.engine.megatron.transformer_impl:MegatronEngineWithLMHead.forward_step": [
        "self", "batch_iter", "model", "logits_processor_func", "postprocess_micro_batch_func",
    ],
    "verl.trainer.ppo.utils:need_reference_policy": ["config"],
    "verl.trainer.ppo.utils:need_critic": ["config"],
    "megatron.core.jit:disable_jit_fuser": [],
    "megatron.core.models.backends:BackendSpecProvider.grouped_mlp_modules": [
        "self", "moe_use_grouped_gemm", "moe_use_legacy_grouped_gemm",
    ],
    "megatron.core.tensor_parallel.mappings:gather_from_sequence_parallel_region": [
        "input_", "tensor_parallel_output_grad", "group",
    ],
    "megatron.core.tensor_parallel.layers:set_tensor_model_parallel_attributes": [
        "tensor", "is_parallel", "dim", "stride",
    ],
    "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer"
    "._set_main_param_and_optimizer_states": ["self", "model_param", "tensors"],
    "ray._private.utils:read_ray_address": ["temp_dir"],
    "ray._private.runtime_env.py_executable:PyExecutablePlugin.modify_context": [
        "self", "uris", "runtime_env", "context", "logger",
    ],
    "multiprocessing.spawn:set_executable": ["exe"],
    "ray._private.ray_logging:WorkerStandardStreamDispatcher.add_handler": [
        "self", "name", "handler",
    ],
    "ray._private.ray_logging:WorkerStandardStreamDispatcher.remove_handler": ["self", "name"],
}  # fmt: skip

# Lines we count on inside functions, with what breaks when they go.
SOURCES = {
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._build_replay_buffer": [
        'sampler_cls = ReplayBuffer if self.trainer_mode == "sync"',  # why base_mode is set back
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._resolve_filter_groups_metric": [
        'filter_groups.get("enable", False)',  # what the std filter sets to resample
        "if not filter_enabled:",
        "streaming_reward_path = not reward_model.enable or reward_model.enable_resource_pool",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._terminal_eviction_reasons": [
        "dapo_uids, dapo_counts = self._dapo_filtered_keys(partition_id)",  # ours in its place
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync._terminal_eviction_reasons": [
        "dapo_uids, dapo_counts = self._dapo_filtered_keys(partition_id)",
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._dapo_filtered_keys": [
        "finished_uids = self.finished_keys[partition_id]",  # failed prompts are not judged
        "value.sum().item()",  # a row's reward, before any KL penalty
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.sample": [
        "refill_credit += 2 * dapo_count + failed_count",  # how many replace one, in our tests
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.step": [
        "for trigger_idx in range(self.parameter_sync_step):",  # several updates, one end
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll": [
        "time.sleep(self.poll_interval)",  # sampler_kwargs.poll_interval
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._update_actor": [
        "self.actor_rollout_wg.update_actor(batch)",
        "ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n",  # rows of a mini-batch
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._balance_batch": [
        'role, worker_group = "actor", self.actor_rollout_wg',  # _dispatch_info["actor"]
        "dp_rank_mapping = worker_group._query_dispatch_info(role)",
        "dp_size = max(dp_rank_mapping) + 1",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_old_log_prob": [
        'fields=data.select("old_log_probs", "entropy")',  # the entropy that masks may need
    ],
    "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories": [
        "if adv_estimator != core_algos.AdvantageEstimator.GRPO:",  # so we count
    ],
    "verl.trainer.ppo.padding_utils:construct_minimal_padding_template": [
        "is_padding=True",  # the rows that belong to no session
        "response_mask = torch.zeros_like(responses)",
    ],
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_teacher_logprobs": [
        "self.distillation_enabled and not validate",  # a validation asks no teacher
        "sample_kwargs.get(self.teacher_key)",  # the label we look up too
        'output.extra_fields["teacher_logprobs"] = teacher_logprobs',  # where we find them
    ],
    "verl.experimental.teacher_loop.teacher_manager:AsyncTeacherLLMServerManager"
    ".compute_teacher_logprobs_single": [
        'teacher_output.extra_fields["prompt_logprobs"]',  # a KeyError where a request is aborted
        "== len(sequence_ids)",  # an AssertionError where the answer is short
    ],
    "verl.experimental.teacher_loop.teacher_manager:AsyncTeacherLLMServerManager.__init__": [
        "self.teacher_model_configs",  # whose model_path our message names
        "self.distillation_loss_config",  # how wide the answers are
    ],
    "verl.workers.rollout.vllm_rollout.utils:extract_prompt_logprobs": [
        "in output.prompt_logprobs[1:]",  # entry i is about token i + 1
        "pad a dummy prompt logprob for last prompt token",
    ],
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": [
        "if final_output.reward_score is None and enable_async_reward",  # a reward of ours stays
    ],
    "verl.experimental.agent_loop.agent_loop:AgentLoopOutput.as_dict": [
        'extra_fields.pop("teacher_logprobs", None)',  # the rest of extra_fields stays a field
    ],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._sync_metadata_from_transfer_queue": [
        "data = tq.kv_list()",  # all partitions, so ours too
        "partition[key].update(tag)",
    ],
    "verl.workers.config.distillation:DistillationConfig._resolve_teacher_models": [
        'self.teacher_models.pop("teacher_model")',  # no teacher beside others
        'teacher_model.key = "default"',
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._fetch_one_gen_batch": [
        "next(self.train_dataloader_it)",  # where replacements are put in
        'batch_dict["uid"]',  # which numbered prompts replace
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._init_dataloader": [
        "self.config.data.gen_batch_size = 1",  # where prompts may be replaced
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._load_checkpoint": [
        'os.path.join(global_step_folder, "data.pt")',
        "self.train_dataloader.load_state_dict(dataloader_state_dict)",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._validate": [
        'tu.assign_non_tensor_data(batch, "validate", True)',  # tells validation from training
    ],
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.forward_backward_batch": [
        'batch_num_tokens = data["loss_mask"].sum()',  # why masks write loss_mask too
    ],
    "verl.workers.engine.megatron.transformer_impl:MegatronEngine.forward_backward_batch": [
        'loss_mask = data["loss_mask"]',  # the same on Megatron
    ],
    "verl.workers.engine.megatron.transformer_impl:MegatronEngine.to": [
        'elif device == "cpu":',  # why offload would have no effect on a CPU
    ],
    "verl.workers.engine_workers:ActorRolloutRefWorker.init_model": [
        "self.ref = self.ref_worker_cls(config=ref_training_config)",  # where the teacher comes in
        "self.loss_fn = partial(ppo_loss, config=actor_config)",  # whose config our loss takes
    ],
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_outputs": [
        "logits_processor_func(student_logits=logits_rmpad.unsqueeze(0), data=micro_batch)",
        'if not distillation_only:\n            model_output["log_probs"] = log_probs',  # ours stay
    ],
    "verl.workers.engine.megatron.transformer_impl:MegatronEngineWithLMHead"
    "._lm_head_logits_processor": [
        "student_logits=logits_bak, data=batch, data_format=data_format",
        'if not distillation_only:\n            ret["log_probs"]',
    ],
    "verl.workers.engine_workers:TrainingWorker.infer_batch": [
        "loss_function = self.loss_fn if compute_loss else None",  # how we hand in a processor
        'disable_auto_offload = tu.get(data, key="disable_auto_offload", default=False)',
    ],
    "verl.workers.engine_workers:ActorRolloutRefWorker.compute_log_prob": [
        "self.actor.infer_batch(data)",  # as a policy's own teacher is asked
    ],
    "verl.workers.engine.base:BaseEngineCtx._context_switch": [
        "if self.disable_auto_offload:",  # weights stay where the outer mode has put them
    ],
    "verl.workers.engine.utils:prepare_micro_batches": [
        "total_data_size % (force_group_size * micro_batch_size_per_gpu) == 0",  # rows we add
    ],
    "verl.utils.seqlen_balancing:rearrange_micro_batches": [
        "num_micro_batches = roundup_divisible(num_micro_batches, num_batches_divided_by)",
    ],
    "verl.experimental.agent_loop.agent_loop:AgentLoopBase.__init__": [
        'self.data_config.get("apply_chat_template_kwargs", {})',
        "create_continuous_token_builder(",  # ours renders a teacher's prompt alike
    ],
    "verl.experimental.agent_loop.tool_agent_loop:ToolAgentLoop.__init__": [
        "tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)",
    ],
    "verl.experimental.reward_loop.reward_manager.naive:NaiveRewardManager.run_single": [
        "reward_extra_info[key] = value",  # feedback beside the score
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_reward_colocate": [
        'fields = ["prompts", "responses", "raw_prompt"]',  # the chat reaches the queue
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._setup": [
        "if self.use_reference_policy and not self.ref_in_actor:",  # which we switch on
        # The first policy is in the engine, and the servers give their memory back: base scores.
        "self.checkpoint_manager.sleep_replicas()\n        self._load_checkpoint()",
    ],
    "verl.utils.tracking:FileLogger.__init__": ['os.getenv("VERL_FILE_LOGGER_PATH"'],
    # How a worker's Python is started, by a program of ours: platforms/fork_server.
    "ray._private.runtime_env.context:RuntimeEnvContext.exec_worker": [
        'executable = ["exec", self.py_executable]',
    ],
    "ray._private.authentication.authentication_token_setup:_enable_token_auth": [
        'Config.initialize("")',  # has Ray read its environment anew
    ],
    "verl.trainer.main_ppo:run_ppo": [
        "default_runtime_env = get_ppo_ray_runtime_env(config)",
        '["TRANSFER_QUEUE_ENABLE"] = "1"',
        "runtime_env = OmegaConf.merge(default_runtime_env, runtime_env_kwargs)",
    ],
    "ray._private.worker:print_worker_logs": ["if not _worker_logs_enabled:"],
}


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
    """Masks move at its end, and their state must hold it."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    fit = inspect.getsource(PPOTrainer.fit)
    assert fit.index("self.step(metrics") < fit.index("self._save_checkpoint()")


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
