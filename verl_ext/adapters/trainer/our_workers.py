"""Asks for our rollout workers in the configuration, where a concern of theirs is wanted."""

from omegaconf import DictConfig, open_dict

from verl_ext.adapters.errors import SettingsError

# By name: the module imports verl's agent loops, which come to import the trainers.
MANAGER = "verl_ext.adapters.rollout.workers.RolloutManager"


def choose(config: DictConfig, purpose: str) -> None:
    """Puts our manager in the place of verl's.

    Args:
        config: verl's whole configuration.
        purpose: what asks for it and why, a sentence without its end.

    Raises:
        SettingsError: a manager of somebody else's is asked for.
    """
    agent = config.actor_rollout_ref.rollout.agent
    chosen = agent.get("agent_loop_manager_class")
    if chosen not in (None, MANAGER):
        raise SettingsError(
            f"{purpose}, in an agent-loop manager of verl-ext's, and {chosen} is asked for. "
            "Add: actor_rollout_ref.rollout.agent.agent_loop_manager_class=null, or a stock "
            "trainer: trainer.v1.trainer_mode=sync"
        )
    with open_dict(config):
        agent.agent_loop_manager_class = MANAGER
