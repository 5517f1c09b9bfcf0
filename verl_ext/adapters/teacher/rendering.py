"""Chats as token ids, exactly as verl's agent loops render them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.tools.tool_registry import load_all_tools
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.import_utils import resolve_config_path
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from verl_ext.adapters.errors import SettingsError

Chat = Sequence[Mapping[str, Any]]
Tools = list[dict[str, Any]]


class Renderer:
    """The run's chat template, with or without the run's tools.

    Args:
        config: verl's whole configuration.
        tokenizer: the run's.
        processor: the run's, None for a model of text alone.
    """

    def __init__(self, config: DictConfig, tokenizer: Any, processor: Any) -> None:
        self.config, self.tokenizer, self.processor = config, tokenizer, processor

    def __call__(self, chat: Chat, tools: Tools | None) -> list[int]:
        """The prompt's ids, the header that opens the answer included."""
        messages = [dict(message) for message in chat]
        ids: list[int] = self._builder.build_initial_tokens(messages, tools=tools)
        return ids

    def tools_of(self, chat: Chat, prompt_ids: Sequence[int]) -> Tools | None:
        """Which tools a row's prompt speaks of, so that the teacher's speaks of the same.

        Args:
            chat: the row's.
            prompt_ids: what the row's response continues.

        Raises:
            SettingsError: neither with all tools nor without does the template give that prompt.
        """
        candidates: list[Tools | None] = [None] + ([self._tools] if self._tools else [])
        for tools in candidates:
            if self(chat, tools) == list(prompt_ids):
                return tools
        raise SettingsError(
            "algorithm.verl_ext.teacher: a response continues another prompt than the chat "
            "template makes of the data set's chat, so a prompt with hints would not be the "
            "policy's own with hints. Was it cut? Add: data.filter_overlong_prompts=true. Does an "
            "agent loop rewrite it, or give each row tools of its own? Add: actor_rollout_ref."
            "rollout.agent.default_agent_loop=single_turn_agent, or another model as the teacher: "
            "algorithm.adv_estimator=verl_ext.opd algorithm.verl_ext.teacher.source=ref"
        )

    @cached_property
    def _builder(self) -> Any:
        model = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        kind = getattr(model.hf_config, "model_type", None)
        given = self.config.data.get("apply_chat_template_kwargs") or {}
        template: Any = OmegaConf.to_container(OmegaConf.create(given))
        return create_continuous_token_builder(
            self.tokenizer,
            hf_model_type=kind if isinstance(kind, str) else None,
            chat_template_kwargs=template,
            processor=self.processor,
        )

    @cached_property
    def _tools(self) -> Tools:
        """The run's tools as the chat template is told of them."""
        turns = self.config.actor_rollout_ref.rollout.get("multi_turn") or {}
        paths = {
            name: resolve_config_path(path) if (path := turns.get(name)) else None
            for name in ("tool_config_path", "function_tool_path")
        }
        if not any(paths.values()):
            return []
        return [
            tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)
            for tool in load_all_tools(**paths)
        ]
