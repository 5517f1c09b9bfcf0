"""Lines we count on inside functions, with what breaks when they go."""

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
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.fit": [
        # Read anew after a step, which may be the one that ends the run.
        "and self.global_steps <= self.total_training_steps:",
        "is_last_step or self.global_steps % self.config.trainer.save_freq == 0",
        "is_last_step or self.global_steps % self.config.trainer.test_freq == 0",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._step_once": [
        # The actor's masks are written between the two.
        "batch = self._update_critic(batch, metrics=metrics)\n\n        # 9. update actor",
    ],
    "verl.trainer.ppo.v1.trainer_separate_async:PPOTrainerSeparateAsync.get_llm_client": [
        "self.standalone_server_manager.get_client(",  # the servers that sample, and judge
    ],
    "verl.trainer.ppo.v1.trainer_separate_async:PPOTrainerSeparateAsync.switch_to_trainer": [
        "self.checkpoint_manager.sleep_replicas()",  # why those of llm_server_manager do not
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
