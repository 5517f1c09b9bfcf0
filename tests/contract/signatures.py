"""Functions that we call or override, with their first parameters in order."""

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
